//! A disk as the middleware describes it (middleware: `device_info.py`, `disk_/sync.py`, `disk.py`).

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};

use crate::{device::Device, pool::Membership};

/// One disk: its fields in the middleware's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry(pub Vec<(&'static str, Value)>);

impl Entry {
    /// A field's value.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(name, _)| *name == field)
            .map(|(_, value)| value)
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Describes a disk. The pool's name is joined only when it is asked for; the identity of the disk in it always stands.
pub fn describe(device: &Device, membership: Option<&Membership>, with_pool: bool) -> Entry {
    let property = |name: &str| {
        device
            .properties
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    };
    let serial = ["ID_SCSI_SERIAL", "ID_SERIAL_SHORT", "ID_SERIAL"]
        .into_iter()
        .find_map(property)
        .unwrap_or_default();
    let lunid = property("ID_WWN").map(|wwn| {
        let plain = wwn.strip_prefix("0x").unwrap_or(wwn);
        plain.strip_prefix("eui.").unwrap_or(plain)
    });
    let identifier = match (serial, lunid, &device.zfs_partition) {
        ("", _, Some(uuid)) => format!("{{uuid}}{uuid}"),
        ("", _, None) => format!("{{devicename}}{}", device.name),
        (serial, Some(lunid), _) => format!("{{serial_lunid}}{serial}_{lunid}"),
        (serial, None, _) => format!("{{serial}}{serial}"),
    };
    let bus = property("ID_BUS").map_or_else(|| "UNKNOWN".to_owned(), str::to_ascii_uppercase);
    let pool = membership
        .filter(|_| with_pool)
        .map(|membership| membership.pool.as_str());
    Entry(vec![
        ("identifier", json!(identifier)),
        ("name", json!(device.name)),
        ("subsystem", json!(device.subsystem)),
        ("number", json!(device_number(device.number))),
        ("serial", json!(serial)),
        ("lunid", json!(lunid)),
        ("size", json!(device.size)),
        ("description", json!("")),
        ("transfermode", json!("Auto")),
        ("hddstandby", json!("ALWAYS ON")),
        ("advpowermgmt", json!("DISABLED")),
        ("togglesmart", json!(true)),
        ("smartoptions", json!("")),
        ("expiretime", Value::Null),
        ("critical", Value::Null),
        ("difference", Value::Null),
        ("informational", Value::Null),
        ("model", json!(property("ID_MODEL"))),
        ("rotationrate", json!(device.rotation_rate)),
        ("type", json!(if device.rotational { "HDD" } else { "SSD" })),
        (
            "zfs_guid",
            json!(membership.map(|membership| membership.guid.as_str())),
        ),
        ("bus", json!(bus)),
        ("devname", json!(device.name)),
        ("enclosure", Value::Null),
        ("pool", json!(pool)),
    ])
}

/// The number that `stat` would give for the device.
fn device_number((major, minor): (u64, u64)) -> u64 {
    (major & !0xfff) << 32 | (major & 0xfff) << 8 | (minor & !0xff) << 12 | minor & 0xff
}

#[cfg(test)]
mod tests {
    use crate::device::testing::{Disk, Fake};

    use super::*;

    /// Checks fields of the only disk.
    fn check(fake: &Fake, expected: &[(&str, Value)]) {
        let disks = fake.host().disks().unwrap();
        assert_eq!(disks.len(), 1);
        let entry = describe(&disks[0], None, true);
        for (field, value) in expected {
            assert_eq!(entry.get(field), Some(value), "{field}");
        }
    }

    #[test]
    fn a_sata_disk_behind_ahci() {
        let fake = Fake::new();
        fake.ata("sda", "ZTM09FD7", "0x5000c500a1b2c3d0");
        let disks = fake.host().disks().unwrap();
        let text = serde_json::to_string(&describe(&disks[0], None, false)).unwrap();
        assert_eq!(
            text,
            r#"{"identifier":"{serial_lunid}ZTM09FD7_5000c500a1b2c3d0","name":"sda","subsystem":"scsi","number":2048,"serial":"ZTM09FD7","lunid":"5000c500a1b2c3d0","size":12000138625024,"description":"","transfermode":"Auto","hddstandby":"ALWAYS ON","advpowermgmt":"DISABLED","togglesmart":true,"smartoptions":"","expiretime":null,"critical":null,"difference":null,"informational":null,"model":"ST12000NM0008-2H3101","rotationrate":7200,"type":"HDD","zfs_guid":null,"bus":"ATA","devname":"sda","enclosure":null,"pool":null}"#
        );
    }

