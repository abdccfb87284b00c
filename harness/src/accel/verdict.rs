//! The last grade of the probe, a guest that runs, and the memory of how it went.
//!
//! The cheap grades are asked every time, so a changed permission or module parameter counts at
//! once. Only the guest's verdict is remembered, together with all that it depends on.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::boot_sector::{self, Ran};
use super::grade::{Obstacle, promises};
use super::qemu::QemuProgram;
use super::{Accelerator, Vendor};

const FILE: &str = "kvm-verdict.json";

/// Everything that a guest's verdict depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    kernel: String,
    /// A machine image may wake up on another host: that is another boot.
    boot_id: String,
    qemu: String,
    cpu_model: String,
    cpu_flags: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    key: Key,
    verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Ran(Vendor),
    Failed(String),
}

/// Whether KVM runs guests that can nest, and whose virtualization they see.
pub(super) async fn remembered_or_new(
    qemu: &QemuProgram,
    cache: &Path,
) -> Result<Vendor, Obstacle> {
    promises()?;
    let unreadable = |error: io::Error| Obstacle::NoGuest(format!("could not be started: {error}"));
    let key = Key::read(Path::new("/proc"), qemu).map_err(unreadable)?;
    let file = cache.join(FILE);
    if let Some(verdict) = recall(&file, &key) {
        return verdict.into_result();
    }
    let folder = tempfile::tempdir().map_err(unreadable)?;
    let ran = boot_sector::run(qemu, Accelerator::Kvm, folder.path())
        .await
        .map_err(unreadable)?;
    let verdict = match ran {
        Ran::ToItsEnd(Some(vendor)) => Verdict::Ran(vendor),
        Ran::ToItsEnd(None) => Verdict::Failed("saw neither VMX nor SVM".to_owned()),
        Ran::Failed(words) => Verdict::Failed(format!("did not run: {words}")),
        // Perhaps the machine was only busy: the next run may try again.
        Ran::Hung => return Err(Obstacle::NoGuest("hung".to_owned())),
    };
    let memory = Memory { key, verdict };
    // Without the memory the next start takes a second longer; that is no reason to fail this one.
    let _ = remember(&file, &memory);
    memory.verdict.into_result()
}

impl Verdict {
    fn into_result(self) -> Result<Vendor, Obstacle> {
        match self {
            Verdict::Ran(vendor) => Ok(vendor),
            Verdict::Failed(words) => Err(Obstacle::NoGuest(words)),
        }
    }
}

impl Key {
    fn read(proc: &Path, qemu: &QemuProgram) -> io::Result<Self> {
        let text = |path: &str| std::fs::read_to_string(proc.join(path));
        let cpus = text("cpuinfo")?;
        let field = |name: &str| {
            let mut lines = cpus.lines().filter_map(|line| line.split_once(':'));
            let found = lines.find(|(key, _)| key.trim() == name);
            found.map_or("", |(_, value)| value.trim()).to_owned()
        };
        Ok(Key {
            kernel: text("sys/kernel/osrelease")?.trim().to_owned(),
            boot_id: text("sys/kernel/random/boot_id")?.trim().to_owned(),
            qemu: qemu.digest().to_owned(),
            cpu_model: field("model name"),
            cpu_flags: hex::encode(Sha256::digest(field("flags"))),
        })
    }
}

/// What is remembered under this key. A file that is damaged or speaks of other circumstances is
/// as good as none.
fn recall(file: &Path, key: &Key) -> Option<Verdict> {
    let bytes = std::fs::read(file).ok()?;
    let memory: Memory = serde_json::from_slice(&bytes).ok()?;
    (memory.key == *key).then_some(memory.verdict)
}

/// Written beside and renamed: a reader sees the old memory or the new one, and nothing between.
fn remember(file: &Path, memory: &Memory) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut beside = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer_pretty(&mut beside, memory)?;
    beside.persist(file).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        let qemu = QemuProgram::unpacked(Vec::new(), Vec::new(), "11".into(), "digest".into());
        Key::read(Path::new("/proc"), &qemu).unwrap()
    }

    #[test]
    fn a_verdict_is_remembered_for_its_own_circumstances_only() {
        let cache = tempfile::tempdir().unwrap();
        let file = cache.path().join("cache").join(FILE);
        let key = key();
        assert_eq!(recall(&file, &key), None);
        let verdict = Verdict::Failed("kvm_buf_set_msrs".to_owned());
        let memory = Memory {
            key: key.clone(),
            verdict: verdict.clone(),
        };
        remember(&file, &memory).unwrap();
        assert_eq!(recall(&file, &key), Some(verdict));
        let other = Key {
            qemu: "another build".to_owned(),
            ..key.clone()
        };
        assert_eq!(recall(&file, &other), None);
        std::fs::write(&file, "{\"key\":").unwrap();
        assert_eq!(recall(&file, &key), None);
    }

    #[test]
    fn the_key_names_this_machine() {
        let key = key();
        assert_eq!(key.boot_id.len(), 36);
        assert!(!key.kernel.is_empty() && !key.cpu_model.is_empty());
    }
}
