//! What one run of the family showed, as the facts that two runs are held against each other by.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::family::CONTROLLER;
use super::record::Record;
use crate::engine::Failure;
use crate::finding::{self, FactSet, Severity, one_line};
use crate::lab::{Iommu, Lab};
use crate::probe::Probe;
use crate::probe::pci::PciFacts;
use crate::scenario::{DriverState, FailureKind};

/// What one run showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outcome {
    /// The first step that failed; none where the NAS has the disks with their identities and SMART.
    pub failure: Option<Stop>,
    /// The host as it was before the VM's start; none where it did not come so far.
    pub before: Option<BeforeStart>,
    /// What held the controller at the end; none where the host could not be asked.
    pub driver_after: Option<DriverState>,
    /// What `qm` complained of when it started the VM.
    pub complaints: BTreeSet<String>,
    /// What the facts of the end prove.
    pub findings: BTreeMap<&'static str, Severity>,
    /// What could not be read at the end.
    pub unread: BTreeSet<Probe>,
}

/// Where a run stopped, and how that shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Stop {
    /// The step's title.
    pub at: String,
    /// In which way it failed.
    pub kind: FailureKind,
    /// The check that did not hold, if it was one.
    pub check: Option<String>,
    /// What happened.
    pub message: String,
}

/// The host before the VM's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BeforeStart {
    /// The IOMMU that `/sys/class/iommu` shows.
    pub iommu: Iommu,
    /// How the IOMMU treats the devices that the host keeps, such as `identity` for untranslated.
    pub domains: BTreeSet<String>,
    /// What holds the controller.
    pub driver: DriverState,
    /// The serial numbers of the lab's disks that the host sees, and could import a pool from.
    pub disks: BTreeSet<String>,
    /// The modules that the last boot was to load and did not, with the reason.
    pub modules_failed: BTreeMap<String, String>,
}

/// What two outcomes are compared in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    /// The step that failed, and what it said.
    End,
    /// The host's IOMMU.
    Iommu,
    /// How the IOMMU treats the host's devices.
    Domains,
    /// The disks that the host sees before the VM starts.
    HostDisks,
    /// What holds the controller before the VM starts.
    DriverBefore,
    /// What holds the controller at the end.
    DriverAfter,
    /// A module that could not be loaded at boot.
    ModuleFailed(String),
    /// A complaint of `qm`.
    Complaint(String),
    /// A finding.
    Finding(&'static str),
    /// A probe that could not be read.
    Unread(Probe),
}

/// How many characters of a failure's message a note quotes.
const QUOTED: usize = 160;

impl Stop {
    /// The place and the way of a failure.
    pub fn of(failure: &Failure) -> Self {
        Stop {
            at: failure.title.clone(),
            kind: failure.kind,
            check: failure.check.clone(),
            message: failure.message.clone(),
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = one_line(&self.message);
        let cut: String = message.chars().take(QUOTED).collect();
        let more = if cut.len() < message.len() { "…" } else { "" };
        write!(f, "\"{}\" fails: {cut}{more}", self.at)
    }
}

impl Outcome {
    /// What a run in this lab showed: understood anew from the facts that were kept of it.
    pub fn of(record: &Record, lab: &Lab) -> Self {
        let book = &record.end;
        Outcome {
            failure: record.failure.clone(),
            before: record
                .before
                .as_ref()
                .and_then(|facts| before_start(facts, lab)),
            driver_after: book.facts.pci.as_ref().and_then(driver),
            complaints: record.start_words.lines().map(str::to_owned).collect(),
            findings: finding::derive(book)
                .iter()
                .map(|one| (one.id, one.severity))
                .collect(),
            unread: book.unreadable.keys().copied().collect(),
        }
    }

    /// Whether the NAS has its disks.
    pub fn works(&self) -> bool {
        self.failure.is_none()
    }

