//! The VM's configuration.

mod place;

use std::collections::BTreeMap;

use super::references::{PVE_BACKUP, PVE_CONFIG, PVE_MAPPINGS, PVE_PASSTHROUGH};
use crate::finding::model::{Draft, Rule, Severity, word};
use crate::finding::view::{Claim, View};
use crate::lab::PciAddress;
use crate::probe::vm_configs::VmConfigFile;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "hostpci-unparsable",
        severity: Severity::Error,
        summary: "a hostpci line is not what Proxmox can read, so the VM starts without the device",
        explanation: "Proxmox prints a warning, drops the line and goes on. The guest comes up and has no disks.",
        reference: PVE_CONFIG,
        derive: unparsable,
    },
    Rule {
        id: "hostpci-in-snapshot-section",
        severity: Severity::Error,
        summary: "the hostpci line stands below a [snapshot] heading, where it does not count",
        explanation: "A line that is appended to a VM's file belongs to the last section of it. In a file with snapshots \
            that is a snapshot, not the VM.",
        reference: PVE_CONFIG,
        derive: in_snapshot_section,
    },
    Rule {
        id: "i440fx-with-pcie",
        severity: Severity::Error,
        summary: "pcie=1 needs the machine type q35, and the VM has another",
        explanation: "The default machine i440fx has no PCI Express. `qm start` ends with `q35 machine model is not enabled`.",
        reference: PVE_PASSTHROUGH,
        derive: i440fx,
    },
    Rule {
        id: "no-such-address",
        severity: Severity::Error,
        summary: "the hostpci line names an address without a device, or a mapping that this host does not have",
        explanation: "`qm start` ends with `no PCI device found for …`: the address may be mistyped, or the device is gone. \
            With a mapping that has no entry for this node it ends with `PCI device mapping not found for …`.",
        reference: PVE_PASSTHROUGH,
        derive: place::no_such_address,
    },
    Rule {
        id: "address-renumbered",
        severity: Severity::Error,
        summary: "the device that the hostpci line means has moved, or is not what its mapping says",
        explanation: "PCI bus numbers are given in the order of finding. A card that is added or taken out before the \
            controller moves it, and its old address may be another device's now. A mapping also says what ids and which \
            IOMMU group the device had, and `qm start` refuses where that is not so any more.",
        reference: PVE_MAPPINGS,
        derive: place::renumbered,
    },
    Rule {
        id: "controller-claimed-twice",
        severity: Severity::Warning,
        summary: "two lines claim the same device, and only one VM can have it at a time",
        explanation: "The second VM to start ends with `PCI device … already in use`. Two guests that took turns on one \
            pool would have to export it each time.",
        reference: PVE_PASSTHROUGH,
        derive: claimed_twice,
    },
    Rule {
        id: "hostpci-not-migratable",
        severity: Severity::Note,
        summary: "a VM with a device of this host cannot be migrated while it runs",
        explanation: "The device stays where it is, and so does the VM: `qm migrate` refuses, and a high-availability group \
            cannot move it.",
        reference: PVE_PASSTHROUGH,
        derive: not_migratable,
    },
    Rule {
        id: "passthrough-not-in-backups",
        severity: Severity::Note,
        summary: "backups and snapshots of the VM do not hold the disks behind a controller that is passed through",
        explanation: "Proxmox backs up the virtual disks that it knows. What is on the controller's disks is the guest's to \
            replicate. Snapshots with memory are not possible.",
        reference: PVE_BACKUP,
        derive: not_in_backups,
    },
];

fn unparsable(view: &View<'_>) -> Option<Draft> {
    let configs = view.facts().vm_configs.as_ref()?;
    let warned: Vec<_> = configs
        .vms
        .iter()
        .filter(|vm| !vm.warnings.is_empty())
        .collect();
    let first = warned.first()?;
    let cause = format!(
        "Proxmox cannot read a hostpci line of VM {} and starts it without the device",
        first.vmid
    );
    Some(
        Draft::new(cause)
            .proofs(
                "vm-configs",
                warned.iter().flat_map(|vm| vm.warnings.clone()),
            )
            .fix(format!("qm config {}", first.vmid))
            .fix(format!(
                "qm set {} --{} 0000:BB:DD.F{}",
                first.vmid,
                key_to_set(view, first),
                if is_q35(first) { ",pcie=1" } else { "" }
            )),
    )
}

/// The key that a warning is about, or the first that is free where that one holds a device or is none of
/// Proxmox's.
fn key_to_set(view: &View<'_>, vm: &VmConfigFile) -> String {
    let holds = |key: &str| {
        let mut claims = view.claims().iter();
        claims.any(|claim| claim.vmid == vm.vmid && claim.key == key)
    };
    let named = vm.warnings.iter().filter_map(|words| {
        let (_, rest) = words.split_once("hostpci")?;
        let end = rest.find(|c: char| !c.is_ascii_digit());
        Some(format!("hostpci{}", &rest[..end.unwrap_or(rest.len())]))
    });
    let known = |key: &String| qm::config::setting(key).is_some();
    let all = (0..).map(|number| format!("hostpci{number}"));
    named
        .filter(known)
        .chain(all.take_while(known))
        .find(|key| !holds(key))
        .unwrap_or("hostpciN".to_owned())
}

fn is_q35(vm: &VmConfigFile) -> bool {
    vm.value("machine")
        .is_some_and(|machine| machine.contains("q35"))
}

