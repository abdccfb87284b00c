//! What a lab machine *is*: its virtual IOMMU, its storage controllers and where they sit on PCI,
//! its disks and their identities. Where and how it runs is [`crate::machine`]'s business.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A machine description, one TOML file under `scenarios/labs/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Lab {
    /// One sentence on what is particular about this machine.
    pub summary: String,
    /// The IOMMU that the host's firmware shows.
    pub iommu: Iommu,
    /// Whether the IOMMU remaps interrupts; VFIO refuses a guest's interrupts without it.
    #[serde(default = "yes")]
    pub interrupt_remapping: bool,
    /// Virtual CPUs of the host.
    #[serde(default = "two")]
    #[schemars(range(min = 1))]
    pub cpus: u8,
    /// Memory of the host in MiB, from 512; the NAS guest's memory comes out of it.
    #[serde(default = "l1_memory")]
    #[schemars(range(min = 512))]
    pub memory_mib: u32,
    /// The storage controllers beside the virtio disk that the host boots from.
    #[serde(default, rename = "controller")]
    pub controllers: Vec<Controller>,
}

fn yes() -> bool {
    true
}

fn two() -> u8 {
    2
}

fn l1_memory() -> u32 {
    3072
}

/// The IOMMU of a lab's host.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Iommu {
    /// Intel VT-d (`intel-iommu`).
    Intel,
    /// AMD-Vi (`amd-iommu`).
    Amd,
    /// `virtio-iommu-pci`.
    Virtio,
    /// No IOMMU: VT-d is off in the firmware, or the board has none.
    None,
}

/// A storage controller of the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Controller {
    /// The chip.
    pub model: ControllerModel,
    /// Where it sits on PCI.
    pub slot: Slot,
    /// The disks at its ports, in the order of the ports.
    #[serde(default, rename = "disk")]
    pub disks: Vec<Disk>,
}

/// The chip of a storage controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ControllerModel {
    /// Intel ICH9 AHCI, six SATA ports, PCI ids 8086:2922.
    Ich9Ahci,
}

/// Where a controller sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    /// The chipset's own function at 0000:00:1f.2, in one IOMMU group with LPC bridge and SMBus.
    ChipsetSata,
    /// Alone behind a PCI Express root port of its own.
    RootPort,
}

/// A disk of the lab: what is printed on its label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Disk {
    /// The drive type, which settles model, firmware, size and rotation rate.
    pub drive: Drive,
    /// Serial number: letters, digits and hyphens, at most 20 of them, the length of the ATA field.
    #[schemars(length(min = 1, max = 20))]
    pub serial: String,
    /// World Wide Name: `0x5`, then fifteen hexadecimal digits; Seagate's begin with `0x5000c500`.
    pub wwn: Wwn,
}

/// A drive type that `smartmontools` knows by its model string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Drive {
    /// Seagate Exos X14, 12 TB.
    ExosX14,
}

/// What a drive type says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriveData {
    /// ATA model number; at most 40 characters.
    pub model: &'static str,
    /// ATA firmware revision; at most 8 characters.
    pub firmware: &'static str,
    /// The family's name in the drive database of smartmontools.
    pub family: &'static str,
    /// Capacity in bytes.
    pub bytes: u64,
    /// Rotation rate in revolutions per minute.
    pub rotation_rpm: u16,
    /// Physical sector size in bytes; the logical one is 512.
    pub physical_sector: u16,
}

impl Drive {
    /// The type's data sheet.
    pub const fn data(self) -> DriveData {
        match self {
            Drive::ExosX14 => DriveData {
                model: "ST12000NM0008-2H3101",
                firmware: "SN02",
                family: "Seagate Exos X14",
                bytes: 12_000_138_625_024,
                rotation_rpm: 7200,
                physical_sector: 4096,
            },
        }
    }
}

/// A World Wide Name, written `0x` and sixteen hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wwn(pub u64);

