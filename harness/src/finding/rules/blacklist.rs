//! Blacklists: the driver is loaded all the same, or is taken from more than it should be.

use std::collections::BTreeSet;

use super::drivers::{askers_for, bind_by_address, search_for};
use super::initramfs::in_force_since_boot;
use super::references::{MODPROBE, PVE_PASSTHROUGH};
use crate::finding::model::{Draft, Rule, Severity, word};
use crate::finding::view::{View, describe, is_on_vfio};
use crate::lab::PciAddress;
use crate::probe::host_storage::HostDisk;
use crate::probe::initramfs::ModprobeRule;
use crate::probe::modules::{ModuleState, canonical};
use crate::probe::pci::PciDevice;
use crate::scenario::DriverState;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "blacklist-bypassed",
        severity: Severity::Warning,
        summary: "a blacklisted module is loaded: something asked for it by name, or the line is not what it seems",
        explanation: "A blacklist only stops loading by a device's alias. /etc/modules, another module's dependency, a \
            script or `modprobe` by hand load the module all the same. `install NAME /bin/false` stops those too, \
            and with it every module that needs this one. A line that ends with a carriage return names another \
            module.",
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
];

fn driver_of(device: &PciDevice) -> Option<&str> {
    match &device.driver {
        DriverState::Bound(driver) => Some(driver),
        DriverState::None => None,
    }
}

/// The devices that a module drives.
pub(super) fn held_by<'a>(view: &View<'a>, module: &str) -> Vec<&'a PciDevice> {
    let devices = view.facts().pci.iter().flat_map(|pci| &pci.devices);
    devices
        .filter(|one| driver_of(one).map(canonical).as_deref() == Some(module))
        .collect()
}

/// The devices that a module drives, and those of its kind that vfio-pci or nothing has.
fn driven_by<'a>(view: &View<'a>, module: &str) -> Vec<&'a PciDevice> {
    let mut driven = held_by(view, module);
    let devices = view.facts().pci.iter().flat_map(|pci| &pci.devices);
    driven.extend(devices.filter(|one| {
        let idle = one.driver == DriverState::None || is_on_vfio(one);
        idle && class_driver(one) == Some(module)
    }));
    driven
}

/// Whether a module drives a device that a VM claims.
fn is_in_the_way(view: &View<'_>, module: &str) -> bool {
    let mut held = held_by(view, module).into_iter();
    held.any(|one| view.claim_on(one.address).is_some())
}

/// The loaded modules that need this one.
fn users_of<'a>(view: &View<'a>, module: &str) -> Option<&'a BTreeSet<String>> {
    view.facts().modules.as_ref()?.used_by.get(module)
}

/// Blacklists of modules that are loaded all the same, where the initramfs has the rule too.
///
/// A blacklist of a package leaves it to the host to load the module by its name, and the watchdog that Proxmox is told
/// to use is loaded so whoever blacklisted it. A module that another one needs comes with that one. Each counts only
/// where the module stands in a VM's way.
pub(super) fn loaded_all_the_same<'a>(view: &View<'a>) -> Vec<(&'a ModprobeRule, &'a str)> {
    let facts = view.facts();
    let (Some(config), Some(modules), Some(initramfs)) =
        (&facts.host_config, &facts.modules, &facts.initramfs)
    else {
        return Vec::new();
    };
    let is_meant = |rule: &ModprobeRule| {
        is_own(rule) && config.watchdog() != rule.module && users_of(view, &rule.module).is_none()
    };
    config
        .rules
        .iter()
        .filter(|rule| rule.command == "blacklist")
        .filter(|rule| modules.state(&rule.module) == ModuleState::Loaded)
        .filter(|rule| initramfs.blacklists(&rule.module))
        .filter(|rule| is_meant(rule) || is_in_the_way(view, &rule.module))
        .map(|rule| (rule, rule.module.as_str()))
        .collect()
}

/// Whether a rule is of the host's administrator and not of a package.
fn is_own(rule: &ModprobeRule) -> bool {
    rule.file.starts_with("/etc/modprobe.d/")
}

/// Blacklists that do not keep their modules from loading, those in a VM's way first.
fn blacklist_bypassed(view: &View<'_>) -> Option<Draft> {
    let mut found: Vec<(&str, Draft)> = Vec::new();
    for (rule, module) in loaded_all_the_same(view) {
        if in_force_since_boot(view, rule) == Some(true) {
            found.push((module, loaded_by_name(view, rule, module)));
        }
    }
    found.extend(misread(view));
    let (module, draft) = found
        .into_iter()
        .min_by_key(|(module, _)| !is_in_the_way(view, module))?;
    let held = held_by(view, module).into_iter().map(describe);
    Some(
        draft
            .severity_if(is_in_the_way(view, module), Severity::Error)
            .proof("modules", format!("{module} is loaded"))
            .proofs("pci", held)
            .fix("update-initramfs -u -k all")
            .fix("reboot"),
    )
}

