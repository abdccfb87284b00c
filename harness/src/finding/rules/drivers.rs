//! Which driver holds what: blacklists, ids, modules, watchdogs.

use super::initramfs::{blacklisted_and_loaded, in_force_since_boot};
use super::references::{MODPROBE, PVE_PASSTHROUGH, PVE_PASSTHROUGH_WIKI, PVE_WATCHDOG};
use crate::finding::book::Incident;
use crate::finding::model::{Draft, Rule, Severity, word};
use crate::finding::view::{View, describe, is_bridge, is_on_vfio};
use crate::probe::initramfs::ModprobeRule;
use crate::probe::modules::canonical;
use crate::probe::pci::PciDevice;
use crate::scenario::DriverState;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "blacklist-bypassed",
        severity: Severity::Warning,
        summary: "a blacklisted module is loaded, because something asked for it by name",
        explanation: "A blacklist only stops loading by a device's alias. /etc/modules, another module's dependency, a \
            script or `modprobe` by hand load the module all the same. `install NAME /bin/false` stops those too.",
        reference: MODPROBE,
        derive: blacklist_bypassed,
    },
    Rule {
        id: "blacklist-covers-other-controllers",
        severity: Severity::Note,
        summary: "a blacklist also takes the driver from controllers that no VM claims",
        explanation: "A blacklist is for a driver, not for a device: every controller of that kind is left without. \
            `options vfio-pci ids=…` or a softdep choose more narrowly.",
        reference: PVE_PASSTHROUGH,
        derive: blacklist_covers_others,
    },
    Rule {
        id: "ids-match-two-controllers",
        severity: Severity::Warning,
        summary: "the ids that vfio-pci takes match more devices than VMs claim",
        explanation: "Two controllers with the same chip have the same ids, and vfio-pci takes both. The host loses the \
            disks of the second. driver_override chooses by address.",
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
            it, and it resets the host some 45 seconds later. Proxmox VE's kernels blacklist these drivers.",
        reference: PVE_WATCHDOG,
        derive: watchdog_armed,
    },
];

fn driver_of(device: &PciDevice) -> Option<&str> {
    match &device.driver {
        DriverState::Bound(driver) => Some(driver),
        DriverState::None => None,
    }
}

/// The devices that a module drives.
fn held_by<'a>(view: &View<'a>, module: &str) -> Vec<&'a PciDevice> {
    let devices = view.facts().pci.iter().flat_map(|pci| &pci.devices);
    devices
        .filter(|one| driver_of(one).map(canonical).as_deref() == Some(module))
        .collect()
}

/// A module that is loaded although a blacklist has been in force since boot, and whether it holds a
/// device that a VM claims; one that does comes before all others.
///
/// A blacklist of a package leaves it to the host to load the module by its name, and the watchdog that Proxmox is told
/// to use is loaded so whoever blacklisted it. Either counts only where the module stands in a VM's way.
fn bypassed<'a>(view: &View<'a>) -> Option<(&'a ModprobeRule, &'a str, bool)> {
    let config = view.facts().host_config.as_ref();
    let watchdog = config.and_then(|config| config.watchdog_module.as_deref());
    let is_watchdog = |module: &str| watchdog == Some(module);
    let claimed = |module: &str| {
        let mut held = held_by(view, module).into_iter();
        held.any(|one| view.claim_on(one.address).is_some())
    };
    blacklisted_and_loaded(view)
        .into_iter()
        .filter(|(rule, _)| in_force_since_boot(view, rule) == Some(true))
        .map(|(rule, module)| (rule, module, claimed(module)))
        .filter(|(rule, module, claimed)| *claimed || (is_own(rule) && !is_watchdog(module)))
        .min_by_key(|(_, _, claimed)| !claimed)
}

/// Whether a rule is of the host's administrator and not of a package.
fn is_own(rule: &ModprobeRule) -> bool {
    rule.file.starts_with("/etc/modprobe.d/")
}

fn blacklist_bypassed(view: &View<'_>) -> Option<Draft> {
    let modules = view.facts().modules.as_ref()?;
    let (rule, module, claimed) = bypassed(view)?;
    let draft = Draft::new(format!(
        "{module} is blacklisted and loaded: something asked for it by name"
    ))
    .proof("host-config", format!("{}: blacklist {module}", rule.file))
    .proof(
        "initramfs",
        format!("{}: blacklist {module}", rule.file.trim_start_matches('/')),
    )
    .proof("modules", format!("{module} is loaded"));
    let listed = modules.listed.iter().find(|one| one.module == module);
    let fix = match listed {
        Some(one) => format!("# take {module} out of {}", one.file),
        None => format!(
            "grep -rs {module} /etc/modules /etc/modules-load.d /etc/initramfs-tools/modules"
        ),
    };
    // An update of a package writes its file anew.
    let file = match is_own(rule) {
        true => rule.file.clone(),
        false => format!("/etc/modprobe.d/{module}.conf"),
    };
    let held = held_by(view, module);
    Some(
        draft
            .severity_if(claimed, Severity::Error)
            .proofs(
                "modules",
                listed.map(|one| format!("{}: {module}", one.file)),
            )
            .proofs("pci", held.into_iter().map(describe))
            .fix(fix)
            .fix(format!(
                "echo {} >> {}",
                word(&format!("install {module} /bin/false")),
                word(&file)
            ))
            .fix("update-initramfs -u -k all")
            .fix("reboot"),
    )
}

