//! The channels into the guests: L1 by its guest agent, L2 by `qm guest exec` inside L1.

mod agent;
mod exec;
mod link;
mod nested;

pub use agent::Agent;
pub use exec::{Exec, Exit, Guest, GuestError, Output};
pub use nested::Nested;
