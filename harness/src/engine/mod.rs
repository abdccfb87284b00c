//! The engine: walks scenarios through their labs and judges them. Both front ends, the command
//! line and the libtest target, drive this one.

mod act;
mod ask;
mod checks;
mod cuts;
mod failure;
mod faults;
mod findings;
mod freeze;
mod ground;
mod hold;
mod keep;
mod look;
mod measure;
mod nas;
mod observe;
mod redact;
mod run;
mod schedule;
mod session;
mod silence;
mod snapshot;
mod timings;
mod worth;

pub use failure::Failure;
pub(crate) use failure::chain;
pub use ground::{
    CHECKPOINT_BUDGET, Checkpoints, Ground, Options, SessionError, toolbox_qemu, unmet,
};
pub use hold::{Held, HoldError, NAS};
#[cfg(test)]
pub(crate) use nas::CONFIG as NAS_CONFIG;
pub use observe::{Observation, Observed};
pub use redact::{Redactor, ShapeError};
pub use session::{Session, Summary};
