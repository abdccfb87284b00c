//! Gathers what the command line depends on.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
};

use super::RunError;
use crate::{
    argv::{Facts, drives, image_path},
    config::Section,
    host::Host,
    kernel::Kernel,
    pci::HostPci,
};

/// Facts about the host for this configuration.
pub fn gather(
    host: &Host,
    vmid: u32,
    config: &Section,
    hostpci: Vec<HostPci>,
) -> Result<Facts, RunError> {
    let cpuinfo = fs::read_to_string(host.proc.join("cpuinfo")).unwrap_or_default();
    let serial = (0..4).filter_map(|index| config.get(&format!("serial{index}")));
    let drives = drives(config)?;
    let images: Vec<String> = drives
        .iter()
        .filter_map(|drive| Some(image_path(drive.file()?, drive.is_cdrom())))
        .collect::<Result<_, _>>()?;
    let is = |path: &str, test: fn(&fs::FileType) -> bool| {
        fs::metadata(path).is_ok_and(|metadata| test(&metadata.file_type()))
    };
    Ok(Facts {
        cpus: (cpuinfo
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count() as u64)
            .max(1),
        virtualization: virtualization(&cpuinfo),
        block_devices: images
            .into_iter()
            .filter(|path| is(path, FileTypeExt::is_block_device))
            .collect(),
        character_devices: serial
            .filter(|path| is(path, FileTypeExt::is_char_device))
            .map(str::to_owned)
            .collect(),
        ovmf: ovmf(host, vmid, config),
        bridges: bridges(host),
        hostpci,
    })
}

/// `svm` or `vmx`.
fn virtualization(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    ["svm", "vmx"]
        .into_iter()
        .find(|flag| flags.split_whitespace().any(|word| word == *flag))
}

/// The firmware and this VM's variables: its `efidisk0`, else a copy that does not outlive the host's run folder.
fn ovmf(host: &Host, vmid: u32, config: &Section) -> Option<(String, String)> {
    let code = host.share.join("OVMF/OVMF_CODE_4M.fd");
    let template = host.share.join("OVMF/OVMF_VARS_4M.fd");
    if !code.exists() || !template.exists() {
        return None;
    }
    let own = config
        .get("efidisk0")
        .and_then(|value| value.split(',').next())
        .filter(|path| path.starts_with('/'));
    let variables = match own {
        Some(path) => path.to_owned(),
        None => host.run_file(vmid, "ovmf.fd").display().to_string(),
    };
    Some((code.display().to_string(), variables))
}

/// Makes the copy of OVMF's variables that [`gather`] named, if it is not there yet.
pub fn prepare_ovmf(host: &Host, facts: &Facts) -> Result<(), RunError> {
    let Some((_, variables)) = &facts.ovmf else {
        return Ok(());
    };
    if fs::exists(variables).unwrap_or(false) {
        return Ok(());
    }
    let copied = fs::copy(host.share.join("OVMF/OVMF_VARS_4M.fd"), variables)
        .and_then(|_| fs::set_permissions(variables, fs::Permissions::from_mode(0o600)));
    copied.map_err(|error| RunError::Rule(format!("can't create '{variables}' - {error}")))
}

fn bridges(host: &Host) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(host.sysfs.join("class/net")) else {
        return BTreeSet::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("bridge").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Sees to it that KVM is there where it is wanted: its module may not be loaded yet.
pub fn require_kvm(host: &Host, kernel: &dyn Kernel, config: &Section) -> Result<(), RunError> {
    let device = host.dev.join("kvm");
    if config.is("kvm") == Some(false) || device.exists() {
        return Ok(());
    }
    let cpuinfo = fs::read_to_string(host.proc.join("cpuinfo")).unwrap_or_default();
    match virtualization(&cpuinfo) {
        Some("svm") => kernel.modprobe("kvm_amd"),
        Some(_) => kernel.modprobe("kvm_intel"),
        None => {}
    }
    if device.exists() {
        return Ok(());
    }
    Err(RunError::rule(
        "KVM virtualisation configured, but not available. Either disable in VM configuration or enable in BIOS.",
    ))
}
