//! The VM's configuration.

use std::collections::BTreeMap;

use super::references::{PVE_BACKUP, PVE_CONFIG, PVE_MAPPINGS, PVE_PASSTHROUGH};
use crate::finding::model::{Draft, Rule, Severity, word};
use crate::finding::view::{Claim, View, describe};
use crate::lab::PciAddress;
use crate::probe::kernel_log::PciIdentity;
use crate::probe::pci::PciDevice;
use crate::probe::vm_configs;

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
        summary: "the hostpci line names an address at which the host has no device",
        explanation: "`qm start` ends with `no PCI device found for …`. The address may be mistyped, or the device is gone.",
        reference: PVE_PASSTHROUGH,
        derive: no_such_address,
    },
    Rule {
        id: "address-renumbered",
        severity: Severity::Error,
        summary: "the device that the hostpci line means has moved to another address",
        explanation: "PCI bus numbers are given in the order of finding. A card that is added or taken out before the \
            controller moves it, and its old address may be another device's now.",
        reference: PVE_MAPPINGS,
        derive: renumbered,
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
                "qm set {} --hostpci0 0000:BB:DD.F,pcie=1",
                first.vmid
            )),
    )
}

fn in_snapshot_section(view: &View<'_>) -> Option<Draft> {
    let configs = view.facts().vm_configs.as_ref()?;
    for vm in &configs.vms {
        let main = vm.main()?;
        for section in vm.sections.iter().skip(1) {
            let name = section.name.as_deref().unwrap_or_default();
            let other =
                name.eq_ignore_ascii_case("pending") || name.to_lowercase().starts_with("special:");
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
                .find(|line| main.value(&line.key).is_none() && by_hand(&line.key));
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
    let machine = |claim: &Claim<'_>| {
        claim
            .vm
            .main()
            .and_then(|main| main.value("machine"))
            .map(str::to_owned)
    };
    let q35 = |claim: &Claim<'_>| machine(claim).is_some_and(|machine| machine.contains("q35"));
    let claim = view
        .claims()
        .iter()
        .find(|claim| claim.pcie && !q35(claim))?;
    let is = match machine(claim) {
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

/// A path of a claim at which there is no device.
fn empty_path<'c>(view: &View<'_>, claim: &'c Claim<'_>) -> Option<&'c String> {
    let devices = &view.facts().pci.as_ref()?.devices;
    claim.paths.iter().find(|path| {
        !devices
            .iter()
            .any(|one| vm_configs::names(path, one.address))
    })
}

fn no_such_address(view: &View<'_>) -> Option<Draft> {
    let (claim, path) = view
        .claims()
        .iter()
        .find_map(|claim| Some((claim, empty_path(view, claim)?)))?;
    if renumbered(view).is_some() {
        return None;
    }
    let controllers = view
        .facts()
        .pci
        .iter()
        .flat_map(|pci| &pci.devices)
        .filter(|one| one.is_storage());
    Some(
        Draft::new(format!(
            "VM {} wants the device at {path}, and there is none",
            claim.vmid
        ))
        .proof("vm-configs", claim.quote())
        .proofs(
            "pci",
            controllers.map(|one| format!("a storage controller: {}", describe(one))),
        )
        .proofs("run", view.said("no PCI device found"))
        .fix("lspci -nn")
        .fix(format!(
            "qm set {} --{} 0000:BB:DD.F,pcie=1",
            claim.vmid, claim.key
        )),
    )
}

fn ids(device: &PciIdentity) -> String {
    format!("{}:{}", device.vendor, device.device)
}

fn renumbered(view: &View<'_>) -> Option<Draft> {
    moved(view).or_else(|| mapping_differs(view))
}

/// What was at a claimed address before is now elsewhere.
fn moved(view: &View<'_>) -> Option<Draft> {
    let facts = view.facts();
    let now = &facts.pci.as_ref()?.devices;
    let (source, earlier) = match view.run() {
        Some(run) if !run.earlier_devices.is_empty() => ("run", &run.earlier_devices),
        _ => ("kernel-log", &facts.kernel_log.as_ref()?.previous_devices),
    };
    let is = |address: PciAddress, id: &str| {
        let found = now.iter().find(|one| one.address == address);
        found.is_some_and(|one| format!("{}:{}", one.vendor, one.device) == id)
    };
    for claim in view.claims() {
        let named = |one: &&PciIdentity| {
            claim
                .paths
                .iter()
                .any(|path| vm_configs::names(path, one.address))
        };
        for before in earlier.iter().filter(named) {
            let id = ids(before);
            let elsewhere = now.iter().find(|one| {
                let there_before = earlier
                    .iter()
                    .any(|old| old.address == one.address && ids(old) == id);
                is(one.address, &id) && !there_before
            });
            let (false, Some(new)) = (is(before.address, &id), elsewhere) else {
                continue;
            };
            let at = now.iter().find(|one| one.address == before.address);
            let at = at.map_or("nothing".to_owned(), describe);
            return Some(
                Draft::new(format!(
                    "the device of VM {} was at {} and is now at {}",
                    claim.vmid, before.address, new.address
                ))
                .proof("vm-configs", claim.quote())
                .proof(
                    source,
                    format!("before: {} [{id}] class {}", before.address, before.class),
                )
                .proof("pci", format!("now there: {at}"))
                .proof("pci", format!("now: {}", describe(new)))
                .fix(format!(
                    "qm set {} --{} {},pcie={}",
                    claim.vmid,
                    claim.key,
                    new.address,
                    u8::from(claim.pcie)
                ))
                .fix("# a resource mapping would have refused to start the VM with another device"),
            );
        }
    }
    None
}

/// The devices whose id a mapping holds: each of its list, and of a path without a function the function 0.
/// Proxmox looks at no other function.
fn identified<'a>(view: &View<'a>, list: &str) -> impl Iterator<Item = &'a PciDevice> {
    let pci = view.facts().pci.as_ref();
    list.split(';').filter_map(move |path| {
        let mut devices = pci?.devices.iter();
        devices.find(|one| {
            let function = path.contains('.') || one.address.function == 0;
            function && vm_configs::names(path, one.address)
        })
    })
}