impl fmt::Display for Wwn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl FromStr for Wwn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("0x")
            .and_then(|digits| hexadecimal(digits, 16))
            .map(Wwn)
            .ok_or_else(|| {
                format!("`{text}` is not a WWN: write 0x and sixteen hexadecimal digits")
            })
    }
}

impl Serialize for Wwn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Wwn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Wwn {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Wwn".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "wwn",
            "pattern": "^0x[0-9a-fA-F]{16}$"
        })
    }
}

/// A number of exactly so many hexadecimal digits; no sign, unlike in `from_str_radix`.
fn hexadecimal(text: &str, digits: usize) -> Option<u64> {
    let well_formed = text.len() == digits && text.chars().all(|c| c.is_ascii_hexdigit());
    well_formed
        .then(|| u64::from_str_radix(text, 16).ok())
        .flatten()
}

/// A PCI address, `domain:bus:device.function` in hexadecimal; the domain may be left out when read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// PCI domain (segment).
    pub domain: u16,
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{:x}",
            self.domain, self.bus, self.device, self.function
        )
    }
}

impl FromStr for PciAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (rest, function) = text.rsplit_once('.')?;
            let mut parts = rest.rsplit(':');
            let device = hexadecimal(parts.next()?, 2).filter(|device| *device < 32)?;
            let bus = hexadecimal(parts.next()?, 2)?;
            let domain = match parts.next() {
                Some(digits) => hexadecimal(digits, 4)?,
                None => 0,
            };
            let function = hexadecimal(function, 1).filter(|function| *function < 8)?;
            parts.next().is_none().then_some(PciAddress {
                domain: u16::try_from(domain).ok()?,
                bus: u8::try_from(bus).ok()?,
                device: u8::try_from(device).ok()?,
                function: u8::try_from(function).ok()?,
            })
        };
        parse().ok_or_else(|| {
            format!("`{text}` is not a PCI address: write domain:bus:device.function, such as 0000:00:1f.2")
        })
    }
}

impl Serialize for PciAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PciAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for PciAddress {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PciAddress".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "pci-address",
            "pattern": "^([0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[01][0-9a-fA-F]\\.[0-7]$"
        })
    }
}

impl Lab {
    /// Every disk at a storage controller, in the order of controllers and ports.
    pub fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.controllers
            .iter()
            .flat_map(|controller| &controller.disks)
    }

    /// The machine in a few words: its IOMMU and how many disks it has.
    pub fn in_short(&self) -> String {
        format!("iommu {} and {} disks", self.iommu, self.disks().count())
    }

    /// Exchanges two serial numbers; the disks that carry them stay where they are.
    pub fn swap_serials(&mut self, pair: &[String; 2]) {
        let disks = self.controllers.iter_mut().flat_map(|one| &mut one.disks);
        for disk in disks {
            if let Some(at) = pair.iter().position(|serial| *serial == disk.serial) {
                disk.serial.clone_from(&pair[1 - at]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_round_trip_and_default_the_domain() {
        let full: PciAddress = "0000:00:1f.2".parse().unwrap();
        assert_eq!("00:1f.2".parse::<PciAddress>().unwrap(), full);
        assert_eq!(full.to_string(), "0000:00:1f.2");
        for wrong in [
            "",
            "00:1f",
            "00:20.0",
            "00:1f.8",
            "0000:0000:00:00.0",
            "zz:00.0",
            "0:1f.2",
            "+0:1f.2",
            "000:00:1f.2",
            "00:1f.02",
        ] {
            assert!(wrong.parse::<PciAddress>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wwn_has_sixteen_digits() {
        let wwn: Wwn = "0x5000c500a1b2c3d4".parse().unwrap();
        assert_eq!(wwn.to_string(), "0x5000c500a1b2c3d4");
        assert!("0x5000".parse::<Wwn>().is_err());
        assert!("5000c500a1b2c3d4".parse::<Wwn>().is_err());
        assert!("0x+000c500a1b2c3d".parse::<Wwn>().is_err());
    }
}
