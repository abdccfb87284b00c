//! Block devices, as sysfs and udev's database have them (middleware, `device_info.py`).

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

/// Kinds of block devices that are no disks to the middleware.
const IGNORED: &[&str] = &["sr", "md", "dm-", "loop", "zd"];
/// Partition types of ZFS: Linux's and FreeBSD's.
const ZFS_TYPES: &[&str] = &[
    "6a898cc3-1dd2-11b2-99a6-080020736631",
    "516e7cba-6ecf-11d6-8ff8-00022d09712b",
];

/// Where things are; a test has a root of its own.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

/// A device whose properties cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("can't read '{path}': {source}")]
pub struct DeviceError {
    path: String,
    #[source]
    source: io::Error,
}

/// A whole block device.
#[derive(Debug, Clone)]
pub struct Device {
    /// `sda`.
    pub name: String,
    /// `8:0`.
    pub number: (u64, u64),
    /// Bytes.
    pub size: Option<u64>,
    /// Whether the kernel takes it for a rotating disk.
    pub rotational: bool,
    /// Revolutions per minute by its own word, where it has one that means something.
    pub rotation_rate: Option<u64>,
    /// The subsystem that it hangs on: `scsi`, `nvme`, `virtio`.
    pub subsystem: String,
    /// udev's properties.
    pub properties: BTreeMap<String, String>,
    /// Identity of its first ZFS partition.
    pub zfs_partition: Option<String>,
}

impl Host {
    /// The host under this root.
    pub fn under(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The real one, unless `MIDCLT_ROOT` says otherwise.
    pub fn from_env() -> Self {
        Self::under(
            env::var_os("MIDCLT_ROOT")
                .filter(|root| !root.is_empty())
                .map_or("/".into(), PathBuf::from),
        )
    }

    /// A path below the root.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join(below)
    }

    /// All disks, by name as people count them.
    pub fn disks(&self) -> Result<Vec<Device>, DeviceError> {
        let folder = self.path("sys/class/block");
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|source| DeviceError {
                path: folder.display().to_string(),
                source,
            })?,
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| self.is_disk(name))
            .collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        names.iter().map(|name| self.device(name)).collect()
    }

    /// The disk that a partition is on; a whole disk is its own.
    pub fn disk_of(&self, name: &str) -> Option<String> {
        let folder = self.path("sys/class/block").join(name);
        if !folder.join("partition").exists() {
            return folder.exists().then(|| name.to_owned());
        }
        let real = fs::canonicalize(folder).ok()?;
        Some(real.parent()?.file_name()?.to_str()?.to_owned())
    }

    fn is_disk(&self, name: &str) -> bool {
        let folder = self.path("sys/class/block").join(name);
        let hidden_path = name.strip_prefix("nvme").is_some_and(|rest| {
            rest.trim_start_matches(|c: char| c.is_ascii_digit())
                .starts_with('c')
        });
        let iscsi =
            fs::canonicalize(&folder).is_ok_and(|path| path.to_string_lossy().contains("/session"));
        !IGNORED.iter().any(|kind| name.starts_with(kind))
            && !hidden_path
            && !iscsi
            && !folder.join("partition").exists()
    }

    fn device(&self, name: &str) -> Result<Device, DeviceError> {
        let folder = self.path("sys/class/block").join(name);
        let read = |file: &str| -> Result<String, DeviceError> {
            let path = folder.join(file);
            let text = fs::read_to_string(&path);
            text.map(|text| text.trim().to_owned())
                .map_err(|source| DeviceError {
                    path: path.display().to_string(),
                    source,
                })
        };
        let number = read("dev")?;
        let blocks = read("size")?
            .parse::<u64>()
            .ok()
            .filter(|blocks| *blocks > 0);
        let rotational = read("queue/rotational").is_ok_and(|flag| flag == "1");
        Ok(Device {
            name: name.to_owned(),
            number: parse_number(&number).unwrap_or_default(),
            size: blocks.map(|blocks| blocks * 512),
            rotational,
            rotation_rate: if rotational {
                rotation_rate(&folder)
            } else {
                None
            },
            subsystem: subsystem(&folder).unwrap_or_default(),
            properties: self.properties(&number)?,
            zfs_partition: self.zfs_partition(&folder)?,
        })
    }

    /// udev's properties of a block device; none while udev has not seen it.
    fn properties(&self, number: &str) -> Result<BTreeMap<String, String>, DeviceError> {
        let path = self.path("run/udev/data").join(format!("b{number}"));
        match fs::read(&path) {
            Ok(bytes) => Ok(parse_udev(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(source) => Err(DeviceError {
                path: path.display().to_string(),
                source,
            }),
        }
    }

    fn zfs_partition(&self, disk: &Path) -> Result<Option<String>, DeviceError> {
        let Ok(entries) = fs::read_dir(disk) else {
            return Ok(None);
        };
        let mut partitions: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.join("partition").exists())
            .collect();
        partitions.sort();
        for partition in partitions {
            let number = fs::read_to_string(partition.join("dev")).unwrap_or_default();
            let properties = self.properties(number.trim())?;
            let is_zfs = properties
                .get("ID_PART_ENTRY_TYPE")
                .is_some_and(|kind| ZFS_TYPES.contains(&kind.as_str()));
            if let Some(uuid) = properties.get("ID_PART_ENTRY_UUID").filter(|_| is_zfs) {
                return Ok(Some(uuid.clone()));
            }
        }
        Ok(None)
    }
}

