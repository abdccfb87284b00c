//! What tells a disk from every other one, and how three tools in the NAS guest show it.

use crate::lab::{Disk, Interface};
use crate::probe::disk_query::DiskQueryFacts;
use crate::probe::disks::DiskFacts;
use crate::probe::smart::SmartFacts;

/// A way to read the NAS's disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "kebab-case")]
pub(super) enum Tool {
    /// It knows whether a disk turns, and not how fast.
    Lsblk,
    /// TrueNAS's middleware.
    Midclt,
    /// It asks the disk itself.
    Smartctl,
}

/// What tells a disk from every other one, as far as one tool shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    serial: String,
    wwn: String,
    model: String,
    bytes: u64,
    rotation: Rotation,
}

/// What a tool says of a disk's turning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rotation {
    None,
    Some,
    Rpm(u32),
}

impl std::fmt::Display for Rotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rotation::None => f.write_str("does not rotate"),
            Rotation::Some => f.write_str("rotates"),
            Rotation::Rpm(rate) => write!(f, "{rate} rpm"),
        }
    }
}

/// A rate of 0 or 1 is a disk that does not turn, as ATA has it.
fn rpm(rate: Option<u32>) -> Rotation {
    rate.filter(|rate| *rate > 1)
        .map_or(Rotation::None, Rotation::Rpm)
}

impl Identity {
    /// What the lab gave the disk, as this tool shows it.
    pub(super) fn given(disk: &Disk, tool: Tool) -> Self {
        let data = disk.drive.data();
        let rotation = match rpm(Some(data.rotation_rpm.into())) {
            Rotation::Rpm(_) if tool == Tool::Lsblk => Rotation::Some,
            other => other,
        };
        let wwn = match (disk.wwn, data.interface, tool) {
            (Some(wwn), _, _) => bare(&wwn.to_string()),
            (None, Interface::Nvme, Tool::Lsblk | Tool::Midclt) => {
                made_up_name(&disk.serial, data.model)
            }
            (None, _, _) => String::new(),
        };
        Identity {
            serial: disk.serial.clone(),
            wwn,
            model: data.model.to_owned(),
            bytes: data.bytes,
            rotation,
        }
    }

    /// A virtual disk of L1's QEMU, which is not the lab's hardware. udev writes its model, and so
    /// TrueNAS's middleware, with an underscore.
    pub(super) fn is_virtual(&self) -> bool {
        matches!(self.model.as_str(), "QEMU HARDDISK" | "QEMU_HARDDISK")
    }
}

/// The name that Linux makes up for an NVMe namespace that has neither EUI-64 nor NGUID: PCI vendor, serial, model and
/// the namespace's number.
fn made_up_name(serial: &str, model: &str) -> String {
    let (serial, model) = (hex::encode(serial), hex::encode(model));
    format!("nvme.1b36-{serial}-{model}-00000001")
}

/// A WWN without its prefix, which udev writes as `eui.` for NVMe.
fn bare(wwn: &str) -> String {
    wwn.trim_start_matches("0x")
        .trim_start_matches("eui.")
        .to_ascii_lowercase()
}

pub(super) fn identities(mut list: Vec<Identity>) -> String {
    list.sort();
    list.iter()
        .map(|one| {
            let wwn = match one.wwn.as_str() {
                "" => "no wwn".to_owned(),
                wwn => format!("wwn {wwn}"),
            };
            format!(
                "{} ({wwn}, {}, {} bytes, {})",
                one.serial, one.model, one.bytes, one.rotation
            )
        })
        .collect::<Vec<_>>()
        .join(", ")
}

pub(super) fn seen_by_lsblk(facts: &DiskFacts) -> Vec<Identity> {
    facts
        .disks
        .iter()
        .map(|disk| Identity {
            serial: disk.serial.clone().unwrap_or_default(),
            wwn: bare(disk.wwn.as_deref().unwrap_or_default()),
            model: disk.model.clone().unwrap_or_default(),
            bytes: disk.size,
            // lsblk knows only whether it turns.
            rotation: if disk.rotational {
                Rotation::Some
            } else {
                Rotation::None
            },
        })
        .collect()
}

pub(super) fn seen_by_midclt(facts: &DiskQueryFacts) -> Vec<Identity> {
    facts
        .disks
        .iter()
        .map(|disk| Identity {
            serial: disk.serial.clone().unwrap_or_default(),
            wwn: bare(disk.lunid.as_deref().unwrap_or_default()),
            model: disk.model.clone().unwrap_or_default(),
            bytes: disk.size.unwrap_or_default(),
            rotation: rpm(disk.rotationrate),
        })
        .collect()
}

pub(super) fn seen_by_smartctl(facts: &SmartFacts) -> Vec<Identity> {
    facts
        .disks
        .iter()
        .map(|disk| Identity {
            serial: disk.serial.clone().unwrap_or_default(),
            wwn: bare(disk.wwn.as_deref().unwrap_or_default()),
            model: disk.model.clone(),
            bytes: disk.bytes,
            rotation: rpm(disk.rotation_rate),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Drive;

    #[test]
    fn an_nvme_drive_has_a_name_that_linux_made_up() {
        let disk = Disk {
            drive: Drive::Samsung980Pro,
            serial: "S5GXNX0R214783M".to_owned(),
            wwn: None,
        };
        // As a lab's NAS showed them.
        let by_kernel = "nvme.1b36-533547584e5830523231343738334d-53616d73756e6720535344203938302050524f20315442-00000001";
        assert_eq!(Identity::given(&disk, Tool::Lsblk).wwn, by_kernel);
        assert_eq!(Identity::given(&disk, Tool::Midclt).wwn, by_kernel);
        assert_eq!(Identity::given(&disk, Tool::Smartctl).wwn, "");
    }
}
