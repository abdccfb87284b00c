//! Turns facts into the text that a snapshot keeps: what is the same in every lane, whether KVM or
//! TCG, Intel or AMD, this QEMU or that one, this month's Debian packages or last month's.
//!
//! What differs is left out where the snapshot is about something else, and replaced by a placeholder
//! of fixed text where its being there counts. Lists whose order is chance are sorted. The facts
//! themselves are kept whole in the run folder; expectations look at those and not at this text.

use serde_json::{Value, json};

use crate::lab::{Iommu, Lab};
use crate::probe::cmdline::CmdlineFacts;
use crate::probe::dmesg::DmesgIommuFacts;
use crate::probe::initramfs::{InitramfsFacts, ModprobeRule};
use crate::probe::iommu::IommuFacts;
use crate::probe::listing::GroupListingFacts;
use crate::probe::modules::{ModuleFacts, WATCH_LIST};
use crate::probe::pci::{PciDevice, PciFacts};
use crate::probe::vm::{ConfigSection, VmFacts};
use crate::probe::{Facts, Probe};

mod host;
mod storage;
mod text;

use storage::{disk_query, disks, pool_list, smart};
use text::{KERNEL, hide_addresses, lspci_line};

/// Why facts make no snapshot.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ShapeError {
    /// There is nothing in them, and two nothings would compare equal.
    #[error("the probe `{probe}` found no {what}")]
    Empty {
        /// Which probe.
        probe: Probe,
        /// What there is none of.
        what: &'static str,
    },
    /// They say two things that do not go together.
    #[error("the probe `{probe}` found {what}")]
    Contradiction {
        /// Which probe.
        probe: Probe,
        /// Which things.
        what: String,
    },
}

/// Makes snapshots of facts.
#[derive(Debug, Clone, Copy)]
pub struct Redactor {
    iommu: Iommu,
}

impl Redactor {
    /// For a lab; what the lab does not have need not be there.
    pub fn new(lab: &Lab) -> Self {
        Redactor { iommu: lab.iommu }
    }

    /// The snapshot of facts: JSON, its keys in the order of the alphabet.
    ///
    /// # Errors
    /// [`ShapeError`].
    pub fn snapshot_text(self, facts: &Facts) -> Result<String, ShapeError> {
        let (empty, what) = emptiness(facts);
        let probe = facts.probe();
        if empty && !self.may_be_empty(probe) {
            return Err(ShapeError::Empty { probe, what });
        }
        let stable = match facts {
            Facts::Cmdline(facts) => cmdline(facts),
            Facts::Iommu(facts) => iommu(facts)?,
            Facts::Pci(facts) => pci(facts),
            Facts::Modules(facts) => modules(facts),
            Facts::Initramfs(facts) => initramfs(facts),
            Facts::HostDisks(facts) | Facts::NasDisks(facts) => disks(facts),
            Facts::Vm(facts) => vm(facts),
            Facts::DmesgIommu(facts) => dmesg(facts),
            Facts::GroupListing(facts) => listing(facts),
            Facts::Platform(facts) => host::platform(facts),
            Facts::HostConfig(facts) => host::config(facts),
            Facts::KernelLog(facts) => host::log(facts),
            Facts::VmConfigs(facts) => host::vm_configs(facts),
            Facts::HostStorage(facts) => host::storage(facts),
            Facts::HostNetwork(facts) => host::network(facts),
            Facts::DiskQuery(facts) => disk_query(facts),
            Facts::Smart(facts) => smart(facts),
            Facts::Pool(facts) => pool_list(facts),
        };
        Ok(format!("{:#}\n", sorted(stable)))
    }

    /// Whether nothing is a true answer to a probe in this lab.
    fn may_be_empty(self, probe: Probe) -> bool {
        match probe {
            Probe::Iommu => self.iommu == Iommu::None,
            // The kernel's words on AMD's and virtio's have neither DMAR nor IOMMU in them.
            Probe::DmesgIommu => self.iommu != Iommu::Intel,
            // A lab has a network card only where it asks for one.
            Probe::HostNetwork => true,
            _ => false,
        }
    }
}

