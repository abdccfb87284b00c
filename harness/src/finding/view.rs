//! What several rules ask of a fact book: who claims which device, which boot loader is in use, what is
//! in a group.

use super::book::{FactBook, FactSet, RunContext};
use crate::lab::{Firmware, PciAddress};
use crate::probe::host_storage::Storage;
use crate::probe::iommu::IommuGroup;
use crate::probe::pci::PciDevice;
use crate::probe::vm::ConfigLine;
use crate::probe::vm_configs::{self, DeviceMapping, MappedDevice, VmConfigFile};
use crate::scenario::{DriverState, Vmid};

/// A fact book with what follows from it directly.
pub(super) struct View<'a> {
    book: &'a FactBook,
    claims: Vec<Claim<'a>>,
}

/// A `hostpci` line that counts at the next start of its VM.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub(super) vmid: Vmid,
    pub(super) vm: &'a VmConfigFile,
    /// Such as `hostpci0`.
    pub(super) key: &'a str,
    pub(super) value: &'a str,
    /// Whether the line is among the changes that the next start applies.
    pub(super) pending: bool,
    /// Behind a root port.
    pub(super) pcie: bool,
    /// `driver=keep`.
    pub(super) keeps_driver: bool,
    /// The name of a mapping.
    pub(super) mapping: Option<String>,
    /// Addresses, or the beginnings of addresses.
    pub(super) paths: Vec<String>,
    /// The devices that the host has there.
    pub(super) devices: Vec<PciAddress>,
    /// Those of them that the VM has to itself whenever it runs: not what is in only some of a mapping's
    /// alternatives, and not the parent of a mediated device.
    pub(super) certain: Vec<PciAddress>,
}

impl Claim<'_> {
    /// The line with the file that it stands in.
    pub(super) fn quote(&self) -> String {
        let section = if self.pending { "[PENDING] " } else { "" };
        format!("{}.conf: {section}{}: {}", self.vmid, self.key, self.value)
    }
}

/// A boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loader {
    Grub,
    SystemdBoot,
}

impl<'a> View<'a> {
    pub(super) fn new(book: &'a FactBook) -> Self {
        View {
            book,
            claims: claims(&book.facts),
        }
    }

    pub(super) fn facts(&self) -> &'a FactSet {
        &self.book.facts
    }

    pub(super) fn run(&self) -> Option<&'a RunContext> {
        self.book.run.as_ref()
    }

    /// Whether `qm start`, or the failure of the run, has these words.
    pub(super) fn said(&self, words: &str) -> Option<String> {
        let run = self.run()?;
        let said = run.start_words.iter().chain(&run.message);
        said.flat_map(|text| text.lines())
            .find(|line| line.contains(words))
            .map(|line| line.trim().to_owned())
    }

    /// A line of the host's console that has these words.
    pub(super) fn console(&self, words: &str) -> Option<&'a String> {
        self.run()?.console.iter().find(|line| line.contains(words))
    }

    pub(super) fn claims(&self) -> &[Claim<'a>] {
        &self.claims
    }

    /// The claim on a device.
    pub(super) fn claim_on(&self, device: PciAddress) -> Option<&Claim<'a>> {
        self.claims.iter().find(|one| one.devices.contains(&device))
    }

    /// Whether a device of a mapping is one of this host's.
    pub(super) fn is_here(&self, device: &MappedDevice) -> bool {
        is_here(self.facts(), device)
    }

    /// The mapping of this name.
    pub(super) fn mapping(&self, name: &str) -> Option<&'a DeviceMapping> {
        let mut mappings = self.facts().vm_configs.iter().flat_map(|one| &one.mappings);
        mappings.find(|one| one.name == name)
    }

    /// The storages that Proxmox activates on this host.
    pub(super) fn active_storages(&self) -> impl Iterator<Item = &'a Storage> {
        let facts = self.facts();
        let storages = facts.host_storage.iter().flat_map(|one| &one.storages);
        storages.filter(move |one| {
            let here = one.nodes.iter().any(|node| own_node(facts) == Some(node));
            !one.disabled && (here || one.nodes.is_empty())
        })
    }

    /// The name that Proxmox has for this host.
    pub(super) fn own_node(&self) -> Option<&'a str> {
        own_node(self.facts())
    }

    /// The devices that VMs claim, each once.
    pub(super) fn claimed(&self) -> Vec<&'a PciDevice> {
        let Some(pci) = &self.facts().pci else {
            return Vec::new();
        };
        let claimed = |one: &&PciDevice| self.claim_on(one.address).is_some();
        pci.devices.iter().filter(claimed).collect()
    }

    pub(super) fn device(&self, address: PciAddress) -> Option<&'a PciDevice> {
        self.facts().pci.as_ref()?.device(address)
    }

    pub(super) fn group_of(&self, device: PciAddress) -> Option<&'a IommuGroup> {
        self.facts().iommu.as_ref()?.group_of(device)
    }

    /// What a start of the VM takes from the host beside what it claims: the other members of the groups,
    /// bridges aside, with the claimed device that each comes with.
    pub(super) fn taken_along(&self) -> Vec<(&'a PciDevice, PciAddress)> {
        let mut taken: Vec<(&PciDevice, PciAddress)> = Vec::new();
        for device in self.claimed() {
            let members = self.group_of(device.address).map(|group| &group.members);
            for member in members.into_iter().flatten() {
                let Some(found) = self.device(*member) else {
                    continue;
                };
                let known = taken.iter().any(|(one, _)| one.address == *member);
                if !known && !is_bridge(found) && self.claim_on(*member).is_none() {
                    taken.push((found, device.address));
                }
            }
        }
        taken
    }

    /// The boot loader that started this kernel, and what proves it.
    pub(super) fn loader(&self) -> Option<(Loader, &'static str, String)> {
        let facts = self.facts();
        if let Some(cmdline) = &facts.cmdline {
            let initrd = cmdline
                .words
                .iter()
                .find(|word| word.starts_with("initrd=\\EFI\\"));
            if let Some(word) = initrd {
                return Some((Loader::SystemdBoot, "cmdline", word.clone()));
            }
            if let Some(image) = &cmdline.boot_image {
                return Some((Loader::Grub, "cmdline", format!("BOOT_IMAGE={image}")));
            }
        }
        let platform = facts.platform.as_ref()?;
        match &platform.loader {
            Some(name) if name.contains("systemd-boot") => Some((
                Loader::SystemdBoot,
                "platform",
                format!("LoaderInfo: {name}"),
            )),
            Some(name) if name.contains("GRUB") => {
                Some((Loader::Grub, "platform", format!("LoaderInfo: {name}")))
            }
            _ if platform.firmware == Firmware::Bios => {
                Some((Loader::Grub, "platform", "firmware: bios".to_owned()))
            }
            _ => None,
        }
    }
}

