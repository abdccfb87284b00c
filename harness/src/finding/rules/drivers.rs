//! What else decides on drivers: ids, modules that are loaded by name, watchdogs.

use super::boot::{line_of, refresh};
use super::references::{PVE_PASSTHROUGH, PVE_PASSTHROUGH_WIKI, PVE_WATCHDOG};
use crate::finding::book::Incident;
use crate::finding::model::{Draft, Rule, Severity, word};
use crate::finding::view::{View, describe, is_bridge};
use crate::lab::PciAddress;
use crate::probe::modules::canonical;
use crate::probe::pci::PciDevice;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "ids-match-two-controllers",
        severity: Severity::Warning,
        summary: "the ids that vfio-pci takes match more devices than VMs claim",
        explanation: "Two controllers with the same chip have the same ids, and vfio-pci takes both. The host loses the \
            disks of the second. driver_override chooses by address, and has to be written anew at each boot.",
        reference: PVE_PASSTHROUGH,
        derive: ids_match_two,
    },
    Rule {
        id: "vfio-virqfd-gone",
        severity: Severity::Note,
        summary: "vfio_virqfd is asked for at boot, and this kernel has no such module",
        explanation: "Since Linux 6.2 it is part of vfio. The line in /etc/modules costs one message at boot and nothing \
            else.",
        reference: PVE_PASSTHROUGH_WIKI,
        derive: virqfd_gone,
    },
    Rule {
        id: "watchdog-armed",
        severity: Severity::Error,
        summary: "giving the controller away takes the chipset's watchdog from its driver while it counts",
        explanation: "The LPC bridge is in the controller's group. When it is unbound, nobody feeds the watchdog that is in \
            it. The driver stops it as it goes, unless nothing may (nowayout): then it resets the host some 45 seconds \
            later. Proxmox VE's kernels blacklist these drivers.",
        reference: PVE_WATCHDOG,
        derive: watchdog_armed,
    },
];

/// A file that has a module loaded by its name at boot.
pub(super) struct Asker<'a> {
    /// The probe that read it.
    pub(super) source: &'static str,
    /// The file that was read.
    pub(super) quoted: &'a str,
    /// The file that a person changes.
    pub(super) file: &'a str,
}

pub(super) fn askers_for<'a>(view: &View<'a>, module: &str) -> Vec<Asker<'a>> {
    let facts = view.facts();
    let listed = facts.modules.iter().flat_map(|one| &one.listed);
    let listed = listed.filter(|one| one.module == module).map(|one| Asker {
        source: "modules",
        quoted: &one.file,
        file: &one.file,
    });
    let in_initramfs = facts.initramfs.iter().flat_map(|one| &one.modules);
    let in_initramfs = in_initramfs
        .filter(|line| line.split_whitespace().next().map(canonical).as_deref() == Some(module))
        .map(|_| Asker {
            source: "initramfs",
            quoted: "conf/modules",
            file: INITRAMFS_MODULES,
        });
    listed.chain(in_initramfs).collect()
}

/// The modules that the initramfs loads by their names.
const INITRAMFS_MODULES: &str = "/etc/initramfs-tools/modules";

/// A command that finds out what loads a module by its name.
pub(super) fn search_for(module: &str) -> String {
    format!(
        "grep -rs {} /etc/modules /etc/modules-load.d {INITRAMFS_MODULES}",
        word(module)
    )
}

/// Has vfio-pci take devices by their addresses, at each boot and before any driver is loaded: initramfs-tools runs
/// scripts that name no others in the order of their names, and the one called `udev` loads the drivers.
pub(super) fn bind_by_address(draft: Draft, devices: &[PciAddress]) -> Draft {
    const SCRIPT: &str = "/etc/initramfs-tools/scripts/init-top/bind-vfio";
    let devices: Vec<String> = devices.iter().map(PciAddress::to_string).collect();
    let devices = match devices.as_slice() {
        [] => "ADDRESS".to_owned(),
        devices => devices.join(" "),
    };
    let lines = [
        "#!/bin/sh".to_owned(),
        "[ \"$1\" = prereqs ] && exit".to_owned(),
        format!("for device in {devices}; do"),
        "    echo vfio-pci > /sys/bus/pci/devices/$device/driver_override".to_owned(),
        "done".to_owned(),
        "modprobe -i vfio-pci".to_owned(),
    ];
    let lines: Vec<String> = lines.iter().map(|line| word(line)).collect();
    draft
        .fix(format!("printf '%s\\n' {} > {SCRIPT}", lines.join(" ")))
        .fix(format!("chmod +x {SCRIPT}"))
        .fix(format!("echo vfio-pci >> {INITRAMFS_MODULES}"))
}

