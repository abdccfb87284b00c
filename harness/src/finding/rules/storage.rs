//! Who uses the disks: the host beside the guest, or the guest without their controller.

use std::collections::BTreeSet;
use std::path::Path;

use super::drivers::id_taking;
use super::references::{PVE_DISKS, PVE_PASSTHROUGH, ZFS_IMPORT};
use crate::finding::model::{Draft, Rule, Severity, word};
use crate::finding::view::{Claim, View, describe, is_on_vfio};
use crate::probe::host_storage::{DiskUse, HostDisk, HostPool, StorageKind, UseKind};
use crate::probe::modules::canonical;
use crate::probe::vm_configs::VmConfigFile;
use crate::scenario::DriverState;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "host-boots-from-controller",
        severity: Severity::Error,
        summary: "the host's own system is on a disk of the controller that is given away",
        explanation: "With its driver blacklisted or the controller at vfio-pci, the host does not find its root at the next \
            boot and ends in the initramfs shell; given away while it runs, it loses its root at once.",
        reference: PVE_PASSTHROUGH,
        derive: boots_from_controller,
    },
    Rule {
        id: "disk-in-use-on-host",
        severity: Severity::Error,
        summary: "the host itself uses a disk of the controller that a VM claims",
        explanation: "When the VM starts, the disk is pulled from under the host's file system, array or volume group, and \
            two systems may have written to it.",
        reference: PVE_PASSTHROUGH,
        derive: in_use_on_host,
    },
    Rule {
        id: "pool-imported-on-host",
        severity: Severity::Error,
        summary: "the host has imported the pool that belongs to the guest",
        explanation: "A pool that two systems have imported at once is damaged beyond repair. Proxmox hosts have ZFS and \
            import pools that they have seen before at boot. A pool that is a storage of Proxmox's they import again within \
            seconds, whenever it is not there.",
        reference: ZFS_IMPORT,
        derive: pool_on_host,
    },
    Rule {
        id: "disks-not-controller",
        severity: Severity::Warning,
        summary: "the guest has its data disks one by one as virtual disks, not their controller",
        explanation: "The guest sees `QEMU HARDDISK` without SMART and WWN. Without serial= in the lines a disk's serial \
            number is the name that Proxmox gives its drive (drive-scsi1), which stays with the slot and not with the disk; \
            where QEMU gives equal ones or none, TrueNAS refuses a pool.",
        reference: PVE_DISKS,
        derive: disks_not_controller,
    },
];

pub(super) fn boots_from_controller(view: &View<'_>) -> Option<Draft> {
    let facts = view.facts();
    let storage = facts.host_storage.as_ref()?;
    for disk in storage.disks.iter().filter(|disk| disk.is_vital()) {
        let Some(device) = disk.controller.and_then(|address| view.device(address)) else {
            continue;
        };
        let mut proof: Vec<(&'static str, String)> = Vec::new();
        let along = view
            .taken_along()
            .into_iter()
            .find(|(one, _)| one.address == device.address);
        proof.extend(
            view.claim_on(device.address)
                .map(|claim| ("vm-configs", claim.quote())),
        );
        proof.extend(along.map(|(_, with)| {
            (
                "iommu",
                format!("{} is in the group of {with}", device.address),
            )
        }));
        if let (DriverState::Bound(driver), Some(config)) = (&device.driver, &facts.host_config) {
            let rule = config.blacklist_of(&canonical(driver));
            proof.extend(rule.map(|rule| {
                (
                    "host-config",
                    format!("{}: blacklist {}", rule.file, rule.module),
                )
            }));
        }
        proof.extend(id_taking(view, device));
        if proof.is_empty() {
            continue;
        }
        let cause = format!(
            "{} with the host's {} is on {}, which is being given away",
            disk.name,
            what(disk),
            device.address
        );
        let mut draft = Draft::new(cause)
            .proof("host-storage", uses(disk))
            .proof("pci", describe(device));
        for (source, quote) in proof {
            draft = draft.proof(source, quote);
        }
        let seen = view
            .console("Gave up waiting for root")
            .or_else(|| view.console("(initramfs)"));
        return Some(
            draft
                .proofs("run", seen.cloned())
                .fix("# take the blacklist or ids= and the hostpci line back before the next boot")
                .fix("update-initramfs -u -k all")
                .fix("# move the host's system to another controller, such as NVMe, before trying again"),
        );
    }
    None
}

fn what(disk: &HostDisk) -> String {
    let vital = |kind: UseKind| matches!(kind, UseKind::Root | UseKind::Boot | UseKind::Swap);
    let found = disk.uses.iter().find(|one| vital(one.kind));
    found.map_or_else(String::new, |one| one.kind.to_string())
}

/// A disk and what it is used for, as proof.
fn uses(disk: &HostDisk) -> String {
    let uses: Vec<String> = disk
        .uses
        .iter()
        .map(|one| format!("{} {}", one.kind, one.name))
        .collect();
    let controller = disk
        .controller
        .map_or("no PCI device".to_owned(), |one| one.to_string());
    format!("{} on {controller}: {}", disk.name, uses.join(", "))
}

/// Disks on claimed controllers that the host uses in one of these ways.
fn used<'a>(view: &View<'a>, kinds: &[UseKind]) -> Vec<&'a HostDisk> {
    let Some(storage) = &view.facts().host_storage else {
        return Vec::new();
    };
    let claimed = |disk: &&HostDisk| {
        disk.controller
            .is_some_and(|one| view.claim_on(one).is_some())
    };
    let used = |disk: &&HostDisk| disk.uses.iter().any(|one| kinds.contains(&one.kind));
    storage.disks.iter().filter(claimed).filter(used).collect()
}

