//! A scenario whose guests the emulation failed is tried again.
//!
//! QEMU's emulation of nested virtualization is known to lose a guest now and then: it falls silent, or is reset, and nobody
//! has said why. That tells nothing about the procedure. A failure that somebody explains is never tried again, nor is
//! anything with KVM, and every attempt is told and its evidence kept.

use super::failure::{Failure, chain};
use super::observe::Observed;
use super::session::Session;
use crate::accel::Accelerator;
use crate::event::{EventKind, Verdict};
use crate::scenario::Scenario;

/// How often a scenario is tried again unless somebody says otherwise.
pub const RETRIES: usize = 1;

impl Session {
    /// Runs a scenario until its verdict stands. Gives the number of attempts, too.
    pub(super) async fn attempts(
        &self,
        scenario: &Scenario,
        observed: &mut Option<Observed>,
    ) -> (Verdict, usize) {
        let asked = observed.clone();
        let mut attempt = 1;
        loop {
            let verdict = self.attempt(scenario, observed).await;
            let emulated = self.ground().choice().accelerator == Accelerator::Tcg;
            let failure = match unexplained(&verdict) {
                Some(failure) if emulated && attempt <= self.ground().retries() => failure,
                _ => return (verdict, attempt),
            };
            let folder = match self.set_aside(&scenario.name, attempt) {
                Ok(folder) => folder,
                Err(error) => {
                    let message = chain(&error);
                    return (Verdict::SetUpFailed { message }, attempt);
                }
            };
            self.events().emit(EventKind::TriedAgain {
                scenario: scenario.name.clone(),
                failure: Box::new(failure.clone()),
                folder,
            });
            observed.clone_from(&asked);
            attempt += 1;
        }
    }
}

/// The failure that decided, if nothing explains it.
fn unexplained(verdict: &Verdict) -> Option<&Failure> {
    let failure = match verdict {
        Verdict::Failed { failure }
        | Verdict::Measured {
            failure: Some(failure),
        } => failure,
        _ => return None,
    };
    failure.unexplained.then_some(failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::FailureKind;

    #[test]
    fn only_what_nothing_explains_is_tried_again() {
        let failure = |unexplained| {
            Box::new(Failure {
                unexplained,
                ..Failure::new(FailureKind::Timeout, "the NAS did not answer")
            })
        };
        let failed = |unexplained| Verdict::Failed {
            failure: failure(unexplained),
        };
        assert!(unexplained(&failed(true)).is_some());
        assert!(unexplained(&failed(false)).is_none());
        let measured = Verdict::Measured {
            failure: Some(failure(true)),
        };
        assert!(unexplained(&measured).is_some());
        let meant = Verdict::FailedAsExpected {
            failure: failure(true),
        };
        assert!(unexplained(&meant).is_none());
        assert!(unexplained(&Verdict::Held).is_none());
    }
}
