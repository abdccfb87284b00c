//! Probes read the state of a guest into typed facts. Each is a pure `parse` and a thin caller.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// L2: block devices.
    NasDisks,
    /// L2: `midclt call disk.query`.
    DiskQuery,
    /// L2: `smartctl -a -j` of every disk.
    Smart,
    /// L2: pools, from `zpool status -j`.
    Pool,
}
