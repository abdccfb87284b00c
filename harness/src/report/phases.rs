//! Where the time of a run went: each step, and how much of the whole was spent waiting for a guest
//! rather than for the harness.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::event::{Event, EventKind, Listener};

/// A step's or phase's time.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// How much of that a guest was waited for, in seconds.
    pub guest_seconds: f64,
}

/// The times of one scenario.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Breakdown {
    /// Its steps, in order.
    pub phases: Vec<Phase>,
    /// From the scenario's beginning to its end, in seconds.
    pub seconds: f64,
}

impl Breakdown {
    /// The share of the time in which the harness was what was waited for, from 0 to 1.
    pub fn harness_share(&self) -> f64 {
        let guest: f64 = self.phases.iter().map(|phase| phase.guest_seconds).sum();
        if self.seconds > 0.0 {
            (1.0 - guest / self.seconds).max(0.0)
        } else {
            0.0
        }
    }
}

impl fmt::Display for Breakdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "   seconds  of which harness  step")?;
        for Phase {
            name,
            seconds,
            guest_seconds,
        } in &self.phases
        {
            writeln!(
                f,
                "{seconds:>10.1}  {:>16.2}  {name}",
                (seconds - guest_seconds).max(0.0)
            )?;
        }
        writeln!(
            f,
            "{:>10.1}  {:>15.1}%  all",
            self.seconds,
            self.harness_share() * 100.0
        )
    }
}

/// Collects the times of the scenario under way.
#[derive(Debug, Default)]
pub struct Stopwatch {
    state: Mutex<(String, f64, Breakdown)>,
}

impl Stopwatch {
    /// The times of the last scenario.
    pub fn breakdown(&self) -> Breakdown {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .2
            .clone()
    }
}

impl Listener for Stopwatch {
    fn hear(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (title, began, breakdown) = &mut *state;
        match &event.kind {
            EventKind::ScenarioStarted { .. } => {
                *began = event.at;
                *breakdown = Breakdown::default();
            }
            EventKind::StepStarted { title: name, .. } => name.clone_into(title),
            EventKind::StepFinished {
                seconds,
                guest_seconds,
                ..
            } => {
                breakdown.phases.push(Phase {
                    name: title.clone(),
                    seconds: *seconds,
                    guest_seconds: *guest_seconds,
                });
                breakdown.seconds = event.at - *began;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_guest_was_waited_for_is_the_harness_s() {
        let watch = Stopwatch::default();
        let name = || "procedure".to_owned();
        let events = [
            (
                10.0,
                EventKind::ScenarioStarted {
                    scenario: name(),
                    steps: 1,
                    folder: "".into(),
                },
            ),
            (
                10.5,
                EventKind::StepStarted {
                    scenario: name(),
                    step: 1,
                    title: "reboot".to_owned(),
                    last: None,
                },
            ),
            (
                20.0,
                EventKind::StepFinished {
                    scenario: name(),
                    step: 1,
                    seconds: 9.5,
                    guest_seconds: 9.0,
                    recorded: false,
                },
            ),
        ];
        for (at, kind) in events {
            watch.hear(&Event { at, kind });
        }
        let breakdown = watch.breakdown();
        assert_eq!(breakdown.phases[0].name, "reboot");
        assert!(
            (breakdown.harness_share() - 0.1).abs() < 1e-9,
            "{breakdown}"
        );
    }
}
