//! The engine: walks scenarios through their labs and judges them. Both front ends, the command
//! line and the libtest target, drive this one.

mod act;
mod checks;
mod failure;
mod findings;
mod freeze;
mod hold;
mod look;
mod nas;
mod redact;
mod run;
mod session;
mod snapshot;
mod timings;

pub use failure::Failure;
pub(crate) use failure::chain;
#[cfg(test)]
pub(crate) use nas::CONFIG as NAS_CONFIG;
pub use hold::{Held, HoldError, NAS};
pub use redact::{Redactor, ShapeError};
pub use session::{
    CHECKPOINT_BUDGET, Checkpoints, Options, Session, SessionError, Summary, toolbox_qemu, unmet,
};
