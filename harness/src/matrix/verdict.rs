//! What an outcome says of what was left out: a pure function of it and of the write-up's own.

use std::collections::BTreeMap;
use std::fmt;

use super::outcome::{Fact, Outcome, Stop};
use crate::finding::Severity;

/// What becomes of the write-up without an ingredient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display, strum::EnumIter)]
#[strum(serialize_all = "lowercase")]
pub enum Verdict {
    /// With it the NAS has its disks, without it not.
    Needed,
    /// Nothing that was recorded differs.
    Superfluous,
    /// The NAS has its disks without it too, and something else differs.
    Matters,
    /// Without it the NAS has its disks and with it not; or nothing differs but that a complaint is gone.
    Harmful,
    /// The NAS does not get its disks, with it or without.
    #[strum(serialize = "fails either way")]
    FailsEitherWay,
}

impl Verdict {
    /// What the word means, as half a sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Verdict::Needed => "without it the NAS does not get its disks",
            Verdict::Superfluous => "without it nothing that was recorded differs",
            Verdict::Matters => "the NAS has its disks without it too, and something else differs",
            Verdict::Harmful => {
                "only without it the NAS gets its disks, or nothing differs but that a complaint is gone"
            }
            Verdict::FailsEitherWay => "the NAS does not get its disks with it or without",
        }
    }
}

/// A fact that is another one without an ingredient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which.
    pub fact: Fact,
    /// What it is in the write-up's own outcome, if it is there.
    pub with: Option<String>,
    /// What it is without the ingredient, if it is there.
    pub without: Option<String>,
}

/// A verdict, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// In one sentence; none where nothing differs.
    pub reason: Option<String>,
}

/// Judges what was left out by the write-up's own outcome, `base`, and the one without it.
pub fn judge(base: &Outcome, dropped: &Outcome) -> Judgement {
    let differences = differences(base, dropped);
    let told = differences.iter().filter(|one| one.fact != Fact::End);
    let told: Vec<String> = told.map(Difference::to_string).collect();
    let (verdict, parts) = match (&base.failure, &dropped.failure) {
        (None, Some(stop)) => (Verdict::Needed, vec![why(stop, dropped)]),
        (Some(stop), None) => (
            Verdict::Harmful,
            vec![format!("with it {}", why(stop, base))],
        ),
        (Some(with), Some(without)) => {
            let mut parts = vec![why(with, base)];
            if with != without {
                parts.push(format!("without it {}", why(without, dropped)));
            }
            // Findings of a failure are in its words already.
            let other = |one: &&Difference| !matches!(one.fact, Fact::End | Fact::Finding(_));
            parts.extend(differences.iter().filter(other).map(Difference::to_string));
            (Verdict::FailsEitherWay, parts)
        }
        (None, None) if differences.is_empty() => (Verdict::Superfluous, Vec::new()),
        (None, None) if only_ends_complaints(&differences) => (Verdict::Harmful, told),
        (None, None) => (Verdict::Matters, told),
    };
    Judgement {
        verdict,
        reason: (!parts.is_empty()).then(|| parts.join("; ")),
    }
}

/// Everything in which an outcome differs from the write-up's own.
pub fn differences(base: &Outcome, dropped: &Outcome) -> Vec<Difference> {
    let (with, without) = (base.facts(), dropped.facts());
    let mut facts: Vec<&Fact> = with.keys().chain(without.keys()).collect();
    facts.sort();
    facts.dedup();
    facts
        .into_iter()
        .map(|fact| Difference {
            fact: fact.clone(),
            with: with.get(fact).cloned(),
            without: without.get(fact).cloned(),
        })
        .filter(|one| one.with != one.without)
        .collect()
}

/// Whether ingredients that were left out together do something that none of them does alone: a fact
/// changed that does not change without one of them, or to something else, or stayed that does.
pub fn interact(base: &Outcome, alone: &[&Outcome], together: &Outcome) -> bool {
    let changes = |one: &Outcome| -> BTreeMap<Fact, Option<String>> {
        let all = differences(base, one).into_iter();
        all.map(|one| (one.fact, one.without)).collect()
    };
    let alone: Vec<_> = alone.iter().map(|one| changes(one)).collect();
    let together = changes(together);
    let known = |(fact, value)| alone.iter().any(|one| one.get(fact) == Some(value));
    let lost = |fact: &Fact| !together.contains_key(fact);
    !together.iter().all(known) || alone.iter().flat_map(BTreeMap::keys).any(lost)
}

/// How it failed, and the named causes.
pub(super) fn why(stop: &Stop, outcome: &Outcome) -> String {
    let causes = outcome.findings.iter();
    let causes = causes.filter(|(_, severity)| **severity > Severity::Note);
    let causes: Vec<String> = causes.map(|(id, _)| format!("`{id}`")).collect();
    match causes.as_slice() {
        [] => stop.to_string(),
        list => format!("{stop} (findings: {})", list.join(", ")),
    }
}