    #[test]
    fn an_nvme_disk() {
        let fake = Fake::new();
        fake.disk(&Disk {
            name: "nvme0n1",
            parent: ("pci0000:00/0000:01:00.0/nvme/nvme0", "nvme"),
            blocks: 2048,
            rotational: false,
            rate: None,
            properties: &[
                ("ID_SERIAL_SHORT", "NV1"),
                ("ID_WWN", "eui.0025385b00000001"),
                ("ID_MODEL", "QEMU NVMe Ctrl"),
            ],
        });
        check(
            &fake,
            &[
                ("identifier", json!("{serial_lunid}NV1_0025385b00000001")),
                ("subsystem", json!("nvme")),
                ("type", json!("SSD")),
                ("rotationrate", Value::Null),
                ("bus", json!("UNKNOWN")),
                ("size", json!(1_048_576)),
            ],
        );
    }

    #[test]
    fn virtual_disks_with_and_without_a_serial() {
        let fake = Fake::new();
        fake.qemu_scsi(
            "sda",
            &[
                ("ID_SERIAL", "0QEMU_QEMU_HARDDISK_drive-scsi0"),
                ("ID_SERIAL_SHORT", "drive-scsi0"),
            ],
        );
        check(
            &fake,
            &[
                ("identifier", json!("{serial}drive-scsi0")),
                ("serial", json!("drive-scsi0")),
                ("lunid", Value::Null),
                ("model", json!("QEMU_HARDDISK")),
                ("type", json!("HDD")),
                ("rotationrate", Value::Null),
            ],
        );

        let fake = Fake::new();
        fake.qemu_scsi(
            "sda",
            &[
                ("ID_SERIAL_SHORT", "drive-scsi0"),
                ("ID_SCSI_SERIAL", "BOOT"),
            ],
        );
        check(
            &fake,
            &[
                ("identifier", json!("{serial}BOOT")),
                ("serial", json!("BOOT")),
            ],
        );

        let fake = Fake::new();
        fake.qemu_scsi("sda", &[("ID_SERIAL", "")]);
        check(
            &fake,
            &[
                ("identifier", json!("{devicename}sda")),
                ("serial", json!("")),
            ],
        );
        fake.partition(
            "sda",
            1,
            &[
                ("ID_PART_ENTRY_TYPE", "0fc63daf-8483-4772-8e79-3d69d8477de4"),
                ("ID_PART_ENTRY_UUID", "1"),
            ],
        );
        fake.partition(
            "sda",
            2,
            &[
                ("ID_PART_ENTRY_TYPE", "6a898cc3-1dd2-11b2-99a6-080020736631"),
                ("ID_PART_ENTRY_UUID", "2"),
            ],
        );
        check(&fake, &[("identifier", json!("{uuid}2"))]);
    }

    #[test]
    fn disks_with_the_same_serial_are_told_apart_by_nothing() {
        let fake = Fake::new();
        for name in ["sda", "sdb"] {
            fake.qemu_scsi(name, &[("ID_SERIAL", "0QEMU_QEMU_HARDDISK")]);
        }
        let entries: Vec<Entry> = fake
            .host()
            .disks()
            .unwrap()
            .iter()
            .map(|disk| describe(disk, None, false))
            .collect();
        assert_eq!(entries[0].get("identifier"), entries[1].get("identifier"));
        assert_eq!(
            entries[0].get("serial"),
            Some(&json!("0QEMU_QEMU_HARDDISK"))
        );
    }

    #[test]
    fn an_ssd_says_one_and_a_silent_disk_nought() {
        for (rotational, rate, expected) in [
            (true, Some(1), Value::Null),
            (true, Some(0), Value::Null),
            (true, Some(5400), json!(5400)),
            (false, Some(7200), Value::Null),
        ] {
            let fake = Fake::new();
            fake.disk(&Disk {
                name: "sda",
                parent: ("x", "scsi"),
                blocks: 0,
                rotational,
                rate,
                properties: &[],
            });
            check(&fake, &[("rotationrate", expected), ("size", Value::Null)]);
        }
    }

    #[test]
    fn device_numbers() {
        assert_eq!(device_number((8, 16)), 2064);
        assert_eq!(device_number((259, 300)), 0x0011_032c);
    }
}
