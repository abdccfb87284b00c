//! Faults and measurements: what a lab does to its machine behind everybody's back, as data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Places on a disk that cannot be read or written any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DiskError {
    /// The disk's serial number.
    pub serial: String,
    /// What fails there.
    pub on: Access,
    /// How many blocks of 4 KiB fail, spread evenly over what the guests have written to the disk so
    /// far. The beginning and the end, where ZFS keeps its labels, are spared.
    #[schemars(range(min = 1, max = 1000))]
    pub blocks: u32,
}

/// What is done to a disk.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Access {
    /// Reading it.
    Read,
    /// Writing to it.
    Write,
}

/// What an NVMe drive says of its own health.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NvmeWarning {
    /// The drive's serial number.
    pub serial: String,
    /// All of its warnings from now on; none of them is good health again.
    pub warnings: Vec<CriticalWarning>,
}

/// A bit of an NVMe drive's critical warning.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum CriticalWarning {
    /// Its spare blocks have fallen below the threshold.
    Spare,
    /// It is too hot or too cold.
    Temperature,
    /// Its reliability is degraded by media or internal errors.
    Reliability,
    /// It takes no writes any more.
    ReadOnly,
    /// The backup of its volatile memory has failed.
    VolatileBackup,
}

impl CriticalWarning {
    /// Its bit in the field of the SMART log page.
    pub const fn bit(self) -> u8 {
        match self {
            CriticalWarning::Spare => 1,
            CriticalWarning::Temperature => 2,
            CriticalWarning::Reliability => 4,
            CriticalWarning::ReadOnly => 8,
            CriticalWarning::VolatileBackup => 16,
        }
    }
}

/// Something that comes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Awaited {
    /// The host's watchdog fires and resets it, and the host comes up again.
    WatchdogReset,
    /// VM 100, which something else has started, is up.
    Nas,
}

/// A power cut in the middle of a command.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CutDuring {
    /// A line for `sh -c` on the host.
    pub command: String,
    /// The power goes when a file of this name is there and on the disk. `*` and `?` stand for anything.
    pub when_exists: String,
}

/// Power cuts at random moments while the NAS writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PowerCuts {
    /// How many moments.
    #[schemars(range(min = 1, max = 1000))]
    pub cuts: u32,
    /// The pool that is written to, imported in the NAS and mounted at `/` and its name.
    pub pool: String,
    /// Where the random numbers begin: the moments, and which unflushed writes are lost.
    #[serde(default)]
    pub seed: u64,
    /// What the disks do when the guest asks them to flush their caches.
    #[serde(default)]
    pub flushes: Flushes,
}

/// What a disk does when it is asked to flush its cache.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Flushes {
    /// It does so: what was flushed survives, and a random part of what was written since is lost.
    /// The last cut is a real one: the machine is off and boots with what is left on its disks.
    #[default]
    Obeyed,
    /// It says so and does not: a random part of everything that was written is lost.
    Ignored,
}

/// How fast a disk is in the NAS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Measure {
    /// Absolute path of the disk in the NAS. What is on it is overwritten.
    pub device: String,
    /// Keeps the numbers under this name, for a later `against`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save: Option<String>,
    /// Reports the numbers that an earlier step kept under this name as multiples of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
}