fn in_use_on_host(view: &View<'_>) -> Option<Draft> {
    let kinds = [UseKind::Mount, UseKind::Lvm, UseKind::Raid, UseKind::Crypt];
    let disks: Vec<_> = used(view, &kinds)
        .into_iter()
        .filter(|disk| !disk.is_vital())
        .collect();
    let Some(first) = disks.first() else {
        return pulled_from_under(view);
    };
    let claim = view.claim_on(first.controller?)?;
    let mut draft = Draft::new(format!(
        "the host uses {}, which is on the controller of VM {}",
        first.name, claim.vmid
    ))
    .proof("vm-configs", claim.quote())
    .proofs("host-storage", disks.iter().map(|disk| uses(disk)));
    // Each once, though several disks have it, and a mount before the one that it is in.
    let uses: BTreeSet<&DiskUse> = disks.iter().flat_map(|disk| &disk.uses).collect();
    let of = |kind: UseKind| uses.iter().filter(move |one| one.kind == kind);
    let kinds = [StorageKind::Dir, StorageKind::Btrfs];
    draft = without_storages(view, draft, &kinds, |place| {
        of(UseKind::Mount).any(|mount| Path::new(place).starts_with(&mount.name))
    });
    for mount in of(UseKind::Mount).rev() {
        draft = draft.fix(format!(
            "umount {}   # and take it out of /etc/fstab",
            word(&mount.name)
        ));
    }
    let groups: BTreeSet<String> = of(UseKind::Lvm)
        .map(|one| volume_group(&one.name))
        .collect();
    for group in &groups {
        let kinds = [StorageKind::Lvm, StorageKind::Lvmthin];
        draft = without_storages(view, draft, &kinds, |place| place == group)
            .fix(match group.starts_with("ceph-") {
                true => {
                    format!("# stop and destroy the OSD in {group}, under this node, Ceph, OSD")
                }
                false => format!("# stop the VMs and containers that have volumes in {group}"),
            })
            .fix(format!("vgchange -an {}", word(group)));
    }
    for one in uses {
        draft = match one.kind {
            UseKind::Raid => draft.fix(format!(
                "mdadm --stop {}",
                word(&format!("/dev/{}", one.name))
            )),
            UseKind::Crypt => draft.fix(format!("cryptsetup close {}", word(&one.name))),
            _ => draft,
        };
    }
    Some(draft)
}

