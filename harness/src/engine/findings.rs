//! Findings in a scenario: reads what they are derived from, holds them against what the scenario
//! names, and explains a failure by them.

use std::collections::BTreeSet;

use super::ask::Answers;
use super::checks::Held;
use super::failure::{Failure, NAS_RESET};
use super::run::Runner;
use crate::event::EventKind;
use crate::finding::{self, FactBook, Finding, HOST_PROBES, Incident, RunContext};
use crate::plan::Key;
use crate::probe::kernel_log::PciIdentity;
use crate::probe::pci::PciFacts;
use crate::probe::{self, Facts, Probe};
use crate::scenario::{Action, ExpectedFindings, FailureKind};

/// The name of the check, as reports call it.
const CHECK: &str = "findings";

/// What a scenario remembers for the case that its host cannot be asked any more.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The PCI devices of the first time that they were read.
    earlier_devices: Vec<PciIdentity>,
    /// All facts, from before the move that the scenario expects not to be survived.
    before: Option<FactBook>,
}

/// What is known of a machine's facts before it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// What this very machine has said at the checkpoint that it went on from.
    OnRecord,
    /// Nothing, but what was read just now.
    Nothing,
}

impl Memory {
    /// Takes note of facts that were read.
    pub(super) fn note(&mut self, facts: &Facts) {
        if let (Facts::Pci(PciFacts { devices }), true) = (facts, self.earlier_devices.is_empty()) {
            let identity = |one: &probe::pci::PciDevice| PciIdentity {
                address: one.address,
                vendor: one.vendor.clone(),
                device: one.device.clone(),
                class: one.class.clone(),
            };
            self.earlier_devices = devices.iter().map(identity).collect();
        }
    }
}

