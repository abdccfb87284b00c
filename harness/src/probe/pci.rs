//! PCI devices: what they are, what holds them, and how they can be reset.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::text::{Record, optional, records};
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};
use crate::lab::PciAddress;
use crate::scenario::DriverState;

/// All PCI devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PciFacts {
    /// In the order of their addresses.
    pub devices: Vec<PciDevice>,
}

/// A PCI device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PciDevice {
    /// Where it is.
    pub address: PciAddress,
    /// Class, subclass and programming interface: six hexadecimal digits.
    pub class: String,
    /// Vendor id: four hexadecimal digits.
    pub vendor: String,
    /// Device id: four hexadecimal digits.
    pub device: String,
    /// Vendor id of the subsystem: four hexadecimal digits.
    pub subsystem_vendor: String,
    /// Device id of the subsystem: four hexadecimal digits.
    pub subsystem_device: String,
    /// The driver that holds it.
    pub driver: DriverState,
    /// The only driver that may take it.
    pub driver_override: Option<String>,
    /// Ways to reset it, the preferred one first; empty where there is none.
    pub reset_methods: Vec<String>,
    /// Its IOMMU group.
    pub iommu_group: Option<u32>,
}

impl PciFacts {
    /// The device at an address.
    pub fn device(&self, address: PciAddress) -> Option<&PciDevice> {
        self.devices.iter().find(|device| device.address == address)
    }
}

impl PciDevice {
    /// Vendor and device id, such as `8086:2922`.
    pub fn id(&self) -> String {
        format!("{}:{}", self.vendor, self.device)
    }

    /// Whether it is a mass storage controller.
    pub fn is_storage(&self) -> bool {
        self.class.starts_with("01")
    }
}

/// The kernel shows `reset_method` only where there is one, and prints `(null)` for no override.
pub const SCRIPT: &str = r#"
for device in /sys/bus/pci/devices/*; do
    [ -e "$device/class" ] || continue
    read -r class <"$device/class"
    read -r vendor <"$device/vendor"
    read -r id <"$device/device"
    read -r subvendor <"$device/subsystem_vendor"
    read -r subid <"$device/subsystem_device"
    only='(null)' resets=
    [ -e "$device/driver_override" ] && read -r only <"$device/driver_override"
    [ -e "$device/reset_method" ] && read -r resets <"$device/reset_method"
    if cd -P "$device/driver" 2>/dev/null; then driver=${PWD##*/}; else driver=-; fi
    if cd -P "$device/iommu_group" 2>/dev/null; then group=${PWD##*/}; else group=-; fi
    printf 'device\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "${device##*/}" "$class" "$vendor" "$id" \
        "$subvendor" "$subid" "$driver" "$only" "$group" "$resets"
done
echo end
"#;

/// Reads all PCI devices.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(pve: &G, limit: Duration) -> Result<(PciFacts, String), ProbeError> {
    ask(Probe::Pci, pve, Exec::shell(SCRIPT, limit), parse).await
}

/// Parses what [`SCRIPT`] prints.
///
/// # Errors
/// [`ParseError`] for output that is cut off or unknown, and for a machine without PCI devices.
pub fn parse(output: &str) -> Result<PciFacts, ParseError> {
    let mut devices = Vec::new();
    for record in records(output)? {
        if record.keyword != "device" {
            return Err(record.unknown());
        }
        let [
            address,
            class,
            vendor,
            device,
            subvendor,
            subid,
            driver,
            only,
            group,
            resets,
        ] = record.fields()?;
        devices.push(PciDevice {
            address: address.parse().map_err(|why: String| record.refuse(why))?,
            class: hex(&record, class, 6)?,
            vendor: hex(&record, vendor, 4)?,
            device: hex(&record, device, 4)?,
            subsystem_vendor: hex(&record, subvendor, 4)?,
            subsystem_device: hex(&record, subid, 4)?,
            driver: match driver {
                "" => return Err(record.refuse("the driver's name is empty")),
                "-" => DriverState::None,
                name => DriverState::Bound(name.to_owned()),
            },
            driver_override: (!matches!(only, "" | "(null)")).then(|| only.to_owned()),
            reset_methods: resets.split_whitespace().map(str::to_owned).collect(),
            iommu_group: optional(group)
                .map(|group| group.parse())
                .transpose()
                .map_err(|_| record.refuse("the IOMMU group is no number"))?,
        });
    }
    if devices.is_empty() {
        return Err(ParseError::missing("any PCI device"));
    }
    devices.sort_by_key(|device| device.address);
    Ok(PciFacts { devices })
}

/// The digits of a number of this length as sysfs writes it, `0x` first.
fn hex(record: &Record<'_>, field: &str, digits: usize) -> Result<String, ParseError> {
    field
        .strip_prefix("0x")
        .filter(|hex| hex.len() == digits && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(str::to_owned)
        .ok_or_else(|| {
            record.refuse(format!(
                "`{field}` is not 0x and {digits} hexadecimal digits"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VFIO: &str = include_str!("samples/pci-q35-intel-vfio.txt");

    #[test]
    fn a_device_says_who_holds_it_and_how_it_is_reset() {
        let facts = parse(VFIO).unwrap();
        assert_eq!(facts.devices.len(), 9);
        let device = |address: &str| facts.device(address.parse().unwrap()).unwrap();

        let sata = device("00:1f.2");
        assert_eq!(
            (sata.vendor.as_str(), sata.device.as_str()),
            ("8086", "2922")
        );
        assert_eq!(sata.class, "010601");
        assert!(sata.is_storage());
        assert_eq!(sata.driver, DriverState::Bound("vfio-pci".to_owned()));
        assert_eq!(sata.driver_override.as_deref(), Some("vfio-pci"));
        assert!(sata.reset_methods.is_empty());
        assert_eq!(sata.iommu_group, Some(6));

        assert_eq!(device("00:01.0").reset_methods, ["flr"]);
        assert_eq!(device("00:00.0").driver, DriverState::None);
        assert_eq!(device("00:00.0").driver_override, None);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let line = "device\t0000:00:1f.2\t0x010601\t0x8086\t0x2922\t0x1af4\t0x1100\tahci\t(null)\t6\tbus\n";
        assert!(parse(&format!("{line}end\n")).is_ok());
        for (output, says) in [
            (String::new(), "no output"),
            ("end\n".to_owned(), "PCI device"),
            (line.to_owned(), "breaks off"),
            (line.replace("\tbus", "") + "end\n", "10 fields"),
            (line.replace("0x8086", "") + "end\n", "4 hexadecimal digits"),
            (
                line.replace("0x010601", "0x0106") + "end\n",
                "6 hexadecimal digits",
            ),
            (line.replace("\t6\t", "\tsix\t") + "end\n", "no number"),
            (line.replace("ahci", "") + "end\n", "driver's name"),
            (line.replace("1f.2", "1f") + "end\n", "not a PCI address"),
        ] {
            let error = parse(&output).unwrap_err().to_string();
            assert!(error.contains(says), "{output:?}: {error}");
        }
    }
}