/// With the commands that keep Proxmox from activating its storages again in certain places.
fn without_storages(
    view: &View<'_>,
    draft: Draft,
    kinds: &[StorageKind],
    is_place: impl Fn(&str) -> bool,
) -> Draft {
    let storages = view.active_storages();
    let there = storages.filter(|one| kinds.contains(&one.kind) && is_place(&one.place));
    there.fold(draft, |draft, one| {
        let quote = format!(
            "storage.cfg: {}: {}, {} {}",
            one.kind,
            one.id,
            one.kind.property(),
            one.place
        );
        draft.proof("host-storage", quote).fix(format!(
            "pvesm set {} --disable 1   # or remove it under Datacenter, Storage",
            word(&one.id)
        ))
    })
}

/// The volume group of a volume that the device mapper has: what comes before the first `-`, where each
/// `-` of a name stands twice.
fn volume_group(mapped: &str) -> String {
    let mut group = String::new();
    let mut letters = mapped.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '-' && letters.next_if_eq(&'-').is_none() {
            break;
        }
        group.push(letter);
    }
    group
}

/// With what keeps the host from importing a pool again.
fn without_imports(view: &View<'_>, draft: Draft, pool: &HostPool) -> Draft {
    let draft = without_storages(view, draft, &[StorageKind::Zfspool], |place| {
        place.split('/').next() == Some(pool.name.as_str())
    });
    match &pool.import_unit {
        Some(unit) => draft.fix(format!("systemctl disable {}", word(unit))),
        None => draft,
    }
}

/// The claim of a VM that has got a controller of disks, itself or along with its group: another device
/// takes no disks from the host.
fn given<'v, 'a>(view: &'v View<'a>) -> Option<&'v Claim<'a>> {
    let along = view.taken_along();
    view.claims().iter().find(|claim| {
        let own = claim.devices.iter().filter_map(|one| view.device(*one));
        let along = along
            .iter()
            .filter(|(_, with)| claim.devices.contains(with));
        own.chain(along.map(|(one, _)| *one))
            .any(|one| one.is_storage() && is_on_vfio(one))
    })
}

/// The disk is gone, and the file system on it is still mounted.
fn pulled_from_under(view: &View<'_>) -> Option<Draft> {
    let lost = &view.facts().host_storage.as_ref()?.lost_mounts;
    let first = lost.first()?;
    let target = first.split(" on ").nth(1)?;
    let claim = given(view)?;
    Some(
        Draft::new(format!(
            "the start of VM {} pulled the disk from under {target}, which the host has mounted",
            claim.vmid
        ))
        .proofs(
            "host-storage",
            lost.iter()
                .map(|one| format!("{one}, whose device is gone")),
        )
        .proof("vm-configs", claim.quote())
        .fix(format!(
            "umount -l {}   # and take it out of /etc/fstab",
            word(target)
        )),
    )
}

fn pool_on_host(view: &View<'_>) -> Option<Draft> {
    let storage = view.facts().host_storage.as_ref()?;
    let pools = storage.pools.as_ref()?;
    for pool in pools {
        if pool.disks.is_empty()
            && let (Some(device), Some(claim)) = (pool.missing.first(), given(view))
        {
            let draft = Draft::new(format!(
                "the host had imported `{}` when VM {} took its disks",
                pool.name, claim.vmid
            ))
            .proof(
                "host-storage",
                format!(
                    "zpool list: {} {}, and {device} is gone",
                    pool.name, pool.health
                ),
            )
            .proof("vm-configs", claim.quote())
            .fix(format!("qm shutdown {}", claim.vmid));
            return Some(without_imports(view, draft, pool).fix(format!(
                "# give the disks back, then: zpool clear {0}; zpool export {0}",
                pool.name
            )));
        }
        let disk = storage.disks.iter().find(|disk| {
            let claimed = disk
                .controller
                .is_some_and(|one| view.claim_on(one).is_some());
            claimed && pool.disks.contains(&disk.name) && !disk.is_vital()
        });
        let Some((disk, claim)) =
            disk.and_then(|disk| Some((disk, view.claim_on(disk.controller?)?)))
        else {
            continue;
        };
        let draft = Draft::new(format!(
            "the host has imported `{}`, whose disks are on the controller of VM {}",
            pool.name, claim.vmid
        ))
        .proof(
            "host-storage",
            format!(
                "zpool list: {} {} on {}",
                pool.name,
                pool.health,
                pool.disks.join(" ")
            ),
        )
        .proof("host-storage", uses(disk))
        .proof("vm-configs", claim.quote());
        return Some(
            without_imports(view, draft, pool)
                .fix(format!("zpool export {}", word(&pool.name)))
                .fix("# have the controller at vfio-pci from boot on, so that the host never sees its disks"),
        );
    }
    None
}

