//! SMART data of every disk of L2, as `smartctl -a -j` gives it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

mod json;

use self::json::{Attributes, Namespace, Smartctl};
use super::facts::{ProbeError, ask};
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};

/// SMART data of all disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SmartFacts {
    /// By serial number, then by name.
    pub disks: Vec<SmartDisk>,
}

/// What a disk says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SmartDisk {
    /// Its device file.
    pub device: String,
    /// Its command set.
    pub protocol: Protocol,
    /// The family that smartmontools' drive database puts it in.
    pub family: Option<String>,
    /// Model; of a SCSI disk its product name, without the vendor's.
    pub model: String,
    /// Serial number.
    pub serial: Option<String>,
    /// World Wide Name, of an NVMe disk the EUI-64 of its one namespace: `0x` and sixteen hexadecimal
    /// digits.
    pub wwn: Option<String>,
    /// Firmware revision.
    pub firmware: Option<String>,
    /// Capacity in bytes.
    pub bytes: u64,
    /// Logical sector size in bytes.
    pub logical_sector: u32,
    /// Physical sector size in bytes.
    pub physical_sector: Option<u32>,
    /// Rotation rate in revolutions per minute; 0 for a disk that does not spin.
    pub rotation_rate: Option<u32>,
    /// Whether it has SMART; NVMe always has and does not say.
    pub available: Option<bool>,
    /// Whether its SMART is on.
    pub enabled: Option<bool>,
    /// Its verdict on its own health.
    pub passed: Option<bool>,
    /// ATA: its attributes, in the disk's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<Attribute>,
    /// ATA: entries of its error log.
    pub logged_errors: Option<u64>,
    /// ATA: entries of its self-test log.
    pub self_tests: Option<u64>,
    /// NVMe: the bits of its critical warning; 0 is none.
    pub critical_warning: Option<u8>,
    /// The bits of `smartctl`'s exit status.
    pub exit_status: u8,
}

/// A command set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "UPPERCASE")]
pub enum Protocol {
    /// SATA.
    Ata,
    /// SAS and virtual SCSI.
    Scsi,
    /// NVMe.
    Nvme,
}

/// An ATA SMART attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attribute {
    /// Its number.
    pub id: u8,
    /// Its name in smartmontools' drive database.
    pub name: String,
    /// Its normalized value.
    pub value: u8,
    /// The lowest value it ever had.
    pub worst: Option<u8>,
    /// The value at or below which it counts as failed.
    pub threshold: Option<u8>,
    /// Its raw value.
    pub raw: u64,
    /// `now` or `past` where it is or was at its threshold.
    pub failed: Option<String>,
}

impl SmartFacts {
    /// The disk with this serial number.
    pub fn by_serial(&self, serial: &str) -> Option<&SmartDisk> {
        self.disks
            .iter()
            .find(|disk| disk.serial.as_deref() == Some(serial))
    }
}

/// Bit of the exit status for a command line that was not understood or a device of no known kind.
const NOT_TRIED: u8 = 0b01;
/// Bit for a device that did not open, or that said who it is and then was not ready: a RAID controller's
/// volume. The middleware of TrueNAS takes both bits for no data; all others are findings about the disk.
const NOT_READY: u8 = 0b10;

/// Virtio disks are left out: they have no SMART and smartctl does not know their kind.
pub const SCRIPT: &str = r#"
for disk in /sys/block/sd* /sys/block/nvme*; do
    disk=/dev/${disk##*/}
    [ -b "$disk" ] && smartctl -a -j "$disk"
done
echo end
"#;

/// Reads every disk.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(nas: &G, limit: Duration) -> Result<(SmartFacts, String), ProbeError> {
    ask(Probe::Smart, nas, Exec::shell(SCRIPT, limit), parse).await
}

/// Parses one JSON document after the other, and a line `end`.
///
/// # Errors
/// [`ParseError`] for no document at all, for one that is cut off, and for a disk that could not be
/// read or lacks what its kind of disk always says.
pub fn parse(output: &str) -> Result<SmartFacts, ParseError> {
    if output.trim().is_empty() {
        return Err(ParseError::Empty);
    }
    let documents = output
        .strip_suffix("end\n")
        .ok_or_else(|| ParseError::Truncated {
            last: output.lines().last().unwrap_or_default().to_owned(),
        })?;
    let mut disks = serde_json::Deserializer::from_str(documents)
        .into_iter::<Smartctl>()
        .map(|document| disk(document.map_err(ParseError::Json)?))
        .collect::<Result<Vec<_>, _>>()?;
    if disks.is_empty() {
        return Err(ParseError::missing("any SCSI, SATA or NVMe disk"));
    }
    disks.sort_by(|a, b| (&a.serial, &a.device).cmp(&(&b.serial, &b.device)));
    Ok(SmartFacts { disks })
}

