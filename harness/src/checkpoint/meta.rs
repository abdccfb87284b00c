//! What is known of a checkpoint beside its bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::Measurement;
use crate::plan::Key;
use crate::scenario::Vmid;

/// A checkpoint's description, the last file that is written into its folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Meta {
    /// The state's key.
    pub key: Key,
    /// When it was taken.
    pub taken: jiff::Timestamp,
    /// What the way to this state took, in seconds.
    pub seconds: f64,
    /// The host's boot id; none when the machine was off.
    pub boot_id: Option<String>,
    /// The NAS guest that ran, suspended for the checkpoint.
    pub nas: Option<Nas>,
    /// Outputs that steps saved.
    pub saved: BTreeMap<String, String>,
    /// What was measured on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<Measurement>,
    /// The disks, in the order of [`crate::machine::disk_nodes`].
    pub disks: Vec<FrozenDisk>,
    /// RAM and devices; none when the machine was off.
    pub frozen: Option<Frozen>,
    /// Every file in the folder but this one.
    pub files: BTreeMap<String, FileMeta>,
    /// The last lines of the host's console.
    pub console: Vec<String>,
}

/// The names of the files of a machine that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Frozen {
    /// What QEMU saved of it.
    pub devices: String,
    /// The parts of its RAM.
    pub ram: Vec<String>,
}

/// A guest of L1 that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Nas {
    /// Its number.
    pub vmid: Vmid,
    /// Its kernel's boot id. A checkpoint of before this was noted has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
}

/// A disk: its size and what was written over its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FrozenDisk {
    /// Size in bytes.
    pub bytes: u64,
    /// The layers, oldest first; the last is in this checkpoint's own folder.
    pub layers: Vec<LayerRef>,
}

/// A disk layer in the folder of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LayerRef {
    /// The folder's name.
    pub folder: String,
    /// The file's name.
    pub file: String,
}

/// Size and digest of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileMeta {
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}