/// Ids for vfio-pci.
struct VfioIds {
    /// The probe that read them.
    source: &'static str,
    /// The line or word that they are in.
    quote: String,
    /// Where a person changes them.
    place: String,
    /// With a comma between them.
    ids: String,
}

/// Where ids for vfio-pci are given, and which.
fn vfio_ids(view: &View<'_>) -> Vec<VfioIds> {
    let facts = view.facts();
    let mut found = Vec::new();
    let rules = facts.host_config.iter().flat_map(|config| &config.rules);
    for rule in rules.filter(|rule| rule.command == "options" && rule.module == "vfio_pci") {
        for ids in rule
            .rest
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("ids="))
        {
            found.push(VfioIds {
                source: "host-config",
                quote: format!("{}: options vfio-pci {}", rule.file, rule.rest),
                place: rule.file.clone(),
                ids: ids.trim_matches('"').to_owned(),
            });
        }
    }
    for word in facts.cmdline.iter().flat_map(|one| &one.words) {
        let ids = word
            .strip_prefix("vfio-pci.ids=")
            .or_else(|| word.strip_prefix("vfio_pci.ids="));
        found.extend(ids.map(|ids| VfioIds {
            source: "cmdline",
            quote: word.clone(),
            place: line_of(view).to_owned(),
            ids: ids.to_owned(),
        }));
    }
    found
}

/// `8086:2922`, or with the subsystem's ids after it.
fn matches(id: &str, device: &PciDevice) -> bool {
    let parts = [
        &device.vendor,
        &device.device,
        &device.subsystem_vendor,
        &device.subsystem_device,
    ];
    let wanted: Vec<&str> = id.split(':').collect();
    wanted.len() >= 2
        && wanted.iter().zip(parts).all(|(wanted, is)| {
            let any = wanted.eq_ignore_ascii_case("ffffffff");
            any || wanted.eq_ignore_ascii_case(is)
        })
}

/// The ids that take a device, as proof.
pub(super) fn id_taking(view: &View<'_>, device: &PciDevice) -> Option<(&'static str, String)> {
    let taking = |one: &VfioIds| one.ids.split(',').any(|id| matches(id, device));
    let mut found = vfio_ids(view).into_iter();
    found.find(taking).map(|one| (one.source, one.quote))
}

fn ids_match_two(view: &View<'_>) -> Option<Draft> {
    let facts = view.facts();
    let pci = facts.pci.as_ref()?;
    // What no VM claims is only known where the VMs are.
    facts.vm_configs.as_ref()?;
    for given in vfio_ids(view) {
        for id in given.ids.split(',') {
            let matched: Vec<_> = pci.devices.iter().filter(|one| matches(id, one)).collect();
            let (claimed, free): (Vec<_>, Vec<_>) = matched
                .iter()
                .partition(|one| view.claim_on(one.address).is_some());
            if matched.len() < 2 || free.is_empty() {
                continue;
            }
            let storage = facts.host_storage.as_ref();
            let loses = |one: &&&PciDevice| {
                storage.is_some_and(|storage| storage.behind(one.address).next().is_some())
            };
            let losing = free.iter().filter(loses).count() > 0;
            let cause = format!(
                "vfio-pci takes every [{id}], of which there are {}",
                matched.len()
            );
            let claimed: Vec<PciAddress> = claimed.iter().map(|one| one.address).collect();
            let draft = Draft::new(cause)
                .severity_if(losing, Severity::Error)
                .proof(given.source, given.quote)
                .proofs("pci", matched.iter().map(|one| describe(one)))
                .fix(format!("# take {id} out of ids= in {}", given.place));
            let draft = match given.source {
                "cmdline" => draft.fix(refresh(view)),
                _ => draft,
            };
            return Some(
                bind_by_address(draft, &claimed)
                    .fix("update-initramfs -u -k all")
                    .fix("reboot"),
            );
        }
    }
    None
}

