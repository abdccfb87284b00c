//! The channels into the guests: L1 by its guest agent, L2 by `qm guest exec` inside L1. A real host is
//! reached in the same way by the doctor: on the machine itself, or by ssh.

mod agent;
mod exec;
mod link;
mod local;
mod nested;
mod rehearsal;
mod ssh;

pub use agent::Agent;
pub use exec::{Exec, Exit, Guest, GuestError, Output};
pub use local::Local;
pub use nested::Nested;
pub(crate) use nested::reported;
pub use rehearsal::Rehearsal;
pub(crate) use ssh::quoted;
pub use ssh::{Ssh, SshError};
