//! What the exit code says.

use std::process::{ExitCode, ExitStatus};

use harness::engine::Summary;
use harness::signals;

/// The exit codes, for `--help`.
pub const HELP: &str = "\
Exit codes:
  0    all scenarios that ran held; the doctor found no errors; the matrix is whole
  1    a scenario failed; the doctor found errors on a host
  2    the command line was wrong
  3    the lab could not be set up, or the host not be read; this says nothing about any procedure
  4    nothing ran
  130  interrupted";

/// How the program ends. A wrong command line ends it with 2, which is clap's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All held.
    Held,
    /// A scenario failed.
    Failed,
    /// The lab could not be set up.
    SetUpFailed,
    /// Nothing ran: no scenario has that name, or all were skipped.
    NothingRan,
    /// Somebody stopped it.
    Interrupted,
}

impl From<Summary> for Exit {
    fn from(summary: Summary) -> Self {
        match summary {
            Summary {
                interrupted: 1.., ..
            } => Exit::Interrupted,
            Summary { failed: 1.., .. } => Exit::Failed,
            Summary {
                set_up_failed: 1.., ..
            } => Exit::SetUpFailed,
            Summary {
                held: 0,
                measured: 0,
                ..
            } => Exit::NothingRan,
            _ => Exit::Held,
        }
    }
}

impl Exit {
    /// A run that is a failure for a reason of its own, unless something worse ended it.
    pub fn or_failed(self) -> Self {
        match self {
            Exit::Held | Exit::NothingRan => Exit::Failed,
            worse => worse,
        }
    }

    /// How another process of this program ended.
    pub fn of_process(status: ExitStatus) -> Self {
        match status.code() {
            Some(0) => Exit::Held,
            Some(1) => Exit::Failed,
            Some(4) => Exit::NothingRan,
            Some(code) if code == i32::from(signals::INTERRUPTED) => Exit::Interrupted,
            _ => Exit::SetUpFailed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Held => 0,
            Exit::Failed => 1,
            Exit::SetUpFailed => 3,
            Exit::NothingRan => 4,
            Exit::Interrupted => signals::INTERRUPTED,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_thing_that_happened_decides() {
        let summary = Summary {
            held: 3,
            measured: 0,
            failed: 0,
            set_up_failed: 0,
            interrupted: 0,
            skipped: 1,
        };
        assert_eq!(Exit::from(summary), Exit::Held);
        assert_eq!(
            Exit::from(Summary {
                failed: 1,
                ..summary
            }),
            Exit::Failed
        );
        assert_eq!(
            Exit::from(Summary {
                set_up_failed: 1,
                ..summary
            }),
            Exit::SetUpFailed
        );
        assert_eq!(
            Exit::from(Summary {
                interrupted: 1,
                failed: 1,
                ..summary
            }),
            Exit::Interrupted
        );
        assert_eq!(Exit::from(Summary { held: 0, ..summary }), Exit::NothingRan);
        assert_eq!(Exit::NothingRan.or_failed(), Exit::Failed);
        assert_eq!(Exit::Interrupted.or_failed(), Exit::Interrupted);
    }
}