fn virqfd_gone(view: &View<'_>) -> Option<Draft> {
    let modules = view.facts().modules.as_ref()?;
    let failed = modules
        .failed
        .iter()
        .find(|one| one.module == "vfio_virqfd" && one.reason == "not found")?;
    let listed = modules
        .listed
        .iter()
        .find(|one| one.module == failed.module)?;
    Some(
        Draft::new(format!(
            "{} asks for vfio_virqfd, which is part of vfio since Linux 6.2",
            listed.file
        ))
        .proof("modules", format!("{}: {}", listed.file, listed.module))
        .proof(
            "modules",
            format!(
                "kernel {}: Failed to find module 'vfio_virqfd'",
                modules.kernel
            ),
        )
        .fix(format!("sed -i '/^vfio_virqfd$/d' {}", word(&listed.file))),
    )
}

/// The driver of the watchdog in Intel's chipsets.
const CHIPSET_WATCHDOG: &str = "iTCO_wdt";

/// Takes away what loads the chipset's watchdog. A blacklist helps where nothing loads it by its name.
fn keep_from_loading(view: &View<'_>, mut draft: Draft) -> Draft {
    const FILE: &str = "/etc/default/pve-ha-manager";
    let config = view.facts().host_config.as_ref();
    if config.is_some_and(|one| one.watchdog() == CHIPSET_WATCHDOG) {
        return draft
            .proof(
                "host-config",
                format!("{FILE}: WATCHDOG_MODULE={CHIPSET_WATCHDOG}"),
            )
            .fix(format!("# take WATCHDOG_MODULE out of {FILE}"));
    }
    let askers = askers_for(view, CHIPSET_WATCHDOG);
    for asker in &askers {
        draft = draft
            .proof(
                asker.source,
                format!("{}: {CHIPSET_WATCHDOG}", asker.quoted),
            )
            .fix(format!("# take {CHIPSET_WATCHDOG} out of {}", asker.file));
    }
    if askers.is_empty() {
        let blacklisted = config.is_some_and(|one| one.blacklist_of(CHIPSET_WATCHDOG).is_some());
        draft = draft.fix(match blacklisted {
            true => search_for(CHIPSET_WATCHDOG),
            false => format!("echo 'blacklist {CHIPSET_WATCHDOG}' > /etc/modprobe.d/watchdog.conf"),
        });
    }
    draft.fix("update-initramfs -u -k all")
}

/// The class of an ISA bridge, which is what the LPC function of a chipset is.
const ISA_BRIDGE: &str = "0601";

fn watchdog_armed(view: &View<'_>) -> Option<Draft> {
    let facts = view.facts();
    let bitten = view.run().and_then(|run| {
        run.incidents.iter().find_map(|incident| match incident {
            Incident::Watchdog { action } => Some(format!("WATCHDOG, action {action}")),
            _ => None,
        })
    });
    let bridge = view
        .taken_along()
        .into_iter()
        .find(|(one, _)| one.class.starts_with(ISA_BRIDGE) && !is_bridge(one));
    let armed = facts
        .platform
        .iter()
        .flat_map(|platform| &platform.watchdogs)
        .find(|dog| {
            let counts = dog.identity.starts_with("iTCO") && dog.state == "active";
            counts && dog.nowayout != Some(false)
        });
    if bitten.is_none() && (bridge.is_none() || armed.is_none()) {
        return None;
    }
    // Whether its driver stops it is not known.
    let may_be_stopped = bitten.is_none() && armed.is_some_and(|dog| dog.nowayout.is_none());
    let mut draft =
        Draft::new("the chipset's watchdog counts, and the VM's start takes it from who feeds it")
            .proofs("run", bitten)
            .proofs(
                "platform",
                armed.map(|dog| {
                    let stays = if dog.nowayout.is_some() {
                        " nowayout"
                    } else {
                        ""
                    };
                    format!("{} {} {}{stays}", dog.name, dog.identity, dog.state)
                }),
            )
            .severity_if(may_be_stopped, Severity::Warning);
    if let Some((bridge, with)) = bridge {
        draft = draft.proof("pci", describe(bridge)).proof(
            "iommu",
            format!("{} is in the group of {with}", bridge.address),
        );
    }
    Some(keep_from_loading(view, draft).fix("reboot"))
}
