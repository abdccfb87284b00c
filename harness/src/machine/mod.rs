//! The machine of a lab: its QEMU command line, its process, its console, its power.

mod argv;
mod console;
mod disks;
mod doors;
mod freeze;
mod power;
mod process;
pub mod qmp;
mod status;
pub mod transcript;
pub(crate) mod wire;

pub use argv::{Placement, argv, disk_nodes, hardware};
pub use console::Console;
pub use disks::{Blanks, DiskChain, DiskError, Disks};
pub use doors::{DOORS, Door, Doors, GuestEnd, port_name};
pub use power::{BootFailure, Machine, MachineError};
pub use process::{Process, ProcessError};
