//! PCI devices and IOMMU groups as sysfs shows them (pve-common, SysFSTools.pm).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A PCI device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciDevice {
    /// `0000:00:1f.2`.
    pub id: String,
    /// `8086`.
    pub vendor: String,
    /// `2922`.
    pub device: String,
}

/// `/sys`.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    /// A `/sys` at any place.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder of a device.
    pub fn device_folder(&self, id: &str) -> PathBuf {
        self.root.join("bus/pci/devices").join(id)
    }

    /// The folder of the driver vfio-pci.
    pub fn vfio_folder(&self) -> PathBuf {
        self.root.join("bus/pci/drivers/vfio-pci")
    }

    /// The devices whose address begins with `prefix`, in order; `0000:` may be left out of it.
    pub fn devices(&self, prefix: &str) -> Vec<PciDevice> {
        let Ok(entries) = fs::read_dir(self.root.join("bus/pci/devices")) else {
            return Vec::new();
        };
        let mut found: Vec<PciDevice> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|id| {
                id.starts_with(prefix)
                    || id
                        .strip_prefix("0000:")
                        .is_some_and(|short| short.starts_with(prefix))
            })
            .map(|id| {
                let vendor = self.hex(&id, "vendor").unwrap_or_default();
                let device = self.hex(&id, "device").unwrap_or_default();
                PciDevice { id, vendor, device }
            })
            .collect();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found
    }

    /// A device that can be prepared: it has an interrupt line, a vendor and a device id.
    pub fn info(&self, id: &str) -> Option<PciDevice> {
        let irq = self.read(id, "irq")?;
        if irq.is_empty() || !irq.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(PciDevice {
            id: id.to_owned(),
            vendor: self.hex(id, "vendor")?,
            device: self.hex(id, "device")?,
        })
    }

    /// Whether there is an IOMMU: `/sys/class/iommu` has an entry. Boot messages prove nothing.
    pub fn has_iommu(&self) -> bool {
        fs::read_dir(self.root.join("class/iommu"))
            .is_ok_and(|mut entries| entries.next().is_some())
    }

    /// The number of a device's IOMMU group.
    pub fn group(&self, id: &str) -> Option<u32> {
        fs::read_link(self.device_folder(id).join("iommu_group"))
            .ok()?
            .file_name()?
            .to_str()?
            .parse()
            .ok()
    }

    /// The PCI devices in a device's IOMMU group, the device included, in order. A group may hold devices of other buses,
    /// such as `INTC1001:00` of ACPI, which Proxmox passes over.
    pub fn group_members(&self, id: &str) -> io::Result<Vec<String>> {
        let mut members: Vec<String> =
            fs::read_dir(self.device_folder(id).join("iommu_group/devices"))?
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| begins_with_domain(name))
                .collect();
        members.sort();
        Ok(members)
    }

    /// `vendor:device` of the subsystem, where there is one.
    pub fn subsystem(&self, id: &str) -> Option<String> {
        Some(format!(
            "{}:{}",
            self.hex(id, "subsystem_vendor")?,
            self.hex(id, "subsystem_device")?
        ))
    }

    /// Whether a device can be given away in parts, as mediated devices.
    pub fn is_mediated(&self, id: &str) -> bool {
        let folder = self.device_folder(id);
        ["mdev_supported_types", "nvidia"]
            .iter()
            .any(|name| folder.join(name).is_dir())
    }

    fn hex(&self, id: &str, file: &str) -> Option<String> {
        self.read(id, file)?.strip_prefix("0x").map(str::to_owned)
    }

    fn read(&self, id: &str, file: &str) -> Option<String> {
        first_line(&self.device_folder(id).join(file))
    }
}

/// `/^[a-f0-9]{4,}:/`.
fn begins_with_domain(name: &str) -> bool {
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    name.split_once(':')
        .is_some_and(|(domain, _)| domain.len() >= 4 && domain.chars().all(hex))
}

fn first_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::FakeHost;

    #[test]
    fn addresses_are_prefixes() {
        let fake = FakeHost::q35();
        let ids = |prefix: &str| {
            fake.sysfs()
                .devices(prefix)
                .into_iter()
                .map(|d| d.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(ids("00:1f.2"), ["0000:00:1f.2"]);
        assert_eq!(
            ids("0000:00:1f"),
            ["0000:00:1f.0", "0000:00:1f.2", "0000:00:1f.3"]
        );
        assert_eq!(ids("00:1f"), ids("0000:00:1f"));
        assert_eq!(ids("00:1e"), [""; 0]);
    }

    #[test]
    fn groups() {
        let fake = FakeHost::q35();
        assert!(fake.sysfs().has_iommu());
        assert_eq!(fake.sysfs().group("0000:00:1f.2"), Some(9));
        assert_eq!(
            fake.sysfs().group_members("0000:00:1f.2").unwrap(),
            ["0000:00:1f.0", "0000:00:1f.2", "0000:00:1f.3"]
        );
        // What else is in the group is no device of PCI.
        let members = fake.root().join("sys/kernel/iommu_groups/9/devices");
        for other in ["INTC1001:00", "00:1f.4", "dmar0"] {
            fs::write(members.join(other), "").unwrap();
        }
        // VMD counts its domains from 10000 on.
        fs::write(members.join("10000:e0:06.0"), "").unwrap();
        assert_eq!(
            fake.sysfs().group_members("0000:00:1f.2").unwrap(),
            [
                "0000:00:1f.0",
                "0000:00:1f.2",
                "0000:00:1f.3",
                "10000:e0:06.0"
            ]
        );
        fake.remove_iommu();
        assert!(!fake.sysfs().has_iommu());
        assert!(fake.sysfs().group_members("0000:00:1f.2").is_err());
    }
}