fn parse_number(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The `E:` lines of a file below `/run/udev/data`.
fn parse_udev(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("E:")?.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

/// The subsystem of the nearest device above that has one.
fn subsystem(folder: &Path) -> Option<String> {
    let real = fs::canonicalize(folder).ok()?;
    // `…/2:0:0:0/block/sda`: the folder `block` is no device.
    let link = real
        .ancestors()
        .skip(1)
        .map(|above| above.join("subsystem"))
        .find(|link| link.exists())?;
    Some(
        fs::canonicalize(link)
            .ok()?
            .file_name()?
            .to_str()?
            .to_owned(),
    )
}

/// The medium rotation rate of SCSI's page B1, which libata makes for ATA disks. 0 says nothing and 1 is an SSD.
fn rotation_rate(folder: &Path) -> Option<u64> {
    let page = fs::read(folder.join("device/vpd_pgb1")).ok()?;
    let rate = u16::from_be_bytes([*page.get(4)?, *page.get(5)?]);
    (rate > 1).then_some(u64::from(rate))
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::{testing::Fake, *};

    #[test]
    fn only_disks_in_the_order_people_count() {
        let fake = Fake::new();
        for name in [
            "sdaa",
            "sdb",
            "sda",
            "sr0",
            "md127",
            "dm-0",
            "loop0",
            "zd16",
            "nvme0n1",
            "nvme0c0n1",
            "vda",
        ] {
            fake.plain(name);
        }
        fake.partition("sda", 1, &[]);
        let names: Vec<String> = fake
            .host()
            .disks()
            .unwrap()
            .into_iter()
            .map(|disk| disk.name)
            .collect();
        assert_eq!(names, ["sda", "sdb", "vda", "sdaa", "nvme0n1"]);
        assert_eq!(fake.host().disk_of("sda1").as_deref(), Some("sda"));
        assert_eq!(fake.host().disk_of("sdb").as_deref(), Some("sdb"));
        assert_eq!(fake.host().disk_of("sdz"), None);
    }

    #[test]
    fn udev_lines() {
        let found =
            parse_udev("S:disk/by-id/x\nI:123\nE:ID_SERIAL=a=b\nE:ID_MODEL=M \nG:systemd\n");
        assert_eq!(
            found,
            BTreeMap::from([
                ("ID_MODEL".into(), "M".into()),
                ("ID_SERIAL".into(), "a=b".into())
            ])
        );
    }
}