    /// Everything in which two outcomes of one machine can differ. What is not there has no entry.
    pub fn facts(&self) -> BTreeMap<Fact, String> {
        let mut facts = BTreeMap::new();
        if let Some(Stop { at, message, .. }) = &self.failure {
            facts.insert(Fact::End, format!("{at}: {message}"));
        }
        if let Some(before) = &self.before {
            let listed = |set: &BTreeSet<String>| {
                let words: Vec<&str> = set.iter().map(String::as_str).collect();
                words.join(", ")
            };
            facts.insert(Fact::Iommu, before.iommu.to_string());
            facts.insert(Fact::DriverBefore, before.driver.clone().into());
            for (fact, set) in [
                (Fact::Domains, &before.domains),
                (Fact::HostDisks, &before.disks),
            ] {
                if !set.is_empty() {
                    facts.insert(fact, listed(set));
                }
            }
            for (module, reason) in &before.modules_failed {
                facts.insert(Fact::ModuleFailed(module.clone()), reason.clone());
            }
        }
        if let Some(driver) = &self.driver_after {
            facts.insert(Fact::DriverAfter, driver.clone().into());
        }
        for words in &self.complaints {
            facts.insert(Fact::Complaint(words.clone()), words.clone());
        }
        for (id, severity) in &self.findings {
            facts.insert(Fact::Finding(id), severity.to_string());
        }
        for probe in &self.unread {
            facts.insert(Fact::Unread(*probe), "unread".to_owned());
        }
        facts
    }
}

fn driver(pci: &PciFacts) -> Option<DriverState> {
    Some(pci.device(CONTROLLER)?.driver.clone())
}

fn before_start(facts: &FactSet, lab: &Lab) -> Option<BeforeStart> {
    let iommu = facts.iommu.as_ref()?;
    let modules = facts.modules.as_ref()?;
    let disks = facts.host_disks.as_ref()?;
    let domains = iommu.groups.iter().filter_map(|group| group.domain.clone());
    let failed = modules.failed.iter();
    let seen = |serial: &&str| disks.by_serial(serial).is_some();
    Some(BeforeStart {
        iommu: iommu.kind(),
        domains: domains.collect(),
        driver: driver(facts.pci.as_ref()?)?,
        disks: lab
            .disks()
            .map(|disk| disk.serial.as_str())
            .filter(seen)
            .map(str::to_owned)
            .collect(),
        modules_failed: failed
            .map(|one| (one.module.clone(), one.reason.clone()))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, stop};
    use super::*;

    #[test]
    fn an_outcome_is_read_from_the_facts_of_its_run() {
        let (record, lab) = (testing::record(), testing::lab());
        let outcome = Outcome::of(&record, &lab);
        assert!(outcome.works());
        let before = outcome.before.as_ref().unwrap();
        assert_eq!(before.iommu, Iommu::Intel);
        assert_eq!(before.driver, DriverState::Bound("ahci".to_owned()));
        assert_eq!(Vec::from_iter(&before.disks), ["ONE", "TWO"]);
        assert_eq!(Vec::from_iter(&before.domains), ["identity"]);
        assert_eq!(before.modules_failed["vfio_virqfd"], "not found");
        let vfio = DriverState::Bound("vfio-pci".to_owned());
        assert_eq!(outcome.driver_after, Some(vfio));
        assert_eq!(Vec::from_iter(&outcome.complaints), ["vm 100 - a word"]);
        // Derived from the facts of the end, which have the same modules.
        assert!(outcome.findings.contains_key("vfio-virqfd-gone"));
        assert_eq!(outcome.facts()[&Fact::HostDisks], "ONE, TWO");
    }

    #[test]
    fn a_run_that_did_not_come_to_the_vm_has_no_facts_from_before_its_start() {
        let mut record = testing::record();
        record.before = None;
        record.failure = Some(stop("Reboot", "no"));
        record.end = finding::FactBook::default();
        let outcome = Outcome::of(&record, &testing::lab());
        assert!(!outcome.works());
        assert_eq!(outcome.before, None);
        assert_eq!(outcome.driver_after, None);
    }

    #[test]
    fn a_long_message_is_cut() {
        let text = stop("Start", &"ä\n".repeat(200)).to_string();
        assert!(text.starts_with("\"Start\" fails: ä; ä"), "{text}");
        assert!(text.ends_with('…') && text.chars().count() < 180, "{text}");
    }
}