/// The module that drives a device of this class, where its class alone says so.
fn class_driver(device: &PciDevice) -> Option<&'static str> {
    match device.class.get(..6)? {
        "010601" => Some("ahci"),
        "010802" => Some("nvme"),
        _ => None,
    }
}

fn blacklist_covers_others(view: &View<'_>) -> Option<Draft> {
    let facts = view.facts();
    let (config, pci) = (facts.host_config.as_ref()?, facts.pci.as_ref()?);
    let without = |device: &&PciDevice| {
        let blacklisted =
            class_driver(device).is_some_and(|module| config.blacklist_of(module).is_some());
        // When a VM starts, vfio-pci also takes what else there is of the same kind and has no driver.
        let idle = device.driver == DriverState::None || is_on_vfio(device);
        blacklisted && idle && view.claim_on(device.address).is_none()
    };
    let others: Vec<_> = pci.devices.iter().filter(without).collect();
    let rule = config.blacklist_of(class_driver(others.first()?)?)?;
    // Without a claim the first may be the one that is meant.
    if view.claims().is_empty() {
        return None;
    }
    Some(
        Draft::new(format!(
            "`blacklist {}` leaves {} more controllers without a driver",
            rule.module,
            others.len()
        ))
        .proof(
            "host-config",
            format!("{}: blacklist {}", rule.file, rule.module),
        )
        .proofs("pci", others.iter().map(|one| describe(one)))
        .fix("# where the host needs them: softdep or ids= in place of the blacklist"),
    )
}

/// Where ids for vfio-pci are given, and which.
fn vfio_ids(view: &View<'_>) -> Vec<(&'static str, String, String)> {
    let facts = view.facts();
    let mut found = Vec::new();
    let rules = facts.host_config.iter().flat_map(|config| &config.rules);
    for rule in rules.filter(|rule| rule.command == "options" && rule.module == "vfio_pci") {
        for ids in rule
            .rest
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("ids="))
        {
            let quote = format!("{}: options vfio-pci {}", rule.file, rule.rest);
            found.push(("host-config", quote, ids.trim_matches('"').to_owned()));
        }
    }
    for word in facts.cmdline.iter().flat_map(|one| &one.words) {
        let ids = word
            .strip_prefix("vfio-pci.ids=")
            .or_else(|| word.strip_prefix("vfio_pci.ids="));
        found.extend(ids.map(|ids| ("cmdline", word.clone(), ids.to_owned())));
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
    let taking = |ids: &String| ids.split(',').any(|id| matches(id, device));
    let mut found = vfio_ids(view).into_iter();
    found
        .find(|(_, _, ids)| taking(ids))
        .map(|(source, quote, _)| (source, quote))
}

fn ids_match_two(view: &View<'_>) -> Option<Draft> {
    let facts = view.facts();
    let pci = facts.pci.as_ref()?;
    // What no VM claims is only known where the VMs are.
    facts.vm_configs.as_ref()?;
    for (source, quote, ids) in vfio_ids(view) {
        for id in ids.split(',') {
            let matched: Vec<_> = pci.devices.iter().filter(|one| matches(id, one)).collect();
            let free: Vec<_> = matched
                .iter()
                .filter(|one| view.claim_on(one.address).is_none())
                .collect();
            if matched.len() < 2 || free.is_empty() {
                continue;
            }
            let storage = facts.host_storage.as_ref();
            let loses = |one: &&&&PciDevice| {
                storage.is_some_and(|storage| storage.behind(one.address).next().is_some())
            };
            let losing = free.iter().filter(loses).count() > 0;
            let cause = format!(
                "vfio-pci takes every [{id}], of which there are {}",
                matched.len()
            );
            return Some(
                Draft::new(cause)
                    .severity_if(losing, Severity::Error)
                    .proof(source, quote)
                    .proofs("pci", matched.iter().map(|one| describe(one)))
                    .fix("# bind by address in place of ids=, before the driver is loaded:")
                    .fix("echo vfio-pci > /sys/bus/pci/devices/ADDRESS/driver_override")
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
        .find(|dog| dog.identity.starts_with("iTCO") && dog.state == "active");
    if bitten.is_none() && (bridge.is_none() || armed.is_none()) {
        return None;
    }
    let mut draft =
        Draft::new("the chipset's watchdog counts, and the VM's start takes it from who feeds it")
            .proofs("run", bitten)
            .proofs(
                "platform",
                armed.map(|dog| format!("{} {} {}", dog.name, dog.identity, dog.state)),
            );
    if let Some((bridge, with)) = bridge {
        draft = draft.proof("pci", describe(bridge)).proof(
            "iommu",
            format!("{} is in the group of {with}", bridge.address),
        );
    }
    Some(
        draft
            .fix("echo 'blacklist iTCO_wdt' > /etc/modprobe.d/watchdog.conf")
            .fix("update-initramfs -u -k all")
            .fix("reboot"),
    )
}