/// Whether there is nothing in the facts, and what there is none of.
fn emptiness(facts: &Facts) -> (bool, &'static str) {
    match facts {
        Facts::Cmdline(facts) => (facts.words.is_empty(), "word on the command line"),
        Facts::Iommu(facts) => (
            facts.units.is_empty() && facts.groups.is_empty(),
            "IOMMU and no group",
        ),
        Facts::Pci(facts) => (facts.devices.is_empty(), "PCI device"),
        Facts::Modules(facts) => (facts.loaded.is_empty(), "loaded module"),
        Facts::Initramfs(facts) => (
            facts.drivers.is_empty() && facts.rules.is_empty() && facts.modules.is_empty(),
            "driver, rule or module in the initramfs",
        ),
        Facts::HostDisks(facts) | Facts::NasDisks(facts) => (facts.disks.is_empty(), "disk"),
        Facts::Vm(facts) => (
            facts.config.lines.is_empty(),
            "line in the VM's configuration",
        ),
        Facts::DmesgIommu(facts) => (facts.lines.is_empty(), "line on DMAR or IOMMU in dmesg"),
        Facts::GroupListing(facts) => (facts.lines.is_empty(), "line in the listing"),
        Facts::Platform(facts) => (facts.acpi_tables.is_empty(), "ACPI table"),
        Facts::HostConfig(facts) => (facts.grub_entries.is_empty(), "menu entry of GRUB"),
        Facts::KernelLog(facts) => (facts.lines.is_empty(), "line of the kernel's log"),
        Facts::VmConfigs(facts) => (facts.vms.is_empty(), "VM"),
        Facts::HostStorage(facts) => (facts.disks.is_empty(), "disk"),
        Facts::HostNetwork(facts) => (facts.interfaces.is_empty(), "network interface"),
        Facts::DiskQuery(facts) => (facts.disks.is_empty(), "disk"),
        Facts::Smart(facts) => (facts.disks.is_empty(), "disk"),
        Facts::Pool(facts) => (facts.pools.is_empty(), "pool"),
    }
}

/// The same value with all keys in the order of the alphabet, whichever map serde_json was built with.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(list) => list.into_iter().map(sorted).collect(),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.into_iter().collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            pairs
                .into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect()
        }
        other => other,
    }
}

fn cmdline(facts: &CmdlineFacts) -> Value {
    let image = facts
        .boot_image
        .as_ref()
        .map(|image| match image.split_once("vmlinuz-") {
            Some((folder, _)) => format!("{folder}vmlinuz-{KERNEL}"),
            None => image.clone(),
        });
    let words: Vec<String> = facts
        .words
        .iter()
        .map(|word| hide_addresses(word))
        .collect();
    json!({ "boot-image": image, "words": words })
}

/// Without the numbers of the groups, which the kernel gives in the order of its probing.
fn iommu(facts: &IommuFacts) -> Result<Value, ShapeError> {
    if facts.units.is_empty() != facts.groups.is_empty() {
        return Err(ShapeError::Contradiction {
            probe: Probe::Iommu,
            what: format!(
                "{} IOMMUs with {} groups",
                facts.units.len(),
                facts.groups.len()
            ),
        });
    }
    let mut groups: Vec<_> = facts.groups.iter().collect();
    groups.sort_by(|a, b| (&a.members, &a.other_members).cmp(&(&b.members, &b.other_members)));
    let groups: Vec<Value> = groups
        .into_iter()
        .map(|group| json!({ "domain": group.domain, "members": group.members }))
        .collect();
    Ok(json!({ "kind": facts.kind(), "groups": groups }))
}

