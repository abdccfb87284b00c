//! How a step failed, and whether that is the failure a scenario is about.

use serde::Serialize;

use crate::finding::Finding;
use crate::guest::GuestError;
use crate::machine::{BootFailure, MachineError};
use crate::scenario::{ExpectedFailure, FailureKind};

/// What the message of a failure begins with when the NAS was reset.
pub(super) const NAS_RESET: &str = "the NAS was reset";

/// What a kernel writes last.
pub(super) const PANIC: &str = "Kernel panic - not syncing";

/// A step that failed.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// In which way.
    pub kind: FailureKind,
    /// The check that did not hold, such as `nas.disks`.
    pub check: Option<String>,
    /// The step's number, from 1; one more than there are for the closing expectations.
    pub step: usize,
    /// The step's title.
    pub title: String,
    /// What happened.
    pub message: String,
    /// What was expected, where that can be said apart.
    pub expected: Option<String>,
    /// What was seen instead.
    pub seen: Option<String>,
    /// The last lines of the host's console.
    pub console: Vec<String>,
    /// The last lines of the NAS guest's console.
    pub nas_console: Vec<String>,
    /// What the facts prove, the worst first.
    pub findings: Vec<Finding>,
}

impl Failure {
    /// A failure whose step and consoles the engine fills in.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Failure {
            kind,
            check: None,
            step: 0,
            title: String::new(),
            message: message.into(),
            expected: None,
            seen: None,
            console: Vec::new(),
            nas_console: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// A check that did not hold.
    pub(super) fn check(
        check: &str,
        expected: impl Into<String>,
        seen: impl Into<String>,
    ) -> Box<Self> {
        let (expected, seen) = (expected.into(), seen.into());
        Box::new(Failure {
            check: Some(check.to_owned()),
            expected: Some(expected.clone()),
            seen: Some(seen.clone()),
            ..Failure::new(
                FailureKind::Check,
                format!("{check} does not hold: expected {expected}, saw {seen}"),
            )
        })
    }

    /// A NAS that does not answer any more because its kernel panicked is named so. Tells whether that was it.
    pub(super) fn name_panic(&mut self) -> bool {
        let lost = matches!(
            self.kind,
            FailureKind::Crash | FailureKind::Timeout | FailureKind::Command
        );
        let line = self.nas_console.iter().find(|line| line.contains(PANIC));
        let Some(line) = line.filter(|_| lost) else {
            return false;
        };
        self.message = format!(
            "the console of the NAS shows `{}`: {}",
            line.trim(),
            self.message
        );
        self.kind = FailureKind::Crash;
        true
    }

    /// The NAS has another boot id than when it came up.
    pub(super) fn reset_of_nas() -> Self {
        let message =
            format!("{NAS_RESET}, and nobody had asked for it: its kernel has another boot id");
        Failure::new(FailureKind::Crash, message)
    }

    /// Whether the NAS was reset. The host is there and can be asked.
    pub(super) fn is_reset_of_nas(&self) -> bool {
        self.message.contains(NAS_RESET)
    }

    /// Whether this is the failure that a scenario is about.
    pub fn is(&self, expected: &ExpectedFailure) -> bool {
        self.kind == expected.kind
            && expected
                .check
                .as_ref()
                .is_none_or(|check| self.check.as_ref() == Some(check))
            && expected
                .contains
                .iter()
                .all(|part| self.message.contains(part))
    }
}

/// Why a step did not succeed.
#[derive(Debug)]
pub(super) enum StepError {
    /// The procedure failed.
    Failed(Box<Failure>),
    /// The lab failed: this says nothing about the procedure.
    SetUp(String),
}

impl From<Box<Failure>> for StepError {
    fn from(failure: Box<Failure>) -> Self {
        StepError::Failed(failure)
    }
}

impl From<Failure> for StepError {
    fn from(failure: Failure) -> Self {
        StepError::Failed(Box::new(failure))
    }
}

impl From<MachineError> for StepError {
    fn from(error: MachineError) -> Self {
        let kind = match &error {
            MachineError::Process(_)
            | MachineError::SetUp { .. }
            | MachineError::Lab { .. }
            | MachineError::State { .. }
            | MachineError::Qmp(_) => {
                return StepError::SetUp(chain(&error));
            }
            // Killed, for want of memory say, or crashed: no guest can do that.
            MachineError::Exited { status, .. } if !status.success() => {
                return StepError::SetUp(chain(&error));
            }
            MachineError::Guest(GuestError::Failed { .. } | GuestError::Refused { .. }) => {
                FailureKind::Command
            }
            MachineError::Guest(GuestError::Timeout { .. }) | MachineError::TimedOut(_) => {
                FailureKind::Timeout
            }
            MachineError::Guest(GuestError::Broken { .. })
            | MachineError::Exited { .. }
            | MachineError::Incident { .. } => FailureKind::Crash,
            MachineError::Fatal { .. } | MachineError::SameBoot(_) => FailureKind::Boot,
        };
        Failure::new(kind, chain(&error)).into()
    }
}

impl From<Box<BootFailure>> for StepError {
    fn from(failure: Box<BootFailure>) -> Self {
        match StepError::from(failure.error) {
            StepError::Failed(mut failed) => {
                failed.console = failure.console;
                StepError::Failed(failed)
            }
            other => other,
        }
    }
}

/// An error and all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(check: Option<&str>, contains: &[&str]) -> ExpectedFailure {
        ExpectedFailure {
            kind: FailureKind::Check,
            check: check.map(str::to_owned),
            contains: contains.iter().map(|part| (*part).to_owned()).collect(),
        }
    }

    #[test]
    fn a_panic_of_the_nas_is_named() {
        let mut failure = Failure::new(FailureKind::Timeout, "no answer");
        assert!(!failure.name_panic());
        assert_eq!(failure.kind, FailureKind::Timeout);
        failure.nas_console = vec!["[ 9.1] Kernel panic - not syncing: sysrq".to_owned()];
        assert!(failure.name_panic());
        assert_eq!(failure.kind, FailureKind::Crash);
        assert!(
            failure.message.ends_with("sysrq`: no answer"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn only_the_failure_that_was_meant_counts() {
        let failure = Failure::check("pve.driver", "none", "ahci");
        assert!(failure.is(&expected(Some("pve.driver"), &["ahci"])));
        assert!(failure.is(&expected(None, &[])));
        assert!(!failure.is(&expected(Some("nas.disks"), &["ahci"])));
        assert!(!failure.is(&expected(Some("pve.driver"), &["vfio-pci"])));
        let crash = Failure::new(FailureKind::Crash, "ahci");
        assert!(!crash.is(&expected(None, &["ahci"])));
    }
}