impl Runner<'_> {
    /// Before a move that a scenario is about not to survive, while there is somebody to ask.
    pub(super) async fn remember(&mut self, action: &Action) {
        let lost = [FailureKind::Boot, FailureKind::Crash, FailureKind::Timeout];
        let failure = self.scenario.failure.as_ref();
        let about = failure.is_some_and(|failure| lost.contains(&failure.kind));
        let dangerous = matches!(
            action,
            Action::Reboot
                | Action::Start(_)
                | Action::PowerCut
                | Action::CutDuring(_)
                | Action::Unplug(_)
                | Action::WaitFor(_)
        );
        if about && dangerous && self.scenario.findings.is_some() {
            let book = self.book(None, Known::Nothing).await;
            self.memory.before = Some(book);
        }
    }

    /// Whether anybody wants to know what is found at the scenario's end.
    pub(super) fn wants_findings(&self) -> bool {
        self.scenario.findings.is_some() || self.observed.is_some()
    }

    /// Holds the findings at the end of a scenario against those that it names.
    pub(super) async fn check_findings(&mut self, key: &Key) -> Result<(), Box<Failure>> {
        if !self.wants_findings() {
            return Ok(());
        }
        let mut run = self.context(None);
        let console = self.machine.iter().flat_map(|one| one.console().tail());
        run.console = console.collect();
        run.nas_console = self.keep_nas_console().await.unwrap_or_default();
        for known in [Known::OnRecord, Known::Nothing] {
            let mut book = self.book(Some(key), known).await;
            book.run = Some(run.clone());
            let findings = finding::derive(&book);
            self.keep_book(&book);
            let Some(expected) = &self.scenario.findings else {
                break;
            };
            match judge(expected, &book, findings) {
                Ok(held) => {
                    self.tell(held);
                    break;
                }
                // Of what is on record, an answer may have been of a moment only.
                Err(_) if known == Known::OnRecord && self.stands_at.is_some() => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Explains a failure. The one that a scenario is about has to have the named findings too, else it is
    /// another failure.
    pub(super) async fn explain(&mut self, mut failure: Box<Failure>) -> Box<Failure> {
        let expected = self.scenario.findings.as_ref();
        let meant = self
            .scenario
            .failure
            .as_ref()
            .is_some_and(|meant| failure.is(meant));
        if failure.check.as_deref() == Some(CHECK) || (meant && expected.is_none()) {
            return failure;
        }
        let gone = match failure.kind {
            FailureKind::Boot | FailureKind::Crash => !failure.is_reset_of_nas(),
            // One question is enough: each of the probes would wait as long.
            FailureKind::Timeout => !self.host_answers().await,
            _ => false,
        };
        let key = self.failed_at.take();
        let mut book = match gone {
            true => self.memory.before.take().unwrap_or_default(),
            false => self.book(key.as_ref(), Known::OnRecord).await,
        };
        book.run = Some(self.context(Some(&failure)));
        failure.findings = finding::derive(&book);
        self.keep_book(&book);
        let Some(expected) = expected.filter(|_| meant) else {
            return failure;
        };
        let mut judged = judge(expected, &book, failure.findings.clone());
        if judged.is_err() && !gone && self.stands_at.is_some() {
            // As at the end: what is on record may have been of a moment only.
            let run = book.run.take();
            book = self.book(key.as_ref(), Known::Nothing).await;
            book.run = run;
            failure.findings = finding::derive(&book);
            self.keep_book(&book);
            judged = judge(expected, &book, failure.findings.clone());
        }
        match judged {
            Ok(held) => {
                self.tell(held);
                failure
            }
            Err(mut other) => {
                let Failure {
                    step,
                    title,
                    console,
                    nas_console,
                    message,
                    ..
                } = *failure;
                other.message = format!("{message}; and {}", other.message);
                (other.step, other.title) = (step, title);
                (other.console, other.nas_console) = (console, nas_console);
                other
            }
        }
    }

    fn tell(&self, held: Held) {
        self.session.events().emit(EventKind::CheckHeld {
            scenario: self.scenario.name.clone(),
            check: held.check.to_owned(),
            seen: held.seen,
        });
    }

    /// All facts of this moment: those that were read already, those that are known, and the rest from the guests. A
    /// guest that does not answer leaves the rest unread.
    async fn book(&mut self, key: Option<&Key>, known: Known) -> FactBook {
        let mut book = FactBook::of(self.facts.values().cloned());
        let mut probes = self.finding_probes();
        probes.retain(|probe| !self.facts.contains_key(probe));
        let recorded = key.filter(|_| known == Known::OnRecord);
        let (known, probes) = self.on_record(recorded, probes).await;
        for (probe, answer) in known {
            drop(book.take(probe, answer));
        }
        let Some(machine) = self.machine.as_ref().filter(|_| !probes.is_empty()) else {
            return book;
        };
        let limit = self.session.ground.deadlines().command;
        let key = key.filter(|_| self.goes_by_records());
        let answers = Answers::default();
        let asked = self.ask(machine, &probes, key, &answers);
        let trouble = machine.watched("the facts", limit, asked).await.err();
        for (probe, answer) in answers.in_order_of(&probes) {
            drop(book.take(probe, answer));
        }
        if let Some(error) = trouble {
            let unread = |probe: &Probe| !book.facts.probes().contains(probe);
            let unread: Vec<Probe> = probes.into_iter().filter(unread).collect();
            for probe in unread {
                let why = book.unreadable.entry(probe);
                why.or_insert_with(|| error.to_string());
            }
        }
        book
    }

    async fn host_answers(&self) -> bool {
        match self.answering() {
            Some(machine) => machine.agent().ping().await.is_ok(),
            None => false,
        }
    }

    fn context(&self, failure: Option<&Failure>) -> RunContext {
        let start = failure.filter(|failure| failure.kind == FailureKind::Start);
        RunContext {
            failure: failure.map(|failure| failure.kind),
            message: failure.map(|failure| failure.message.clone()),
            start_words: start.map(|failure| failure.message.clone()),
            incidents: failure
                .map(|failure| incidents(&failure.message))
                .unwrap_or_default(),
            console: failure
                .map(|failure| failure.console.clone())
                .unwrap_or_default(),
            nas_console: failure
                .map(|failure| failure.nas_console.clone())
                .unwrap_or_default(),
            earlier_devices: self.memory.earlier_devices.clone(),
        }
    }
}

/// What happened to the machines, from the words of the watch over it.
fn incidents(message: &str) -> Vec<Incident> {
    let inside = |before: &str| {
        let rest = message.split_once(before)?.1;
        Some(rest.split_once(')')?.0.to_owned())
    };
    let watchdog = inside("the host's watchdog fired (action ");
    let panicked = message.contains("the host's kernel panicked");
    [
        watchdog.map(|action| Incident::Watchdog { action }),
        inside("the host was reset (").map(|reason| Incident::Reset { reason }),
        inside("the host shut down (").map(|reason| Incident::Shutdown { reason }),
        panicked.then(|| Incident::Panicked {
            action: "unknown".to_owned(),
        }),
        message.contains(NAS_RESET).then_some(Incident::NasReset),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Exactly the named errors and warnings; a note counts where it is named. What could not be read of the
/// host might have proven something, so that nothing found is then no answer.
fn judge(
    expected: &ExpectedFindings,
    book: &FactBook,
    findings: Vec<Finding>,
) -> Result<Held, Box<Failure>> {
    let unread = HOST_PROBES.iter().find_map(|probe| {
        let why = book.unreadable.get(probe)?;
        Some(format!("that `{probe}` could not be read: {why}"))
    });
    let nothing = book.facts.probes().is_empty() && findings.is_empty();
    let nothing = nothing.then(|| "that nothing could be read".to_owned());
    if let Some(seen) = unread.or(nothing) {
        return Err(Failure::check(CHECK, "the facts of the host", seen));
    }
    let list = |ids: &BTreeSet<&str>| match ids.len() {
        0 => "no errors and warnings".to_owned(),
        _ => ids.iter().copied().collect::<Vec<_>>().join(", "),
    };
    let text = list(&expected.count(&findings));
    let (missing, surplus) = expected.differences(&findings);
    if missing.is_empty() && surplus.is_empty() {
        return Ok(Held {
            check: CHECK,
            seen: text,
        });
    }
    let wanted = expected.named.iter().map(String::as_str).collect();
    let mut failure = Failure::check(CHECK, list(&wanted), text);
    failure.findings = findings;
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Reference, Severity};

    fn expect(named: &[&str], possible: &[&str]) -> ExpectedFindings {
        let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        ExpectedFindings {
            named: owned(named),
            possible: owned(possible),
        }
    }

    fn read() -> FactBook {
        let cmdline = probe::cmdline::parse("quiet\n").unwrap();
        FactBook::of([Facts::Cmdline(cmdline)])
    }

    fn found(id: &'static str, severity: Severity) -> Finding {
        Finding {
            id,
            severity,
            cause: String::new(),
            proof: Vec::new(),
            fix: Vec::new(),
            reference: Reference { title: "", url: "" },
        }
    }

    #[test]
    fn errors_and_warnings_are_named_exactly_and_notes_if_one_likes() {
        let findings = || {
            vec![
                found("a", Severity::Error),
                found("b", Severity::Warning),
                found("c", Severity::Note),
            ]
        };
        for (named, possible, holds) in [
            (&["a", "b"][..], &[][..], true),
            (&["b", "a", "c"], &[], true),
            (&["a"], &[], false),
            (&["a", "b", "d"], &[], false),
            (&[], &[], false),
            (&["a"], &["b"], true),
            (&["a", "b"], &["d"], true),
            (&["a"], &["c", "d"], false),
            (&["a", "d"], &["b"], false),
        ] {
            let expected = expect(named, possible);
            let judged = judge(&expected, &read(), findings());
            assert_eq!(judged.is_ok(), holds, "{expected:?}");
            if let Err(failure) = judged {
                assert_eq!(failure.check.as_deref(), Some("findings"));
                assert_eq!(failure.findings.len(), 3);
            }
        }
        assert!(judge(&expect(&[], &[]), &read(), vec![found("c", Severity::Note)]).is_ok());
    }

    #[test]
    fn nothing_found_where_nothing_was_read_is_no_answer() {
        let mut book = read();
        book.unreadable
            .insert(Probe::Initramfs, "no such file".to_owned());
        let failure = judge(&expect(&[], &[]), &book, Vec::new()).unwrap_err();
        assert!(
            failure
                .message
                .contains("`initramfs` could not be read: no such file")
        );
        // The guest may be off.
        let mut book = read();
        book.unreadable
            .insert(Probe::Smart, "no such guest".to_owned());
        assert!(judge(&expect(&[], &[]), &book, Vec::new()).is_ok());

        assert!(judge(&expect(&[], &[]), &FactBook::default(), Vec::new()).is_err());
        // A console alone can prove something too.
        let panicked = vec![found("host-panicked", Severity::Error)];
        let expected = expect(&["host-panicked"], &[]);
        assert!(judge(&expected, &FactBook::default(), panicked).is_ok());
    }

    #[test]
    fn incidents_are_read_from_the_watchs_words() {
        let watchdog =
            "the host's watchdog fired (action reset) while the lab waited for VM 100 to come up";
        assert_eq!(
            incidents(watchdog),
            [Incident::Watchdog {
                action: "reset".to_owned()
            }]
        );
        let reset = "the host was reset (guest-reset) while the lab waited for the facts";
        assert!(matches!(incidents(reset)[..], [Incident::Reset { .. }]));
        assert!(incidents("`qm start 100` ended with exit code 255").is_empty());
    }
}
