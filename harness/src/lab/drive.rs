//! Drive types and what their data sheets say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A drive type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Drive {
    /// Seagate Exos X14, 12 TB, SATA; smartmontools knows its family by its model.
    ExosX14,
    /// The SAS drive of the same family.
    ExosX14Sas,
    /// Samsung 980 PRO, 1 TB, an NVMe drive.
    #[serde(rename = "980-pro")]
    Samsung980Pro,
}

/// What a drive is attached by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::Display)]
pub enum Interface {
    /// SATA.
    #[strum(serialize = "SATA")]
    Sata,
    /// SAS.
    #[strum(serialize = "SAS")]
    Sas,
    /// NVMe: the drive is a PCI device itself.
    #[strum(serialize = "NVMe")]
    Nvme,
}

/// What a drive type says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriveData {
    /// What it is attached by.
    pub interface: Interface,
    /// Vendor in the SCSI inquiry, at most 8 characters; only SAS drives have one.
    pub vendor: &'static str,
    /// Model number, of a SAS drive its product: at most 40 characters, 16 with SAS.
    pub model: &'static str,
    /// Firmware revision: at most 8 characters, 4 with SAS.
    pub firmware: &'static str,
    /// The family's name in the drive database of smartmontools, which has SATA drives only.
    pub family: Option<&'static str>,
    /// Capacity in bytes.
    pub bytes: u64,
    /// Rotation rate in revolutions per minute; 0 for a drive that does not turn.
    pub rotation_rpm: u16,
    /// Physical sector size in bytes; the logical one is 512.
    pub physical_sector: u16,
}

impl Drive {
    /// The type's data sheet.
    pub const fn data(self) -> DriveData {
        match self {
            Drive::ExosX14 => DriveData {
                interface: Interface::Sata,
                vendor: "",
                model: "ST12000NM0008-2H3101",
                firmware: "SN02",
                family: Some("Seagate Exos X14"),
                bytes: 12_000_138_625_024,
                rotation_rpm: 7200,
                physical_sector: 4096,
            },
            Drive::ExosX14Sas => DriveData {
                interface: Interface::Sas,
                vendor: "SEAGATE",
                model: "ST12000NM0038",
                firmware: "E003",
                family: None,
                bytes: 12_000_138_625_024,
                rotation_rpm: 7200,
                physical_sector: 4096,
            },
            Drive::Samsung980Pro => DriveData {
                interface: Interface::Nvme,
                vendor: "",
                model: "Samsung SSD 980 PRO 1TB",
                firmware: "5B2QGXA7",
                family: None,
                bytes: 1_000_204_886_016,
                rotation_rpm: 0,
                physical_sector: 512,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU cuts longer ones in silence.
    #[test]
    fn names_fit_their_fields() {
        for drive in [Drive::ExosX14, Drive::ExosX14Sas, Drive::Samsung980Pro] {
            let data = drive.data();
            let (model, firmware) = match data.interface {
                Interface::Sas => (16, 4),
                Interface::Sata | Interface::Nvme => (40, 8),
            };
            assert!(data.model.len() <= model, "{drive:?}");
            assert!(data.firmware.len() <= firmware, "{drive:?}");
            assert!(data.vendor.len() <= 8, "{drive:?}");
            assert_eq!(data.bytes % 512, 0, "{drive:?}");
        }
    }
}