/// Reset methods only of storage controllers: those of virtio devices change between QEMU's versions.
fn pci(facts: &PciFacts) -> Value {
    let device = |device: &PciDevice| {
        let mut value = json!({
            "address": device.address,
            "class": device.class,
            "id": format!("{}:{}", device.vendor, device.device),
            "driver": device.driver,
        });
        if let Some(only) = &device.driver_override {
            value["driver-override"] = json!(only);
        }
        if device.is_storage() && device.vendor != "1af4" {
            value["reset-methods"] = json!(device.reset_methods);
        }
        value
    };
    facts.devices.iter().map(device).collect()
}

/// Without KVM's modules, one of which is loaded for whichever CPU there is.
fn modules(facts: &ModuleFacts) -> Value {
    let states: serde_json::Map<String, Value> = WATCH_LIST
        .iter()
        .filter(|module| !module.starts_with("kvm"))
        .map(|module| ((*module).to_owned(), json!(facts.state(module))))
        .collect();
    let parameters: serde_json::Map<String, Value> =
        ["vfio_iommu_type1.allow_unsafe_interrupts", "vfio_pci.ids"]
            .iter()
            .filter_map(|name| facts.parameters.get_key_value(*name))
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
    json!({
        "loader": facts.loader,
        "states": states,
        "listed": facts.listed,
        "failed": facts.failed,
        "parameters": parameters,
    })
}

/// Only rules on watched modules: the packages of a distribution bring many more.
fn initramfs(facts: &InitramfsFacts) -> Value {
    let mut rules: Vec<_> = facts
        .rules
        .iter()
        .filter(|rule| WATCH_LIST.contains(&rule.module.as_str()))
        .collect();
    rules.sort();
    // Proxmox's kernel packages name their list of watchdogs by the kernel.
    let rules: Vec<ModprobeRule> = rules
        .into_iter()
        .map(|rule| ModprobeRule {
            file: rule.file.replace(&facts.kernel, KERNEL),
            ..rule.clone()
        })
        .collect();
    json!({ "drivers": facts.drivers, "rules": rules, "modules": facts.modules })
}

fn vm(facts: &VmFacts) -> Value {
    let section = |section: &ConfigSection| -> Value {
        let lines: Vec<String> = section
            .lines
            .iter()
            .map(|line| match line.key.as_str() {
                "meta" => "meta: [meta]".to_owned(),
                "vmgenid" | "digest" => format!("{}: [{}]", line.key, line.key),
                key => format!("{key}: {}", hide_addresses(&line.value)),
            })
            .collect();
        json!({ "name": section.name, "lines": lines, "other": section.other })
    };
    let sections: Vec<Value> = std::iter::once(&facts.config)
        .chain(&facts.sections)
        .map(section)
        .collect();
    json!({ "vmid": facts.vmid, "status": facts.status, "sections": sections })
}

/// What the kernel says the same on every lane. All other lines have addresses, register contents,
/// address widths or an interrupt mode in them, or are there only for some CPUs and QEMUs.
const STABLE_MESSAGES: [&str; 3] = [
    "DMAR: IOMMU enabled",
    "DMAR: Intel(R) Virtualization Technology for Directed I/O",
    "DMAR-IR: Enabled IRQ remapping in ",
];

fn dmesg(facts: &DmesgIommuFacts) -> Value {
    let stable = |line: &String| {
        let message = STABLE_MESSAGES
            .iter()
            .find(|message| line.starts_with(*message))?;
        Some(if line.len() == message.len() {
            line.clone()
        } else {
            format!("{message}[mode]")
        })
    };
    facts.lines.iter().filter_map(stable).collect()
}

/// By address, without the numbers of the groups and the names of vendors and devices, which come from
/// a package that is updated often.
fn listing(facts: &GroupListingFacts) -> Value {
    let mut lines: Vec<_> = facts.lines.iter().map(|line| lspci_line(line)).collect();
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests;
