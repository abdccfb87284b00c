//! Block devices as `lsblk` shows them, on L1 and in L2.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};

/// The block devices of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskFacts {
    /// Whole disks, by name: no partitions, optical drives, loop devices and the like.
    pub disks: Vec<BlockDevice>,
}

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockDevice {
    /// The kernel's name, such as `sda`.
    pub name: String,
    /// Capacity in bytes.
    pub size: u64,
    /// Model; a virtio disk has none.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// World Wide Name, such as `0x5000c500a1b2c3d4`.
    pub wwn: Option<String>,
    /// Whether it spins.
    pub rotational: bool,
    /// What it is attached by, such as `sata`.
    pub transport: Option<String>,
    /// Physical sector size in bytes.
    pub physical_sector: u32,
    /// Logical sector size in bytes.
    pub logical_sector: u32,
    /// Whether the guest's root file system is on it, or on a part of it.
    pub holds_root: bool,
}

impl DiskFacts {
    /// The disk with this serial number.
    pub fn by_serial(&self, serial: &str) -> Option<&BlockDevice> {
        self.disks
            .iter()
            .find(|disk| disk.serial.as_deref() == Some(serial))
    }

    /// The disk that the root file system is on.
    pub fn boot_disk(&self) -> Option<&BlockDevice> {
        self.disks.iter().find(|disk| disk.holds_root)
    }
}

/// The columns that are asked for. File system and label are there because a real TrueNAS has its
/// root in a ZFS pool, which `lsblk` shows no mount point for.
const COLUMNS: &str =
    "NAME,TYPE,SIZE,MODEL,SERIAL,WWN,ROTA,TRAN,PHY-SEC,LOG-SEC,FSTYPE,LABEL,MOUNTPOINTS";

/// The name of the pool that a real TrueNAS boots from.
const BOOT_POOL: &str = "boot-pool";

/// Reads the host's block devices.
///
/// # Errors
/// [`ProbeError`].
pub async fn read_host<G: Guest>(
    pve: &G,
    limit: Duration,
) -> Result<(DiskFacts, String), ProbeError> {
    ask(Probe::HostDisks, pve, lsblk(limit), parse).await
}

/// Reads the NAS guest's block devices.
///
/// # Errors
/// [`ProbeError`].
pub async fn read_nas<G: Guest>(
    nas: &G,
    limit: Duration,
) -> Result<(DiskFacts, String), ProbeError> {
    ask(Probe::NasDisks, nas, lsblk(limit), parse).await
}

fn lsblk(limit: Duration) -> Exec {
    Exec::new("lsblk", ["--json", "--bytes", "--output", COLUMNS], limit)
}

/// `lsblk`'s own shape. A field that is not there is an error, one that is `null` is not.
#[derive(Deserialize)]
struct Lsblk {
    blockdevices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    size: u64,
    model: Nullable,
    serial: Nullable,
    wwn: Nullable,
    rota: bool,
    tran: Nullable,
    #[serde(rename = "phy-sec")]
    physical_sector: u32,
    #[serde(rename = "log-sec")]
    logical_sector: u32,
    fstype: Nullable,
    label: Nullable,
    mountpoints: Vec<Option<String>>,
    #[serde(default)]
    children: Vec<Device>,
}

/// A text or `null`; unlike an `Option` it has to be there.
#[derive(Deserialize)]
#[serde(untagged)]
enum Nullable {
    Text(String),
    Null(()),
}

impl Nullable {
    fn text(&self) -> Option<&str> {
        match self {
            Nullable::Text(text) => Some(text.trim()).filter(|text| !text.is_empty()),
            Nullable::Null(()) => None,
        }
    }

    fn owned(&self) -> Option<String> {
        self.text().map(str::to_owned)
    }
}

impl Device {
    fn holds_root(&self) -> bool {
        self.mountpoints
            .iter()
            .any(|point| point.as_deref() == Some("/"))
            || (self.fstype.text() == Some("zfs_member") && self.label.text() == Some(BOOT_POOL))
            || self.children.iter().any(Device::holds_root)
    }
}