fn in_snapshot_section(view: &View<'_>) -> Option<Draft> {
    let configs = view.facts().vm_configs.as_ref()?;
    for vm in &configs.vms {
        for section in vm.sections.iter().skip(1) {
            let name = section.name.as_deref().unwrap_or_default();
            let other = section.is_pending() || name.to_lowercase().starts_with("special:");
            // A snapshot of a VM that had the device has the line too, but then Proxmox wrote it: sorted, and
            // beside a time.
            let by_hand = |key: &str| {
                let out = section
                    .out_of_order
                    .iter()
                    .any(|line| line.starts_with(&format!("{key}:")));
                out || !section.has_snaptime
            };
            let line = section
                .numbered("hostpci")
                .into_iter()
                .find(|line| vm.value(&line.key).is_none() && by_hand(&line.key));
            let Some(line) = line.filter(|_| !other) else {
                continue;
            };
            let file = format!("/etc/pve/qemu-server/{}.conf", vm.vmid);
            return Some(
                Draft::new(format!(
                    "the {} line of VM {} belongs to its snapshot `{name}`",
                    line.key, vm.vmid
                ))
                .proof(
                    "vm-configs",
                    format!("{file}: [{name}] … {}: {}", line.key, line.value),
                )
                .fix(format!("# take the line out below [{name}] in {file}"))
                .fix(format!(
                    "qm set {} --{} {}",
                    vm.vmid,
                    line.key,
                    word(&line.value)
                )),
            );
        }
    }
    None
}

fn i440fx(view: &View<'_>) -> Option<Draft> {
    let claim = view
        .claims()
        .iter()
        .find(|claim| claim.pcie && !is_q35(claim.vm))?;
    let is = match claim.vm.value("machine") {
        Some(machine) => format!("machine: {machine}"),
        None => "no machine line, which means i440fx".to_owned(),
    };
    Some(
        Draft::new(format!(
            "VM {} has pcie=1 and is no q35 machine",
            claim.vmid
        ))
        .proof("vm-configs", claim.quote())
        .proof("vm-configs", format!("{}.conf: {is}", claim.vmid))
        .proofs("run", view.said("q35 machine model is not enabled"))
        .fix(format!("qm set {} --machine q35", claim.vmid))
        .fix(format!(
            "# or, for a guest that cannot do without i440fx: take pcie=1 out of {}",
            claim.key
        )),
    )
}

/// Whether a VM's file has the value `1` for a key.
fn is_set(claim: &Claim<'_>, key: &str) -> bool {
    claim.vm.value(key) == Some("1")
}

/// The first two claims of one VM.
fn of_one_vm<'c, 'a>(claims: &[&'c Claim<'a>]) -> Option<[&'c Claim<'a>; 2]> {
    let mut pairs = claims.windows(2).map(|pair| [pair[0], pair[1]]);
    pairs.find(|[first, second]| first.vmid == second.vmid)
}

/// Whether a start goes wrong, be it by hand or with the host.
fn collide(claims: &[&Claim<'_>]) -> bool {
    let at_boot = claims.iter().filter(|claim| is_set(claim, "onboot"));
    at_boot.count() > 1 || of_one_vm(claims).is_some()
}

fn claimed_twice(view: &View<'_>) -> Option<Draft> {
    let mut claims: BTreeMap<PciAddress, Vec<&Claim<'_>>> = BTreeMap::new();
    // A template is never started.
    for claim in view.claims().iter().filter(|one| !is_set(one, "template")) {
        for device in &claim.certain {
            claims.entry(*device).or_default().push(claim);
        }
    }
    claims.retain(|_, claims| claims.len() > 1);
    let worst = claims.iter().find(|(_, claims)| collide(claims));
    let (device, claims) = worst.or_else(|| claims.iter().next())?;
    let said = view
        .said("already in use")
        .or_else(|| view.said("assigned more than once"));
    let (cause, surplus) = match of_one_vm(claims) {
        Some([first, second]) => (format!("VM {} claims {device} twice", first.vmid), second),
        None => {
            let numbers: Vec<String> = claims.iter().map(|one| one.vmid.to_string()).collect();
            let numbers = numbers.join(" and ");
            (format!("the VMs {numbers} both claim {device}"), claims[1])
        }
    };
    Some(
        Draft::new(cause)
            .severity_if(said.is_some() || collide(claims), Severity::Error)
            .proofs("vm-configs", claims.iter().map(|claim| claim.quote()))
            .proofs("run", said)
            .fix(format!("qm set {} --delete {}", surplus.vmid, surplus.key)),
    )
}

/// A claim on a storage controller that stays on this host.
fn fixed_claim<'v, 'a>(view: &'v View<'a>) -> Option<&'v Claim<'a>> {
    view.claims().iter().find(|claim| {
        let mapping = claim.mapping.as_deref().and_then(|name| view.mapping(name));
        !mapping.is_some_and(|one| one.live_migration)
    })
}

fn not_migratable(view: &View<'_>) -> Option<Draft> {
    let claim = fixed_claim(view)?;
    Some(
        Draft::new(format!(
            "VM {} is tied to this host by {}",
            claim.vmid, claim.key
        ))
        .proof("vm-configs", claim.quote())
        .proofs("run", view.said("migrate"))
        .fix(format!(
            "# to move it: qm shutdown {0}, move the disks, qm set {0} --{1} … on the other host",
            claim.vmid, claim.key
        )),
    )
}

fn not_in_backups(view: &View<'_>) -> Option<Draft> {
    let storage = |claim: &&Claim<'_>| {
        let mut devices = claim.devices.iter().filter_map(|one| view.device(*one));
        devices.any(|one| one.is_storage())
    };
    let claim = view.claims().iter().find(storage)?;
    Some(
        Draft::new(format!(
            "backups of VM {} hold its virtual disks and not those behind {}",
            claim.vmid, claim.key
        ))
        .proof("vm-configs", claim.quote())
        .fix("# replicate the pool from inside the NAS"),
    )
}
