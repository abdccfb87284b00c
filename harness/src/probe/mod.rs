//! Probes read the state of a guest into typed facts. Each is a pure `parse` and a thin caller that
//! costs one command in the guest, for a process start under emulation takes 50 to 100 ms.
//!
//! What the facts ought to be is [`crate::scenario`]'s business; what of them is the same in every
//! lane is `engine::redact`'s.

pub mod cmdline;
pub mod disk_query;
pub mod disks;
pub mod dmesg;
pub mod facts;
pub mod host_config;
pub mod host_network;
pub mod host_storage;
pub mod initramfs;
pub mod iommu;
pub mod kernel_log;
pub mod listing;
pub mod modules;
pub mod pci;
pub mod platform;
pub mod pool;
pub mod smart;
pub mod text;
pub mod vm;
pub mod vm_configs;

pub use facts::{Facts, ProbeError, Reading, read};
pub use listing::{WRITE_UP_LOOP, run_write_up_loop};
pub use text::ParseError;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scenario::GuestName;

/// What can be read.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::Display,
    strum::EnumIter,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Probe {
    /// L1: `/proc/cmdline`.
    Cmdline,
    /// L1: IOMMU type, groups and their members.
    Iommu,
    /// L1: PCI devices with class, ids, driver and reset methods.
    Pci,
    /// L1: the passthrough's modules, loaded and failed.
    Modules,
    /// L1: what the initramfs of the running kernel holds of drivers and modprobe rules.
    Initramfs,
    /// L1: block devices.
    HostDisks,
    /// L1: the VM's configuration and status.
    Vm,
    /// L1: the write-up's check, `dmesg | grep -e DMAR -e IOMMU`.
    DmesgIommu,
    /// L1: the write-up's listing of IOMMU groups.
    GroupListing,
    /// L1: kernel, firmware, boot loader, ACPI tables, watchdogs.
    Platform,
    /// L1: GRUB's and modprobe's files, and what was made of them.
    HostConfig,
    /// L1: the kernel's log on IOMMU, VFIO, resets, errors and watchdogs.
    KernelLog,
    /// L1: every VM's configuration file, and device mappings.
    VmConfigs,
    /// L1: what the host itself uses its disks for, and which controller they are on.
    HostStorage,
    /// L1: network interfaces and their PCI devices.
    HostNetwork,
    /// L2: block devices.
    NasDisks,
    /// L2: `midclt call disk.query`.
    DiskQuery,
    /// L2: `smartctl -a -j` of every disk.
    Smart,
    /// L2: pools, from `zpool status -j`.
    Pool,
}

impl Probe {
    /// The guest whose state it reads.
    pub fn guest(self) -> GuestName {
        match self {
            Probe::NasDisks | Probe::DiskQuery | Probe::Smart | Probe::Pool => GuestName::Nas,
            _ => GuestName::Pve,
        }
    }
}