/// The model that QEMU gives its virtual disks.
const VIRTUAL: &str = "QEMU HARDDISK";

fn disks_not_controller(view: &View<'_>) -> Option<Draft> {
    let facts = view.facts();
    let disks = facts.nas_disks.iter().flat_map(|one| &one.disks);
    let virtual_disks: Vec<_> = disks
        .filter(|disk| !disk.holds_root && disk.model.as_deref() == Some(VIRTUAL))
        .collect();
    let raw: Vec<_> = facts
        .vm_configs
        .iter()
        .flat_map(|one| &one.vms)
        .flat_map(raw_disks)
        .collect();
    if virtual_disks.is_empty() && raw.is_empty() {
        return None;
    }
    let mut twins = None;
    for (index, one) in virtual_disks.iter().enumerate() {
        let same = |other: &&&crate::probe::disks::BlockDevice| {
            (&other.serial, &other.wwn) == (&one.serial, &one.wwn)
        };
        twins = twins.or(virtual_disks[index + 1..]
            .iter()
            .find(same)
            .map(|_| one.serial.clone()));
    }
    let queried = facts.disk_query.iter().flat_map(|one| &one.disks);
    let queried: Vec<_> = queried
        .filter(|disk| {
            disk.model.as_deref() == Some(VIRTUAL) && disk.pool.as_deref() != Some("boot-pool")
        })
        .filter(|disk| virtual_disks.iter().any(|one| one.name == disk.name))
        .collect();
    for (index, one) in queried.iter().enumerate() {
        let same = |other: &&&crate::probe::disk_query::QueriedDisk| {
            (&other.serial, &other.lunid) == (&one.serial, &one.lunid)
        };
        twins = twins.or(queried[index + 1..]
            .iter()
            .find(same)
            .map(|_| one.serial.clone()));
    }
    let cause = match raw.first() {
        Some(_) if virtual_disks.is_empty() => {
            "a VM has disks of the host one by one, without their controller, SMART and identity"
        }
        _ => {
            "the NAS has its data disks as virtual disks, without their controller, SMART and identity"
        }
    };
    let quote = |disk: &&crate::probe::disks::BlockDevice| {
        let serial = disk.serial.as_deref().unwrap_or("no serial");
        format!("{}: {VIRTUAL}, {serial}", disk.name)
    };
    Some(
        Draft::new(cause)
            .severity_if(twins.is_some(), Severity::Error)
            .proofs("nas-disks", virtual_disks.iter().map(quote))
            .proofs("nas-disks", twins.map(|serial| format!("two disks have {}", serial.unwrap_or("no serial".to_owned()))))
            .proofs("vm-configs", raw)
            .fix("# pass the controller through in place of the disks: hostpci0: 0000:BB:DD.F,pcie=1")
            .fix("# or, where that cannot be, give each line a serial= of its own"),
    )
}

/// Lines that hand a disk of the host to a VM which the VM does not boot from.
fn raw_disks(vm: &VmConfigFile) -> Vec<String> {
    let boot = vm
        .value("boot")
        .and_then(|value| value.strip_prefix("order="));
    let Some(boot) = boot else { return Vec::new() };
    let boots = |key: &str| boot.split([';', ',']).any(|one| one == key);
    ["scsi", "sata", "virtio", "ide"]
        .iter()
        .flat_map(|kind| vm.numbered(kind))
        .filter(|line| line.value.starts_with("/dev/") && !boots(&line.key))
        .map(|line| format!("{}.conf: {}: {}", vm.vmid, line.key, line.value))
        .collect()
}
