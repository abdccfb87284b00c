//! Turns facts into the text that a snapshot keeps: what is the same in every lane, whether KVM or
//! TCG, Intel or AMD, this QEMU or that one, this month's Debian packages or last month's.
//!
//! What differs is left out where the snapshot is about something else, and replaced by a placeholder
//! of fixed text where its being there counts. Lists whose order is chance are sorted. The facts
//! themselves are kept whole in the run folder; expectations look at those and not at this text.

use serde_json::{Value, json};

use crate::probe::cmdline::CmdlineFacts;
use crate::probe::disk_query::DiskQueryFacts;
use crate::probe::disks::DiskFacts;
use crate::probe::dmesg::DmesgIommuFacts;
use crate::probe::initramfs::InitramfsFacts;
use crate::probe::iommu::IommuFacts;
use crate::probe::listing::GroupListingFacts;
use crate::probe::modules::{ModuleFacts, WATCH_LIST};
use crate::probe::pci::{PciDevice, PciFacts};
use crate::probe::pool::{Pool, PoolFacts, Vdev};
use crate::probe::smart::{Protocol, SmartDisk, SmartFacts};
use crate::probe::vm::{ConfigSection, VmFacts};
use crate::probe::{Facts, Probe};

mod text;

use text::{KERNEL, hide_addresses, hide_kernel_disk, lspci_line};

/// Stands for the kernel's name of a disk, which is the order in which it was found.
const DISK: &str = "[disk]";
/// Stands for the size of a disk that is an image's and not the lab's.
const IMAGE_SIZE: &str = "[image-size]";
/// Stands for a firmware revision that is QEMU's own version.
const FIRMWARE: &str = "[firmware]";

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
#[derive(Debug, Clone, Copy, Default)]
pub struct Redactor {
    allow_empty: bool,
}

/// The snapshot of facts that must not be empty.
///
/// # Errors
/// [`ShapeError`].
pub fn snapshot_text(facts: &Facts) -> Result<String, ShapeError> {
    Redactor::default().snapshot_text(facts)
}

impl Redactor {
    /// Takes an empty list for an answer: a host without an IOMMU, a NAS without a pool.
    pub fn allow_empty(self) -> Self {
        Redactor { allow_empty: true }
    }

    /// The snapshot of facts: JSON, its keys in the order of the alphabet.
    ///
    /// # Errors
    /// [`ShapeError`].
    pub fn snapshot_text(self, facts: &Facts) -> Result<String, ShapeError> {
        let (empty, what) = emptiness(facts);
        let probe = facts.probe();
        if empty && !(self.allow_empty && may_be_empty(probe)) {
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
            Facts::DiskQuery(facts) => disk_query(facts),
            Facts::Smart(facts) => smart(facts),
            Facts::Pool(facts) => pool_list(facts),
        };
        Ok(format!("{:#}\n", sorted(stable)))
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
        Facts::DiskQuery(facts) => (facts.disks.is_empty(), "disk"),
        Facts::Smart(facts) => (facts.disks.is_empty(), "disk"),
        Facts::Pool(facts) => (facts.pools.is_empty(), "pool"),
    }
}

/// Whether nothing can be a true answer to a probe at all.
fn may_be_empty(probe: Probe) -> bool {
    matches!(probe, Probe::Iommu | Probe::DmesgIommu | Probe::Pool)
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
    json!({ "drivers": facts.drivers, "rules": rules, "modules": facts.modules })
}

