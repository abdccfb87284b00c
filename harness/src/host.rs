//! What L0 has to offer: memory, CPUs, disk space. A container's limits count as much as the
//! machine's own.

use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};

const GIB: f64 = (1u64 << 30) as f64;

/// This machine cannot run a lab.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Too little memory.
    #[error(
        "a lab needs {:.1} GiB of memory and {:.1} GiB are available: end other programs, or give \
         this machine (or its container) more", *needed as f64 / GIB, *available as f64 / GIB
    )]
    Memory {
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that there are.
        available: u64,
    },
    /// Too little disk space.
    #[error(
        "{} needs {:.1} GiB of free space and has {:.1} GiB: free some, or set LAB_CACHE to a \
         folder on another disk", folder.display(), *needed as f64 / GIB, *available as f64 / GIB
    )]
    Disk {
        /// Where.
        folder: PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that there are.
        available: u64,
    },
    /// The kernel does not say.
    #[error("failed to read {}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What this process could use at most.
    pub total: u64,
    /// What it can use without anything else giving way.
    pub available: u64,
}

/// The memory that this process may use: the machine's, or what its control groups leave of it.
///
/// # Errors
/// When `/proc/meminfo` cannot be read.
pub fn memory() -> Result<Memory, HostError> {
    memory_below(Path::new("/"))
}

/// The CPUs that this process may use, by affinity and by its control group's quota.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// The processor's name, for people.
pub fn processor_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// What a guest that is given all of the processor could tell: its model and features, and the kernel with KVM's parameters, which
/// decide what of nested virtualization it is offered.
pub fn processor() -> String {
    let mut told = vec![processor_features()];
    let release = "/proc/sys/kernel/osrelease";
    let parameters =
        ["kvm", "kvm_intel", "kvm_amd"].map(|name| format!("/sys/module/{name}/parameters"));
    let mut files: Vec<PathBuf> = parameters
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files.insert(0, release.into());
    for file in files {
        // What cannot be read tells a guest nothing either.
        let value = std::fs::read_to_string(&file).unwrap_or_default();
        told.push(format!("{}={}", file.display(), value.trim()));
    }
    told.join("\n")
}

fn processor_features() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default();
    // Clock and power change from one look to the next.
    let told = |line: &&str| {
        [
            "vendor_id",
            "cpu family",
            "model",
            "stepping",
            "microcode",
            "flags",
        ]
        .iter()
        .any(|name| line.starts_with(name))
    };
    first.lines().filter(told).collect::<Vec<_>>().join("\n")
}

