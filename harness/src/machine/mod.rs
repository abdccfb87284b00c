//! The machine of a lab: its QEMU command line, its process, its console, its power.

mod argv;
mod console;
mod cut;
mod disks;
mod doors;
mod faults;
mod freeze;
mod logs;
mod memory;
mod nbd;
mod power;
mod process;
mod processors;
pub mod qmp;
mod smart;
mod status;
pub mod transcript;
pub(crate) mod wire;
mod write_log;
mod written;

pub use argv::{Bay, Placement, argv, bay, disk_nodes, hardware, pluggable};
pub use console::Console;
pub use cut::CutDisk;
pub use disks::{Blanks, DiskChain, DiskError, Disks};
pub use doors::{DOORS, Door, Doors, GuestEnd, port_name};
pub use faults::BLOCK;
pub use freeze::Saved;
pub(crate) use logs::CONSOLE_LOG;
pub use power::{BootFailure, Machine, MachineError};
pub use process::{Process, ProcessError};
pub use write_log::{WriteLog, WriteLogError};
pub use written::spread;