/// A disk of the lab has a World Wide Name; one without is an image, whose size is that of its packages.
fn disks(facts: &DiskFacts) -> Value {
    let mut disks: Vec<_> = facts.disks.iter().collect();
    disks.sort_by(|a, b| (&a.serial, &a.model, a.size).cmp(&(&b.serial, &b.model, b.size)));
    disks
        .into_iter()
        .map(|disk| {
            let mut value = json!({
                "model": disk.model,
                "serial": disk.serial,
                "holds-root": disk.holds_root,
                "size": IMAGE_SIZE,
            });
            if disk.wwn.is_some() {
                value["wwn"] = json!(disk.wwn);
                value["size"] = json!(disk.size);
                value["rotational"] = json!(disk.rotational);
                value["transport"] = json!(disk.transport);
                value["physical-sector"] = json!(disk.physical_sector);
                value["logical-sector"] = json!(disk.logical_sector);
            }
            value
        })
        .collect()
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

fn disk_query(facts: &DiskQueryFacts) -> Value {
    let mut disks: Vec<_> = facts.disks.iter().collect();
    disks.sort_by(|a, b| (&a.serial, &a.model, a.size).cmp(&(&b.serial, &b.model, b.size)));
    disks
        .into_iter()
        .map(|disk| {
            let identifier = match disk.identifier.strip_prefix("{devicename}") {
                Some(_) => format!("{{devicename}}{DISK}"),
                None => hide_addresses(&disk.identifier),
            };
            let mut value = json!({
                "identifier": identifier,
                "model": disk.model,
                "serial": disk.serial,
                "pool": disk.pool,
                "size": IMAGE_SIZE,
            });
            if disk.lunid.is_some() {
                value["lunid"] = json!(disk.lunid);
                value["size"] = json!(disk.size);
                value["type"] = json!(disk.kind);
                value["rotationrate"] = json!(disk.rotationrate);
                value["bus"] = json!(disk.bus);
            }
            value
        })
        .collect()
}

/// Attributes by number only: their values count hours, starts and degrees, and their names are the
/// drive database's.
fn smart(facts: &SmartFacts) -> Value {
    let mut disks: Vec<_> = facts.disks.iter().collect();
    disks.sort_by(|a, b| (&a.serial, &a.model, a.bytes).cmp(&(&b.serial, &b.model, b.bytes)));
    disks.into_iter().map(smart_disk).collect()
}

fn smart_disk(disk: &SmartDisk) -> Value {
    let mut value = json!({
        "protocol": disk.protocol,
        "model": disk.model,
        "serial": disk.serial,
        "available": disk.available,
        "passed": disk.passed,
    });
    let ids = |failed: bool| -> Vec<u8> {
        disk.attributes
            .iter()
            .filter(|a| !failed || a.failed.is_some())
            .map(|a| a.id)
            .collect()
    };
    if disk.protocol == Protocol::Ata {
        value["attributes"] = json!(ids(false));
        value["failed-attributes"] = json!(ids(true));
        value["logged-errors"] = json!(disk.logged_errors);
    }
    if disk.protocol == Protocol::Nvme {
        value["critical-warning"] = json!(disk.critical_warning);
        value["firmware"] = json!(FIRMWARE);
    }
    if disk.wwn.is_some() {
        value["wwn"] = json!(disk.wwn);
        value["family"] = json!(disk.family);
        value["firmware"] = json!(disk.firmware);
        value["bytes"] = json!(disk.bytes);
        value["logical-sector"] = json!(disk.logical_sector);
        value["physical-sector"] = json!(disk.physical_sector);
        value["rotation-rate"] = json!(disk.rotation_rate);
        value["enabled"] = json!(disk.enabled);
        value["exit-status"] = json!(disk.exit_status);
    }
    value
}

fn pool_list(facts: &PoolFacts) -> Value {
    let pool = |pool: &Pool| {
        json!({
            "name": pool.name,
            "state": pool.state,
            "scan": pool.scan,
            "data-errors": pool.data_errors,
            "vdevs": vdevs(&pool.vdevs),
            "classes": pool.classes.iter().map(|(class, list)| (class.clone(), vdevs(list))).collect::<serde_json::Map<_, _>>(),
        })
    };
    facts.pools.iter().map(pool).collect()
}

/// Disks that ZFS names by the kernel's names are one like the other, so that their order is not seen.
fn vdevs(list: &[Vdev]) -> Value {
    let mut values: Vec<(String, Value)> = list
        .iter()
        .map(|vdev| {
            let name = hide_kernel_disk(&vdev.name, DISK);
            let value = json!({
                "name": name,
                "kind": vdev.kind,
                "state": vdev.state,
                "errors": [vdev.read_errors, vdev.write_errors, vdev.checksum_errors],
                "vdevs": vdevs(&vdev.vdevs),
            });
            (format!("{name} {value}"), value)
        })
        .collect();
    values.sort_by(|a, b| a.0.cmp(&b.0));
    values.into_iter().map(|(_, value)| value).collect()
}