/// Whether a device is a PCI bridge: those stay with their drivers when their group is given away.
pub(super) fn is_bridge(device: &PciDevice) -> bool {
    device.class.starts_with("0604")
}

/// Whether a device is held by VFIO.
pub(super) fn is_on_vfio(device: &PciDevice) -> bool {
    matches!(&device.driver, DriverState::Bound(driver) if driver == "vfio-pci")
}

/// A device as proof: where, what, and who holds it.
pub(super) fn describe(device: &PciDevice) -> String {
    format!(
        "{} [{}:{}] class {} driver {}",
        device.address,
        device.vendor,
        device.device,
        device.class,
        String::from(device.driver.clone())
    )
}

/// Parameters of the kernel that passthrough is about.
pub(super) const PASSTHROUGH_NAMES: [&str; 11] = [
    "intel_iommu",
    "amd_iommu",
    "iommu",
    "iommu.passthrough",
    "intremap",
    "vfio-pci.ids",
    "vfio_pci.ids",
    "vfio_iommu_type1.allow_unsafe_interrupts",
    "pcie_acs_override",
    "module_blacklist",
    "modprobe.blacklist",
];

/// Whether a word of a kernel's command line is about passthrough.
pub(super) fn is_passthrough_word(word: &str) -> bool {
    let name = word.split('=').next().unwrap_or(word);
    PASSTHROUGH_NAMES.contains(&name)
}

fn claims(facts: &FactSet) -> Vec<Claim<'_>> {
    let Some(configs) = &facts.vm_configs else {
        return Vec::new();
    };
    let mut claims = Vec::new();
    for vm in &configs.vms {
        let lines = vm.numbered("hostpci").into_iter();
        claims.extend(lines.filter_map(|line| claim(facts, vm, line)));
    }
    claims
}

fn claim<'a>(facts: &'a FactSet, vm: &'a VmConfigFile, line: &'a ConfigLine) -> Option<Claim<'a>> {
    let mut properties = qm::config::parse_properties(&qm::config::HOSTPCI, &line.value).ok()?;
    let (host, mapping) = (properties.remove("host"), properties.remove("mapping"));
    let mapped = mapped_here(facts, mapping.as_ref());
    // Each is a list, of which the VM takes all; of several lists it takes one.
    let alternatives: Vec<&String> = host.iter().chain(mapped).collect();
    let is_in = |list: &String, device| list.split(';').any(|path| vm_configs::names(path, device));
    let devices: Vec<PciAddress> = facts
        .pci
        .iter()
        .flat_map(|pci| &pci.devices)
        .map(|device| device.address)
        .filter(|device| alternatives.iter().any(|list| is_in(list, *device)))
        .collect();
    let mediated = properties.contains_key("mdev");
    let certain = devices
        .iter()
        .copied()
        .filter(|device| !mediated && alternatives.iter().all(|list| is_in(list, *device)))
        .collect();
    let paths = alternatives.iter().flat_map(|list| list.split(';'));
    let is = |key: &str, wanted: &str| properties.get(key).is_some_and(|value| value == wanted);
    Some(Claim {
        vmid: vm.vmid,
        vm,
        key: &line.key,
        value: &line.value,
        pending: vm.pending().is_some_and(|one| one.lines.contains(line)),
        pcie: is("pcie", "1"),
        keeps_driver: is("driver", "keep"),
        paths: paths.map(str::to_owned).collect(),
        mapping,
        devices,
        certain,
    })
}

/// The paths of a mapping on this host.
fn mapped_here<'a>(facts: &'a FactSet, name: Option<&String>) -> impl Iterator<Item = &'a String> {
    let mut mappings = facts.vm_configs.iter().flat_map(|one| &one.mappings);
    let mapping = mappings.find(|one| Some(&one.name) == name);
    let devices = mapping.into_iter().flat_map(|one| &one.devices);
    let here = devices.filter(|device| is_here(facts, device));
    here.map(|device| &device.path)
}

/// Where the host's name is not known, no node is this one.
fn is_here(facts: &FactSet, device: &MappedDevice) -> bool {
    let node = device.node.as_deref();
    node.is_none_or(|node| own_node(facts) == Some(node))
}

/// Proxmox names a node as its host, up to the first dot.
fn own_node(facts: &FactSet) -> Option<&str> {
    facts.platform.as_ref()?.host_name.split('.').next()
}