fn disk(said: Smartctl) -> Result<SmartDisk, ParseError> {
    let asked = said.smartctl.argv.last().map_or("a disk", String::as_str);
    let is_known = said.serial_number.is_some() && said.user_capacity.is_some();
    let status = said.smartctl.exit_status;
    if status & NOT_TRIED != 0 || status & NOT_READY != 0 && !is_known {
        let messages: Vec<&str> = said
            .smartctl
            .messages
            .iter()
            .map(|m| m.string.as_str())
            .collect();
        return Err(ParseError::shape(
            format!("smartctl on {asked}"),
            format!(
                "exit status {}: {}",
                said.smartctl.exit_status,
                messages.join("; ")
            ),
        ));
    }
    let Some(device) = said.device else {
        return Err(ParseError::missing(format!("`device` of {asked}")));
    };
    let lacks = |what: &str| ParseError::missing(format!("`{what}` of {}", device.name));
    let protocol = match device.protocol.as_str() {
        "ATA" => Protocol::Ata,
        "SCSI" => Protocol::Scsi,
        "NVMe" => Protocol::Nvme,
        other => {
            return Err(ParseError::shape(
                device.name,
                format!("the protocol `{other}` is not known"),
            ));
        }
    };
    match protocol {
        Protocol::Ata if said.smart_support.is_none() => return Err(lacks("smart_support")),
        Protocol::Ata if said.serial_number.is_none() => return Err(lacks("serial_number")),
        Protocol::Nvme if said.nvme_smart_health_information_log.is_none() => {
            return Err(lacks("nvme_smart_health_information_log"));
        }
        _ => {}
    }
    let eui64 = match said.nvme_namespaces.as_slice() {
        [Namespace { eui64: Some(name) }] => Some(name.oui << 40 | name.ext_id),
        _ => None,
    };
    Ok(SmartDisk {
        protocol,
        family: said.model_family,
        model: said
            .model_name
            .or(said.scsi_product)
            .ok_or_else(|| lacks("model_name"))?,
        serial: said.serial_number,
        wwn: said
            .wwn
            .map(|wwn| format!("{:#018x}", wwn.naa << 60 | wwn.oui << 36 | wwn.id))
            .or(said.logical_unit_id)
            .or(eui64.map(|name| format!("{name:#018x}"))),
        firmware: said.firmware_version.or(said.scsi_revision),
        bytes: said
            .user_capacity
            .ok_or_else(|| lacks("user_capacity"))?
            .bytes,
        logical_sector: said
            .logical_block_size
            .ok_or_else(|| lacks("logical_block_size"))?,
        physical_sector: said.physical_block_size,
        rotation_rate: said.rotation_rate,
        available: said.smart_support.as_ref().map(|smart| smart.available),
        enabled: said.smart_support.and_then(|smart| smart.enabled),
        passed: said.smart_status.map(|status| status.passed),
        attributes: said.ata_smart_attributes.map_or_else(Vec::new, attributes),
        logged_errors: said.ata_smart_error_log.map(|log| log.summary.count),
        self_tests: said.ata_smart_self_test_log.map(|log| log.standard.count),
        critical_warning: said
            .nvme_smart_health_information_log
            .map(|log| log.critical_warning),
        exit_status: said.smartctl.exit_status,
        device: device.name,
    })
}

