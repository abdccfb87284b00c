//! The key of a state: a digest of everything that could change it, and of nothing else.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::moves::Move;
use crate::accel::Accelerator;
use crate::machine::hardware;
use crate::scenario::digest_of;

/// Raised when the harness does something else for the same steps, so that older states are not used.
pub const FORMAT: u32 = 3;

/// What a state depends on beside lab and steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Digest of the host's image.
    pub host_image: String,
    /// Digest of the NAS guest's image.
    pub nas_image: String,
    /// What tells this QEMU build from another.
    pub qemu: String,
    /// KVM or TCG.
    pub accelerator: Accelerator,
    /// CPU model of the host.
    pub cpu: String,
    /// With KVM, the processor that this machine has; emulation is the same everywhere.
    pub processor: Option<String>,
    /// The configuration that VM 100 begins with.
    pub vm_config: String,
    /// [`FORMAT`].
    pub format: u32,
}

/// The key of a state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key([u8; 32]);

impl Key {
    /// The key of what comes after a move from the state `before`, or from nothing.
    pub fn after(before: Option<&Key>, one: &Move, setting: &Setting) -> Key {
        let mut hash = Sha256::new();
        match before {
            Some(before) => hash.update(before.0),
            None => hash.update(digest_of(setting)),
        }
        match one {
            // What QEMU is told is the hardware; the disks' serial numbers are in it too.
            Move::PowerOn { lab, bays } => {
                hash.update(hardware(lab, setting.accelerator, &setting.cpu));
                hash.update(digest_of(bays));
            }
            Move::PowerOff => hash.update("off"),
            Move::Act(action) => hash.update(action.digest()),
        }
        Key(hash.finalize().into())
    }

    /// The name of what is seen after the move to this state has failed with these words. It is no state:
    /// nothing goes on from there.
    pub fn failed_with(&self, words: &str) -> Key {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update("failed");
        hash.update(words);
        Key(hash.finalize().into())
    }

    /// Its first digits, for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.short())
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for Key {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Key(bytes))
    }
}
