//! The machine of a lab: its QEMU command line, its process, its console, its power.

mod argv;
mod console;
mod disks;
mod power;
mod process;
pub mod qmp;
pub mod transcript;
pub(crate) mod wire;

pub use argv::{Placement, argv};
pub use console::Console;
pub use disks::{DiskError, Disks};
pub use power::{BootFailure, Machine, MachineError, Started};
pub use process::{Process, ProcessError};
