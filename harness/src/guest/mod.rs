//! The channels into the guests: L1 by its guest agent, L2 by `qm guest exec` inside L1.

mod exec;

pub use exec::{Exec, Exit, Guest, GuestError, Output};
