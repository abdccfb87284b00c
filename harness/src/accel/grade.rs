//! The grades of the probe that cost milliseconds, and what a person can do about each obstacle.

use std::io;
use std::path::Path;

use kvm_ioctls::Kvm;

use super::Vendor;

const DEVICE: &str = "/dev/kvm";

/// `KVM_CAP_NESTED_STATE`: how many bytes a nested guest's state takes; 0 where there is no nesting.
const NESTED_STATE: u64 = 157;

/// The most entries that KVM gives (`KVM_MAX_CPUID_ENTRIES`).
const CPUID_ENTRIES: usize = 256;

/// What is in the way of KVM. Reads on after "since".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Obstacle {
    #[error("this machine has no {DEVICE}")]
    NoDevice,
    #[error("{DEVICE} may not be opened by this user")]
    Denied,
    #[error("{DEVICE} does not open ({0})")]
    Open(String),
    #[error("{DEVICE} opens but creates no VM ({0})")]
    NoVm(String),
    #[error("{module}, though it works, has nested virtualization switched off")]
    NestedOff { module: &'static str },
    #[error("{DEVICE} opens and creates a VM, but offers that VM no nested virtualization")]
    NotNested,
    #[error("{DEVICE} promises nested virtualization, but a guest that was tried {0}")]
    NoGuest(String),
}

impl Obstacle {
    pub(super) fn advice(&self) -> String {
        match self {
            Obstacle::NoDevice => "switch on virtualization (VT-x or AMD-V) in the firmware and load \
                the module with `sudo modprobe kvm_intel` or `sudo modprobe kvm_amd`; inside a \
                virtual machine, its host must offer nested virtualization. `--accel tcg` needs \
                none of it"
                .to_owned(),
            Obstacle::Denied => "join the group with `sudo usermod -aG kvm \"$USER\"` and log in \
                again; on a CI runner, write `KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0666\", \
                OPTIONS+=\"static_node=kvm\"` to /etc/udev/rules.d/99-kvm.rules, then `sudo udevadm \
                control --reload-rules` and `sudo udevadm trigger --name-match=kvm`"
                .to_owned(),
            Obstacle::Open(_) | Obstacle::NoVm(_) => "look at `dmesg | grep -i kvm`; another \
                hypervisor may hold the CPU's virtualization. `--accel tcg` works without it"
                .to_owned(),
            Obstacle::NestedOff { module } => format!(
                "end all virtual machines, then `echo 'options {module} nested=1' | sudo tee \
                 /etc/modprobe.d/kvm-nested.conf` and `sudo modprobe -r {module} && sudo modprobe \
                 {module}`"
            ),
            Obstacle::NotNested => "if this is a virtual machine, its host must pass VMX or SVM \
                on with nested state; otherwise use `--accel tcg`"
                .to_owned(),
            Obstacle::NoGuest(_) => "use `--accel tcg`; the same guest can be tried by hand with \
                the toolbox's QEMU and `-accel kvm -cpu host`"
                .to_owned(),
        }
    }
}

/// Opens the device, creates a VM, and asks for nesting, without running anything.
pub(super) fn promises() -> Result<Vendor, Obstacle> {
    let kvm = Kvm::new().map_err(|error| match io::Error::from(error).kind() {
        io::ErrorKind::NotFound => Obstacle::NoDevice,
        io::ErrorKind::PermissionDenied => Obstacle::Denied,
        _ => Obstacle::Open(error.to_string()),
    })?;
    kvm.create_vm()
        .map_err(|error| Obstacle::NoVm(error.to_string()))?;
    let features = kvm
        .get_supported_cpuid(CPUID_ENTRIES)
        .map_err(|error| Obstacle::NoVm(error.to_string()))?;
    let ecx = |function| {
        let mut entries = features.as_slice().iter();
        entries
            .find(|entry| entry.function == function)
            .map_or(0, |entry| entry.ecx)
    };
    let vendor = vendor(ecx(1), ecx(0x8000_0001));
    let nested_state = kvm.check_extension_raw(NESTED_STATE) > 0;
    match vendor {
        Some(vendor) if nested_state => Ok(vendor),
        _ => Err(nested_off(Path::new("/sys/module")).unwrap_or(Obstacle::NotNested)),
    }
}

/// Whose virtualization CPUID offers, from register ECX of leaves 1 and 0x80000001.
fn vendor(leaf_1: u32, leaf_80000001: u32) -> Option<Vendor> {
    if leaf_80000001 & 1 << 2 != 0 {
        Some(Vendor::Amd)
    } else if leaf_1 & 1 << 5 != 0 {
        Some(Vendor::Intel)
    } else {
        None
    }
}

/// The module that says that it does not nest, if one does.
fn nested_off(modules: &Path) -> Option<Obstacle> {
    ["kvm_intel", "kvm_amd"].into_iter().find_map(|module| {
        let parameter = modules.join(module).join("parameters/nested");
        let value = std::fs::read_to_string(parameter).ok()?;
        matches!(value.trim(), "N" | "0").then_some(Obstacle::NestedOff { module })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuid_tells_whose_virtualization_it_is() {
        assert_eq!(vendor(1 << 5, 0), Some(Vendor::Intel));
        assert_eq!(vendor(0, 1 << 2), Some(Vendor::Amd));
        assert_eq!(vendor(0xffff_ffdf, 0xffff_fffb), None);
    }

    #[test]
    fn a_module_that_does_not_nest_is_named_with_the_remedy() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(nested_off(root.path()), None);
        let folder = root.path().join("kvm_intel/parameters");
        std::fs::create_dir_all(&folder).unwrap();
        for (value, off) in [("Y\n", false), ("1\n", false), ("N\n", true), ("0\n", true)] {
            std::fs::write(folder.join("nested"), value).unwrap();
            let obstacle = nested_off(root.path());
            assert_eq!(obstacle.is_some(), off, "{value}");
            if let Some(obstacle) = obstacle {
                assert!(obstacle.advice().contains("options kvm_intel nested=1"));
            }
        }
    }
}
