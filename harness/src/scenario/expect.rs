//! What must hold, and the one way in which a scenario may be meant to fail.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Severity};
use crate::lab::{Firmware, Iommu, PciAddress};

/// What must hold on the host and in the NAS guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expect {
    /// On the Proxmox host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pve: Option<ExpectPve>,
    /// In the NAS guest, which has to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nas: Option<ExpectNas>,
}

/// The names of all checks, as reports and `failure.check` call them.
pub const CHECKS: &[&str] = &[
    "pve.firmware",
    "pve.cmdline",
    "pve.iommu",
    "pve.dmesg-iommu",
    "pve.iommu-group",
    "pve.driver",
    "pve.reset-method",
    "pve.module",
    "pve.disks",
    "pve.group-listing-matches-loop",
    "nas.disks",
    "nas.smart",
    "nas.family",
    "nas.boot-disk",
    "nas.pool",
];

impl Expect {
    /// The names of the checks that this makes.
    pub fn checks(&self) -> Vec<&'static str> {
        let pve = self.pve.as_ref();
        let nas = self.nas.as_ref();
        let made = [
            pve.is_some_and(|pve| pve.firmware.is_some()),
            pve.is_some_and(|pve| pve.cmdline.is_some()),
            pve.is_some_and(|pve| pve.iommu.is_some()),
            pve.is_some_and(|pve| pve.dmesg_iommu.is_some()),
            pve.is_some_and(|pve| pve.iommu_group.is_some()),
            pve.is_some_and(|pve| pve.driver.is_some()),
            pve.is_some_and(|pve| pve.reset_method.is_some()),
            pve.is_some_and(|pve| pve.module.is_some()),
            pve.is_some_and(|pve| pve.disks.is_some()),
            pve.is_some_and(|pve| pve.group_listing_matches_loop.is_some()),
            nas.is_some_and(|nas| nas.disks.is_some()),
            nas.is_some_and(|nas| nas.smart.is_some()),
            nas.is_some_and(|nas| nas.family.is_some()),
            nas.is_some_and(|nas| nas.boot_disk.is_some()),
            nas.is_some_and(|nas| nas.pool.is_some()),
        ];
        CHECKS
            .iter()
            .zip(made)
            .filter_map(|(name, made)| made.then_some(*name))
            .collect()
    }
}

/// What must hold on the Proxmox host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ExpectPve {
    /// The firmware that the host was started by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// Words that `/proc/cmdline` must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<Vec<String>>,
    /// The IOMMU that `/sys/class/iommu` shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iommu: Option<Iommu>,
    /// A line of `dmesg | grep -e DMAR -e IOMMU` must contain each of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dmesg_iommu: Option<Vec<String>>,
    /// All members of the IOMMU group that this device is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iommu_group: Option<BTreeMap<PciAddress, Vec<PciAddress>>>,
    /// The driver that a device is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<BTreeMap<PciAddress, DriverState>>,
    /// The reset methods of a device, from its `reset_method`; empty where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_method: Option<BTreeMap<PciAddress, Vec<String>>>,
    /// Kernel modules that must be loaded (`true`) or must not be (`false`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<BTreeMap<String, bool>>,
    /// The serials of the lab's disks that the host itself sees, in any order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<String>>,
    /// Own group listing equals what the write-up's loop prints, line for line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_listing_matches_loop: Option<bool>,
}

/// What must hold in the NAS guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ExpectNas {
    /// The serials of the lab's disks that the guest sees, in any order. Each disk's model, serial,
    /// WWN, size and rotation rate must be what the lab gave it, by lsblk, smartctl and midclt alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<String>>,
    /// SMART health of every disk of the lab that smartctl reads in the guest; `disks` says which those are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smart: Option<SmartVerdict>,
    /// The drive family that smartctl's database gives to every passed-through disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// Model of the disk that the guest's root is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_disk: Option<String>,
    /// An imported pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolExpectation>,
}

/// SMART health.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum SmartVerdict {
    /// The drive says that it is well.
    Passed,
    /// The drive says that it is failing.
    Failed,
}

/// A pool as `zpool status -j` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PoolExpectation {
    /// Its name.
    pub name: String,
    /// Its state, such as `ONLINE` or `DEGRADED`.
    pub state: String,
    /// Read, write and checksum errors over all devices, and data errors, together.
    #[serde(default)]
    pub errors: u64,
    /// At least so many of these errors, in place of an exact number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_errors: Option<u64>,
    /// Files and objects that are damaged for good, if that has to be known; they count as errors too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_errors: Option<u64>,
    /// Type of the top-level vdev, such as `raidz`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vdev: Option<String>,
}

/// What holds a device.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(from = "String", into = "String")]
pub enum DriverState {
    /// No driver; written `none`.
    None,
    /// This driver.
    Bound(String),
}

impl From<String> for DriverState {
    fn from(name: String) -> Self {
        if name == "none" {
            DriverState::None
        } else {
            DriverState::Bound(name)
        }
    }
}

impl From<DriverState> for String {
    fn from(state: DriverState) -> Self {
        match state {
            DriverState::None => "none".to_owned(),
            DriverState::Bound(name) => name,
        }
    }
}

/// The failure that a scenario is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExpectedFailure {
    /// What fails.
    pub kind: FailureKind,
    /// The check that fails, such as `pve.driver`; only with the kind `check`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// The failure's message must contain each of these.
    pub contains: Vec<String>,
}

/// The findings that the facts must prove at a scenario's end: exactly these errors and warnings, and these
/// notes among others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExpectedFindings {
    /// Those that have to be there.
    pub named: Vec<String>,
    /// Those that may be there or not, where the damage is another one each time.
    pub possible: Vec<String>,
}

impl ExpectedFindings {
    /// Those of what was found that have to be expected: all errors and warnings, and the notes that are named.
    pub fn count<'f>(&self, findings: &'f [Finding]) -> BTreeSet<&'f str> {
        let counts = |one: &&Finding| {
            one.severity > Severity::Note || self.named.iter().any(|id| id == one.id)
        };
        findings.iter().filter(counts).map(|one| one.id).collect()
    }

    /// Those that are missing, and those that are there against the expectation.
    pub fn differences<'f>(&'f self, findings: &'f [Finding]) -> (Vec<&'f str>, Vec<&'f str>) {
        let counted = self.count(findings);
        let named: BTreeSet<&str> = self.named.iter().map(String::as_str).collect();
        let possible = |id: &&str| self.possible.iter().any(|one| one == id);
        (
            named.difference(&counted).copied().collect(),
            counted
                .difference(&named)
                .copied()
                .filter(|id| !possible(id))
                .collect(),
        )
    }
}

/// In which of the ways a step can fail.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum FailureKind {
    /// A command's exit code was not the one that was asked for.
    Command,
    /// Saved and later output differ.
    Output,
    /// `qm start` refused.
    Start,
    /// An expectation did not hold.
    Check,
    /// Facts differ from their snapshot.
    Snapshot,
    /// The host did not come up.
    Boot,
    /// A guest crashed, was reset or went away.
    Crash,
    /// Something took longer than its deadline.
    Timeout,
}