/// A blacklist whose line has a carriage return at its end, and the loaded module that it is meant for.
fn misread<'a>(view: &View<'a>) -> Option<(&'a str, Draft)> {
    let facts = view.facts();
    let (config, modules) = (facts.host_config.as_ref()?, facts.modules.as_ref()?);
    let meant = |rule: &'a ModprobeRule| Some((rule, rule.module.strip_suffix('\r')?));
    let (rule, module) = config
        .rules
        .iter()
        .filter(|rule| rule.command == "blacklist")
        .filter_map(meant)
        .filter(|(_, module)| modules.state(module) == ModuleState::Loaded)
        .filter(|(_, module)| config.blacklist_of(module).is_none())
        .filter(|(_, module)| users_of(view, module).is_none() || is_in_the_way(view, module))
        .min_by_key(|(_, module)| !is_in_the_way(view, module))?;
    let cause = format!(
        "`blacklist {module}` in {} has no effect: the line ends as on Windows, and modprobe takes the carriage return \
         for a part of the module's name",
        rule.file
    );
    let draft = Draft::new(cause)
        .proof(
            "host-config",
            format!("{}: blacklist {module}\\r", rule.file),
        )
        .fix(format!("sed -i 's/\\r$//' {}", word(&rule.file)));
    Some((module, draft))
}

/// A blacklist that is in force, and the module is loaded. What the host has its own disks by is not taken from it.
fn loaded_by_name(view: &View<'_>, rule: &ModprobeRule, module: &str) -> Draft {
    let facts = view.facts();
    let users = users_of(view, module).map(|users| {
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        users.join(", ")
    });
    let askers = askers_for(view, module);
    let mut draft = Draft::new(format!(
        "{module} is blacklisted and loaded: something asked for it by name"
    ))
    .proof("host-config", format!("{}: blacklist {module}", rule.file))
    .proof(
        "initramfs",
        format!("{}: blacklist {module}", rule.file.trim_start_matches('/')),
    )
    .proofs(
        "modules",
        users
            .iter()
            .map(|users| format!("{module} is needed by {users}")),
    );
    for asker in &askers {
        draft = draft.proof(asker.source, format!("{}: {module}", asker.quoted));
    }

    let driven = driven_by(view, module);
    if let Some(device) = driven.iter().find(|one| is_needed(view, one)) {
        let given = driven
            .iter()
            .filter(|one| view.claim_on(one.address).is_some() && !is_needed(view, one));
        let given: Vec<PciAddress> = given.map(|one| one.address).collect();
        let draft = draft.fix(format!(
            "# the host has its own disks on {} by {module}: take `blacklist {module}` out of {}",
            device.address, rule.file
        ));
        return match given.as_slice() {
            [] => draft,
            given => bind_by_address(draft, given),
        };
    }
    let unknown = facts.host_storage.is_none() && driven.iter().any(|one| one.is_storage());
    if unknown {
        draft = draft.fix(format!(
            "# if the host has no disks of its own by {module}:"
        ));
    }
    for asker in &askers {
        draft = draft.fix(format!("# take {module} out of {}", asker.file));
    }
    if askers.is_empty() {
        draft = draft.fix(search_for(module));
    }
    if let Some(users) = users {
        return draft.fix(format!("# blacklist what needs {module} as well: {users}"));
    }
    let to_give = |one: &&PciDevice| view.claim_on(one.address).is_some() && !is_used(view, one);
    let knows_users = facts
        .modules
        .as_ref()
        .is_some_and(|one| !one.used_by.is_empty());
    if unknown || !knows_users || driven.is_empty() || !driven.iter().all(to_give) {
        return draft;
    }
    // An update of a package writes its file anew.
    let file = match is_own(rule) {
        true => rule.file.clone(),
        false => format!("/etc/modprobe.d/{module}.conf"),
    };
    draft.fix(format!(
        "echo {} >> {}",
        word(&format!("install {module} /bin/false")),
        word(&file)
    ))
}

fn disks_behind<'a>(view: &View<'a>, device: &PciDevice) -> impl Iterator<Item = &'a HostDisk> {
    let storage = view.facts().host_storage.iter();
    let address = device.address;
    storage.flat_map(move |storage| storage.behind(address))
}

/// Whether the host uses a disk behind a device.
fn is_used(view: &View<'_>, device: &PciDevice) -> bool {
    disks_behind(view, device).any(|disk| !disk.uses.is_empty())
}

/// Whether the host cannot do without a device: it boots from it, or uses disks behind it that no VM claims.
fn is_needed(view: &View<'_>, device: &PciDevice) -> bool {
    let claimed = view.claim_on(device.address).is_some();
    disks_behind(view, device).any(|disk| disk.is_vital() || (!claimed && !disk.uses.is_empty()))
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