/// A mapping says what the device was when it was made.
fn mapping_differs(view: &View<'_>) -> Option<Draft> {
    let configs = view.facts().vm_configs.as_ref()?;
    for claim in view.claims() {
        let mapping = configs
            .mappings
            .iter()
            .find(|one| Some(&one.name) == claim.mapping.as_ref());
        let Some(mapping) = mapping else { continue };
        for device in mapping.devices.iter().filter(|one| view.is_here(one)) {
            let Some(id) = &device.id else { continue };
            let is_other = |one: &&PciDevice| {
                !id.eq_ignore_ascii_case(&format!("{}:{}", one.vendor, one.device))
            };
            let Some(found) = identified(view, &device.path).find(is_other) else {
                continue;
            };
            return Some(
                Draft::new(format!(
                    "the mapping `{}` means a [{id}] at {}, and another device is there",
                    mapping.name, found.address
                ))
                .proof("vm-configs", claim.quote())
                .proof(
                    "vm-configs",
                    format!("pci.cfg: {}: id={id},path={}", mapping.name, device.path),
                )
                .proof("pci", describe(found))
                .fix("lspci -nn")
                .fix(format!(
                    "# make the mapping `{}` anew under Datacenter, Resource Mappings",
                    mapping.name
                )),
            );
        }
    }
    None
}

/// Whether a VM's file has the value `1` for a key.
fn is_set(claim: &Claim<'_>, key: &str) -> bool {
    claim.vm.main().and_then(|main| main.value(key)) == Some("1")
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
    let mappings = view
        .facts()
        .vm_configs
        .as_ref()
        .map(|configs| &configs.mappings);
    view.claims().iter().find(|claim| {
        let mapping = mappings.iter().flat_map(|all| all.iter());
        let mut mapping = mapping.filter(|one| Some(&one.name) == claim.mapping.as_ref());
        !mapping.any(|one| one.live_migration)
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
