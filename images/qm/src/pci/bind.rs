//! Giving a device to vfio-pci, with its whole IOMMU group (pve-common, SysFSTools.pm; qemu-server, PCI.pm,
//! `prepare_pci_device`). Nothing gives it back: after a stop the group stays with vfio-pci, as on a real host.

use std::{io, path::Path};

use super::{HostPci, PciDevice, PciError, Sysfs};
use crate::kernel::Kernel;

/// Makes one device of a `hostpciN` ready for QEMU.
pub fn prepare(
    sysfs: &Sysfs,
    kernel: &dyn Kernel,
    hostpci: &HostPci,
    id: &str,
    warn: &mut dyn FnMut(&str),
) -> Result<(), PciError> {
    if !sysfs.has_iommu() {
        return Err(PciError::NoIommu);
    }
    if sysfs.info(id).is_none() {
        return Err(PciError::NoInfo(id.to_owned()));
    }
    if hostpci.keep_driver {
        return Ok(());
    }
    bind_group(sysfs, kernel, id, warn)?;
    let reset = sysfs.device_folder(id).join("reset");
    if reset.is_file() && !write(kernel, &reset, "1", warn) {
        warn(&format!(
            "failed to reset PCI device '{id}', but trying to continue as not all devices need a reset"
        ));
    }
    Ok(())
}

fn bind_group(
    sysfs: &Sysfs,
    kernel: &dyn Kernel,
    id: &str,
    warn: &mut dyn FnMut(&str),
) -> Result<(), PciError> {
    if !sysfs.vfio_folder().is_dir() {
        kernel.modprobe("vfio-pci");
    }
    if !sysfs.vfio_folder().is_dir() {
        return Err(PciError::NoVfio);
    }
    for member in sysfs.group_members(id).map_err(PciError::NoGroup)? {
        // Bridges and root ports stay: VFIO does not ask for them.
        if sysfs.device_folder(&member).join("pci_bus").exists() {
            continue;
        }
        let bound = sysfs
            .info(&member)
            .is_some_and(|device| bind(sysfs, kernel, &device, warn));
        if !bound {
            return Err(PciError::CannotBind(member));
        }
    }
    Ok(())
}

fn bind(
    sysfs: &Sysfs,
    kernel: &dyn Kernel,
    device: &PciDevice,
    warn: &mut dyn FnMut(&str),
) -> bool {
    let vfio = sysfs.vfio_folder();
    let bound = vfio.join(&device.id);
    if bound.is_dir() {
        return true;
    }
    // The driver then also takes every unbound device of that kind.
    if !write(
        kernel,
        &vfio.join("new_id"),
        &format!("{} {}", device.vendor, device.device),
        warn,
    ) {
        return false;
    }
    let unbind = sysfs.device_folder(&device.id).join("driver/unbind");
    if !write(kernel, &unbind, &device.id, warn) && unbind.is_file() {
        return false;
    }
    if !bound.is_dir() && !write(kernel, &vfio.join("bind"), &device.id, warn) {
        return false;
    }
    bound.is_dir()
}

/// Writes to sysfs. That an id is known already is no failure, and a file that is not there is a silent one.
fn write(kernel: &dyn Kernel, path: &Path, data: &str, warn: &mut dyn FnMut(&str)) -> bool {
    match kernel.write(path, data) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.ends_with("new_id") => {
            true
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            warn(&format!(
                "error writing '{data}' to '{}': {}",
                path.display(),
                crate::text::errno_text(&error)
            ));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{FakeHost, Refusal};
    use super::*;

    fn check(fake: &FakeHost, id: &str) -> (String, Vec<String>) {
        let mut warnings = Vec::new();
        let result = prepare(&fake.sysfs(), fake, &HostPci::default(), id, &mut |line| {
            warnings.push(line.to_owned())
        });
        (
            result.map_or_else(|error| error.to_string(), |()| "bound".to_owned()),
            warnings,
        )
    }

    #[test]
    fn binds_the_whole_group_but_no_bridge() {
        let fake = FakeHost::q35();
        assert_eq!(check(&fake, "0000:00:1f.2"), ("bound".to_owned(), vec![]));
        for id in ["0000:00:1f.0", "0000:00:1f.2", "0000:00:1f.3"] {
            assert_eq!(fake.driver(id).as_deref(), Some("vfio-pci"), "{id}");
        }
        assert_eq!(check(&fake, "0000:01:00.0"), ("bound".to_owned(), vec![]));
        assert_eq!(fake.driver("0000:00:1c.0").as_deref(), Some("pcieport"));
        assert_eq!(*fake.loaded(), ["vfio-pci"]);
        assert_eq!(fake.driver("0000:00:02.0").as_deref(), Some("virtio-pci"));
        assert_eq!(fake.written("0000:01:00.0/reset"), Some("1".to_owned()));

        let before = fake.writes().len();
        assert_eq!(check(&fake, "0000:00:1f.2"), ("bound".to_owned(), vec![]));
        assert_eq!(fake.writes().len(), before, "a bound device is left alone");
    }

    #[test]
    fn a_device_without_driver_is_bound() {
        let fake = FakeHost::q35();
        fake.unbind("0000:00:1f.2");
        assert_eq!(check(&fake, "0000:00:1f.2").0, "bound");
        assert_eq!(fake.driver("0000:00:1f.2").as_deref(), Some("vfio-pci"));
    }

    #[test]
    fn failures_in_proxmoxs_words() {
        let fake = FakeHost::q35();
        fake.remove_iommu();
        assert_eq!(
            check(&fake, "0000:00:1f.2").0,
            "cannot prepare PCI pass-through, IOMMU not present"
        );

        let fake = FakeHost::q35();
        assert_eq!(
            check(&fake, "0000:00:1e.0").0,
            "no pci device info for device '0000:00:1e.0'"
        );

        fake.refuse(Refusal::NoVfio);
        assert_eq!(
            check(&fake, "0000:00:1f.2").0,
            "Cannot find vfio-pci module!"
        );

        let fake = FakeHost::q35();
        fake.refuse(Refusal::Bind("0000:00:1f.0"));
        let (error, warnings) = check(&fake, "0000:00:1f.2");
        assert_eq!(error, "Cannot bind 0000:00:1f.0 to vfio");
        assert!(
            warnings[0].starts_with("error writing '0000:00:1f.0' to '"),
            "{warnings:?}"
        );
        assert!(
            warnings[0].ends_with("/bind': Invalid argument"),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_failed_reset_is_only_a_warning() {
        let fake = FakeHost::q35();
        fake.refuse(Refusal::Reset);
        let (result, warnings) = check(&fake, "0000:01:00.0");
        assert_eq!(result, "bound");
        assert_eq!(
            warnings.last().map(String::as_str),
            Some(
                "failed to reset PCI device '0000:01:00.0', but trying to continue as not all devices need a reset"
            )
        );
    }

    #[test]
    fn driver_keep_binds_nothing() {
        let fake = FakeHost::q35();
        let hostpci = HostPci {
            keep_driver: true,
            ..HostPci::default()
        };
        prepare(&fake.sysfs(), &fake, &hostpci, "0000:00:1f.2", &mut |_| {}).unwrap();
        assert_eq!(fake.driver("0000:00:1f.2").as_deref(), Some("ahci"));
    }
}