/// Whether all that differs is that complaints are gone, or notes with them.
fn only_ends_complaints(differences: &[Difference]) -> bool {
    let is_complaint = |one: &Difference| match &one.fact {
        Fact::ModuleFailed(_) | Fact::Complaint(_) => true,
        Fact::Finding(_) => one.with.as_deref() != Some(Severity::Note.to_string().as_str()),
        _ => false,
    };
    let is_words = |one: &Difference| is_complaint(one) || matches!(one.fact, Fact::Finding(_));
    differences.iter().any(is_complaint)
        && differences
            .iter()
            .all(|one| one.without.is_none() && is_words(one))
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |side: &Option<String>| match side.as_deref() {
            None | Some("none") => "nothing".to_owned(),
            Some(text) => text.to_owned(),
        };
        let (with, without) = (word(&self.with), word(&self.without));
        let gone = self.without.is_none();
        match &self.fact {
            Fact::End => write!(f, "it ends with {without} in place of {with}"),
            Fact::Iommu => write!(f, "the host's IOMMU is {without} in place of {with}"),
            Fact::Domains => write!(
                f,
                "the IOMMU's domains of the devices that the host keeps are {without} in place of {with}"
            ),
            Fact::HostDisks if gone => {
                f.write_str("the host does not see the disks before the VM starts")
            }
            Fact::HostDisks if self.with.is_none() => {
                write!(f, "the host sees the disks until the VM starts ({without})")
            }
            Fact::HostDisks => write!(
                f,
                "the host sees the disks {without} in place of {with} until the VM starts"
            ),
            Fact::DriverBefore => write!(
                f,
                "until the VM starts {without} holds the controller, in place of {with}"
            ),
            Fact::DriverAfter => write!(
                f,
                "at the end {without} holds the controller, in place of {with}"
            ),
            Fact::ModuleFailed(module) if gone => {
                write!(f, "no message at boot that the module `{module}` is {with}")
            }
            Fact::ModuleFailed(module) => {
                write!(
                    f,
                    "a message at boot that the module `{module}` is {without}"
                )
            }
            Fact::Complaint(words) if gone => write!(f, "`qm` does not say \"{words}\""),
            Fact::Complaint(words) => write!(f, "`qm` says \"{words}\""),
            Fact::Finding(id) if gone => write!(f, "no finding `{id}`"),
            Fact::Finding(id) => write!(f, "finding `{id}`, of severity {without}"),
            Fact::Unread(probe) if gone => write!(f, "`{probe}` could be read"),
            Fact::Unread(probe) => write!(f, "`{probe}` could not be read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ahci_first, changed, fails, works};
    use super::*;

    #[test]
    fn a_verdict_is_of_both_outcomes() {
        let silent = changed(|before| before.modules_failed.clear());
        let mut quiet = silent.clone();
        quiet.findings.clear();
        for (base, dropped, verdict) in [
            (works(), works(), Verdict::Superfluous),
            (works(), fails("no"), Verdict::Needed),
            (fails("no"), works(), Verdict::Harmful),
            (fails("no"), fails("no"), Verdict::FailsEitherWay),
            (fails("no"), fails("neither"), Verdict::FailsEitherWay),
            (works(), ahci_first(), Verdict::Matters),
            (ahci_first(), works(), Verdict::Matters),
            // A message less, and the note about it.
            (works(), silent, Verdict::Harmful),
            (works(), quiet, Verdict::Harmful),
        ] {
            assert_eq!(
                judge(&base, &dropped).verdict,
                verdict,
                "{base:?} {dropped:?}"
            );
        }
    }

    #[test]
    fn a_complaint_that_goes_is_no_harm_where_something_else_differs() {
        let mut other = ahci_first();
        if let Some(before) = &mut other.before {
            before.modules_failed.clear();
        }
        assert_eq!(judge(&works(), &other).verdict, Verdict::Matters);
        // A note alone is no complaint; a warning is.
        let mut without = works();
        without.findings.clear();
        assert_eq!(judge(&works(), &without).verdict, Verdict::Matters);
        let mut warned = without.clone();
        warned.findings.insert("reboot-pending", Severity::Warning);
        assert_eq!(judge(&warned, &without).verdict, Verdict::Harmful);
        assert_eq!(judge(&without, &warned).verdict, Verdict::Matters);
    }

    #[test]
    fn a_reason_names_the_step_the_words_the_causes_and_the_facts() {
        let reason = |base: &Outcome, dropped: &Outcome| judge(base, dropped).reason;
        assert_eq!(reason(&works(), &works()), None);
        let mut refused = fails("IOMMU not present");
        refused.findings.insert("vt-d-off", Severity::Error);
        assert_eq!(
            reason(&works(), &refused).unwrap(),
            "\"Start the NAS\" fails: IOMMU not present (findings: `vt-d-off`)"
        );
        let other = fails("no such disk");
        assert_eq!(
            reason(&refused, &other).unwrap(),
            "\"Start the NAS\" fails: IOMMU not present (findings: `vt-d-off`); \
             without it \"Start the NAS\" fails: no such disk"
        );
        assert_eq!(
            reason(&works(), &ahci_first()).unwrap(),
            "the host sees the disks until the VM starts (ONE, TWO); \
             until the VM starts ahci holds the controller, in place of nothing"
        );
    }

    #[test]
    fn together_is_more_than_each_alone_only_where_a_fact_says_so() {
        let silent = changed(|before| before.modules_failed.clear());
        let mut both = ahci_first();
        if let Some(before) = &mut both.before {
            before.modules_failed.clear();
        }
        let (base, first) = (works(), ahci_first());
        assert!(!interact(&base, &[&base, &base], &base));
        assert!(!interact(&base, &[&first, &first], &first));
        assert!(!interact(&base, &[&first, &silent], &both));
        // One undoes what the other does.
        assert!(interact(&base, &[&first, &silent], &base));
        assert!(interact(&base, &[&first, &silent], &first));
        // Only both break it.
        assert!(interact(&base, &[&base, &base], &fails("no")));
        assert!(interact(&base, &[&first, &base], &fails("no")));
    }
}