/// The bytes that can still be written below a folder; it need not exist yet.
///
/// # Errors
/// When the file system does not say.
pub fn free_space(folder: &Path) -> Result<u64, HostError> {
    let existing = folder.ancestors().find(|path| path.exists());
    let existing = existing.unwrap_or(Path::new("."));
    let stat = rustix::fs::statvfs(existing).map_err(|errno| HostError::Unreadable {
        path: existing.to_owned(),
        source: errno.into(),
    })?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Checks that there are so many bytes of memory, and of disk space in `folder`.
///
/// # Errors
/// Which of the two is missing, how much, and what to do about it.
pub fn require(folder: &Path, memory: u64, disk: u64) -> Result<(), HostError> {
    let available = self::memory()?.available;
    if available < memory {
        return Err(HostError::Memory {
            needed: memory,
            available,
        });
    }
    let available = free_space(folder)?;
    if available < disk {
        return Err(HostError::Disk {
            folder: folder.to_owned(),
            needed: disk,
            available,
        });
    }
    Ok(())
}

fn memory_below(root: &Path) -> Result<Memory, HostError> {
    let path = root.join("proc/meminfo");
    let unreadable = |source| HostError::Unreadable {
        path: path.clone(),
        source,
    };
    let text = std::fs::read_to_string(&path).map_err(unreadable)?;
    let mut memory = parse_meminfo(&text)
        .ok_or_else(|| unreadable(io::Error::other("no MemTotal and MemAvailable in it")))?;
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    for (limit, used) in group_limits(root, &groups) {
        memory.total = memory.total.min(limit);
        memory.available = memory.available.min(limit.saturating_sub(used));
    }
    Ok(memory)
}

fn parse_meminfo(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(Memory {
        total: field("MemTotal:")?,
        available: field("MemAvailable:")?,
    })
}

/// Limit and use of every control group above this process that has a limit.
fn group_limits(root: &Path, groups: &str) -> Vec<(u64, u64)> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (mount, limit, usage, cache) = if controllers.is_empty() {
            let files = ("memory.max", "memory.current", "inactive_file ");
            ("sys/fs/cgroup", files.0, files.1, files.2)
        } else if controllers.split(',').any(|one| one == "memory") {
            let files = (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file ",
            );
            ("sys/fs/cgroup/memory", files.0, files.1, files.2)
        } else {
            continue;
        };
        // A container sees its own group at the mount's root, whatever the path says: a folder
        // that is not there is passed over, and its parents are looked at all the same.
        for above in Path::new(group.trim_start_matches('/')).ancestors() {
            let folder = root.join(mount).join(above);
            let number = |file: &str| -> Option<u64> {
                std::fs::read_to_string(folder.join(file))
                    .ok()?
                    .trim()
                    .parse()
                    .ok()
            };
            if let (Some(limit), Some(used)) = (number(limit), number(usage)) {
                let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
                let reclaimable: u64 = stat
                    .lines()
                    .find_map(|line| line.strip_prefix(cache)?.parse().ok())
                    .unwrap_or(0);
                limits.push((limit, used.saturating_sub(reclaimable)));
            }
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str =
        "MemTotal:       8000000 kB\nMemFree:  1 kB\nMemAvailable:   6000000 kB\n";

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files.iter().chain(&[("proc/meminfo", MEMINFO)]) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn without_groups_the_machine_counts() {
        let memory = memory_below(root(&[]).path()).unwrap();
        assert_eq!(
            (memory.total, memory.available),
            (8_192_000_000, 6_144_000_000)
        );
    }

    #[test]
    fn the_tightest_group_of_version_2_counts_and_its_cache_is_reclaimable() {
        let root = root(&[
            ("proc/self/cgroup", "0::/ci/job\n"),
            ("sys/fs/cgroup/ci/memory.max", "4000000000\n"),
            ("sys/fs/cgroup/ci/memory.current", "3000000000\n"),
            (
                "sys/fs/cgroup/ci/memory.stat",
                "anon 1\ninactive_file 1000000000\n",
            ),
            ("sys/fs/cgroup/ci/job/memory.max", "max\n"),
            ("sys/fs/cgroup/ci/job/memory.current", "1\n"),
        ]);
        let memory = memory_below(root.path()).unwrap();
        assert_eq!(
            (memory.total, memory.available),
            (4_000_000_000, 2_000_000_000)
        );
    }

    #[test]
    fn a_container_finds_its_group_of_version_1_at_the_mounts_root() {
        let root = root(&[
            ("proc/self/cgroup", "5:cpu:/\n4:memory:/docker/0123\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "500000000\n"),
        ]);
        let memory = memory_below(root.path()).unwrap();
        assert_eq!(
            (memory.total, memory.available),
            (2_000_000_000, 1_500_000_000)
        );
    }

    #[test]
    fn what_is_missing_is_named_with_a_next_step() {
        let here = Path::new("/tmp/not/there/yet");
        require(here, 1, 1).unwrap();
        let error = require(here, u64::MAX, 1).unwrap_err().to_string();
        assert!(error.contains("GiB of memory"), "{error}");
        let error = require(here, 1, u64::MAX).unwrap_err().to_string();
        assert!(error.contains("LAB_CACHE"), "{error}");
    }
}
