//! The `qm` of the proxmox-like host: the part of Proxmox VE's `qm` that a storage VM needs, with Proxmox's rules and
//! messages, so that the harness meets the same interface here as on a real host.
//!
//! | module | holds |
//! |---|---|
//! | [`host`] | where configuration, run folder, `/sys` and `/proc` are, and how long waits may last |
//! | [`kernel`] | what is asked of the kernel: writes to sysfs, modules, signals |
//! | [`config`] | `<VMID>.conf`: sections, schema, property strings, locking |
//! | [`pci`] | `hostpciN`: parsing, choosing devices, reservations, binding to vfio-pci |
//! | [`argv`] | QEMU's command line as a pure function of configuration and facts |
//! | [`monitor`] | QMP and guest agent over their unix sockets, every wait bounded |
//! | [`run`] | start, stop, status, guest commands |
//! | [`cli`] | the command line |
//!
//! Rules and messages follow qemu-server 9 and pve-common as published; where this program knowingly differs, the
//! module says so.

pub mod argv;
pub mod cli;
pub mod config;
pub mod host;
pub mod json;
pub mod kernel;
pub mod monitor;
pub mod pci;
pub mod poll;
pub mod run;
pub mod text;