fn attributes(raw: Attributes) -> Vec<Attribute> {
    raw.table
        .into_iter()
        .map(|attribute| Attribute {
            id: attribute.id,
            name: attribute.name,
            value: attribute.value,
            worst: attribute.worst,
            threshold: attribute.thresh,
            raw: attribute.raw.value,
            failed: Some(attribute.when_failed).filter(|when| !when.is_empty()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q35: &str = include_str!("samples/smart-q35.json");

    #[test]
    fn every_kind_of_disk_says_what_it_is() {
        let facts = parse(Q35).unwrap();
        assert_eq!(facts.disks.len(), 5);

        let exos = facts.by_serial("ZLM2BF4E").unwrap();
        assert_eq!(exos.protocol, Protocol::Ata);
        assert_eq!(exos.family.as_deref(), Some("Seagate Exos X14"));
        assert_eq!(exos.model, "ST12000NM0008-2H3101");
        assert_eq!(exos.wwn.as_deref(), Some("0x5000c500a1b2c3d1"));
        assert_eq!(exos.firmware.as_deref(), Some("SN02"));
        assert_eq!(exos.bytes, 12_000_138_625_024);
        assert_eq!(exos.rotation_rate, Some(7200));
        assert_eq!(
            (exos.available, exos.enabled, exos.passed),
            (Some(true), Some(true), Some(true))
        );
        assert_eq!((exos.logged_errors, exos.self_tests), (Some(0), Some(0)));
        assert_eq!(exos.exit_status, 0);
        let ids: Vec<u8> = exos
            .attributes
            .iter()
            .map(|attribute| attribute.id)
            .collect();
        assert_eq!(ids, [1, 3, 4, 5, 9, 12, 190]);

        let nvme = facts.by_serial("NVME0001").unwrap();
        assert_eq!(
            (nvme.protocol, nvme.critical_warning),
            (Protocol::Nvme, Some(0))
        );
        assert_eq!(nvme.passed, Some(true));

        let virtual_disk = facts
            .disks
            .iter()
            .find(|disk| disk.protocol == Protocol::Scsi)
            .unwrap();
        assert_eq!(virtual_disk.model, "QEMU HARDDISK");
        assert_eq!(
            (virtual_disk.available, virtual_disk.passed),
            (Some(false), None)
        );
    }

    /// As smartmontools 7.4 wrote it of a disk behind a MegaRAID controller, shortened.
    const VOLUME: &str = r#"{"smartctl":{"argv":["smartctl","-a","-j","/dev/sdb"],"exit_status":2},
        "device":{"name":"/dev/sdb","type":"scsi","protocol":"SCSI"},
        "scsi_vendor":"SEAGATE","scsi_product":"ST12000NM0038","scsi_revision":"E003",
        "user_capacity":{"blocks":23437770752,"bytes":12000138625024},
        "logical_block_size":512,"physical_block_size":4096,"rotation_rate":7200,
        "logical_unit_id":"0x5000c500a6c214bf","serial_number":"ZHZ3W6LN"}"#;

    #[test]
    fn a_volume_of_a_raid_controller_is_known_and_has_no_verdict() {
        let facts = parse(&format!("{VOLUME}\nend\n")).unwrap();
        let disk = facts.by_serial("ZHZ3W6LN").unwrap();
        assert_eq!(disk.wwn.as_deref(), Some("0x5000c500a6c214bf"));
        assert_eq!(
            (disk.model.as_str(), disk.exit_status),
            ("ST12000NM0038", 2)
        );
        assert_eq!((disk.available, disk.passed), (None, None));
        let nameless = VOLUME.replace("serial_number", "x");
        let error = parse(&format!("{nameless}\nend\n"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("/dev/sdb: exit status 2"), "{error}");
    }

    #[test]
    fn what_is_not_known_is_refused() {
        // The failed open was captured on a Firecracker machine with smartmontools 7.3.
        let unreadable = r#"{"smartctl":{"argv":["smartctl","-a","-j","/dev/vda"],
            "messages":[{"string":"/dev/vda: Unable to detect device type","severity":"error"}],"exit_status":1}}"#;
        for (output, says) in [
            (String::new(), "no output"),
            ("[]end\n".to_owned(), "not the JSON"),
            ("end\n".to_owned(), "any SCSI"),
            (Q35[..Q35.len() - 100].to_owned(), "breaks off"),
            (
                unreadable.to_owned() + "\nend\n",
                "/dev/vda: exit status 1: /dev/vda: Unable to detect",
            ),
            (Q35.replace("\"ATA\"", "\"MMC\""), "`MMC`"),
            (
                Q35.replace("\"nvme_smart_health_information_log\"", "\"x\""),
                "nvme_smart_health_information_log",
            ),
            (
                Q35.replace("\"smart_support\"", "\"x\""),
                "`smart_support` of /dev/sdb",
            ),
        ] {
            let error = parse(&output).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