/// Parses `lsblk`'s JSON.
///
/// # Errors
/// [`ParseError`] for anything but a list of devices with every column, and where no device holds the
/// root file system. (On a mirror two do.)
pub fn parse(output: &str) -> Result<DiskFacts, ParseError> {
    if output.trim().is_empty() {
        return Err(ParseError::Empty);
    }
    let answer: Lsblk = serde_json::from_str(output).map_err(ParseError::Json)?;
    let mut disks: Vec<BlockDevice> = answer
        .blockdevices
        .iter()
        .filter(|device| device.kind == "disk")
        .map(|device| BlockDevice {
            name: device.name.clone(),
            size: device.size,
            model: device.model.owned(),
            serial: device.serial.owned(),
            wwn: device.wwn.owned(),
            rotational: device.rota,
            transport: device.tran.owned(),
            physical_sector: device.physical_sector,
            logical_sector: device.logical_sector,
            holds_root: device.holds_root(),
        })
        .collect();
    if !disks.iter().any(|disk| disk.holds_root) {
        return Err(ParseError::missing(
            "the disk that holds the root file system",
        ));
    }
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(DiskFacts { disks })
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q35: &str = include_str!("samples/lsblk-q35.json");

    #[test]
    fn disks_have_the_identities_that_the_lab_gave_them() {
        let facts = parse(Q35).unwrap();
        let disk = facts.by_serial("ZTM09FD7").unwrap();
        assert_eq!(disk.model.as_deref(), Some("ST12000NM0008-2H3101"));
        assert_eq!(disk.wwn.as_deref(), Some("0x5000c500a1b2c3d0"));
        assert_eq!(disk.size, 12_000_138_625_024);
        assert_eq!((disk.logical_sector, disk.physical_sector), (512, 4096));
        assert!(disk.rotational && !disk.holds_root);
        assert_eq!(disk.transport.as_deref(), Some("sata"));

        let boot = facts.boot_disk().unwrap();
        assert_eq!((boot.name.as_str(), &boot.model), ("vda", &None));
        let virtual_disk = facts.by_serial("drive-scsi0").unwrap();
        assert_eq!(virtual_disk.model.as_deref(), Some("QEMU HARDDISK"));
    }

    #[test]
    fn the_nas_boots_from_a_virtual_disk_whose_partition_is_mounted() {
        let facts = parse(include_str!("samples/lsblk-nas.json")).unwrap();
        assert_eq!(facts.disks.len(), 4);
        let boot = facts.boot_disk().unwrap();
        assert_eq!(boot.model.as_deref(), Some("QEMU HARDDISK"));
        assert!(!facts.by_serial("ZTM093QT").unwrap().holds_root);
    }

    #[test]
    fn a_boot_pool_of_truenas_holds_the_root_and_no_optical_drive_is_a_disk() {
        // Written by hand after what a TrueNAS SCALE shows.
        let device = |name: &str, kind: &str, fstype: &str, children: &str| {
            format!(
                r#"{{"name":"{name}","type":"{kind}","size":1,"model":null,"serial":null,"wwn":null,"rota":true,
                "tran":null,"phy-sec":512,"log-sec":512,"fstype":{fstype},"label":"boot-pool","mountpoints":[null]{children}}}"#
            )
        };
        let part = device("sda3", "part", "\"zfs_member\"", "");
        let disk = device("sda", "disk", "null", &format!(",\"children\":[{part}]"));
        let rom = device("sr0", "rom", "null", "");
        let facts = parse(&format!("{{\"blockdevices\":[{disk},{rom}]}}")).unwrap();
        assert_eq!(facts.boot_disk().unwrap().name, "sda");
        assert_eq!(facts.disks.len(), 1);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (output, says) in [
            (String::new(), "no output"),
            (Q35[..Q35.len() / 2].to_owned(), "not the JSON"),
            (r#"{"blockdevices":[]}"#.to_owned(), "root file system"),
            (Q35.replace("\"/\"", "\"/mnt\""), "root file system"),
            (Q35.replace("\"wwn\"", "\"wwns\""), "not the JSON"),
            (
                Q35.replace("\"rota\": true", "\"rota\": \"1\""),
                "not the JSON",
            ),
        ] {
            let error = parse(&output).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
