//! Where the device of a `hostpci` line is: nowhere, elsewhere, or not as its mapping says.

use crate::finding::model::{Draft, word};
use crate::finding::view::{Claim, View, describe};
use crate::lab::PciAddress;
use crate::probe::kernel_log::PciIdentity;
use crate::probe::pci::PciDevice;
use crate::probe::vm_configs::{self, MappedDevice};

/// A path of a claim at which there is no device.
fn empty_path<'c>(view: &View<'_>, claim: &'c Claim<'_>) -> Option<&'c String> {
    let devices = &view.facts().pci.as_ref()?.devices;
    claim.paths.iter().find(|path| {
        !devices
            .iter()
            .any(|one| vm_configs::names(path, one.address))
    })
}

pub(super) fn no_such_address(view: &View<'_>) -> Option<Draft> {
    if renumbered(view).is_some() {
        return None;
    }
    nothing_there(view).or_else(|| no_such_mapping(view))
}

fn nothing_there(view: &View<'_>) -> Option<Draft> {
    let (claim, path) = view
        .claims()
        .iter()
        .find_map(|claim| Some((claim, empty_path(view, claim)?)))?;
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
        .fix(with_paths(claim, |one| {
            let place = if one.contains('.') {
                "0000:BB:DD.F"
            } else {
                "0000:BB:DD"
            };
            (one == path).then(|| place.to_owned())
        })),
    )
}

/// The command that gives a line other paths, the rest of it as it is; `other` says which path takes the
/// place of one. The paths of a mapping are not in the line.
fn with_paths(claim: &Claim<'_>, other: impl Fn(&str) -> Option<String>) -> String {
    if let Some(name) = &claim.mapping {
        return map_anew(name);
    }
    let part = |part: &str| {
        let (key, list) = match part.split_once('=') {
            Some(("host", list)) => ("host=", list),
            Some(_) => return part.to_owned(),
            None => ("", part),
        };
        let paths = list.split(';');
        let paths: Vec<String> = paths
            .map(|path| other(path).unwrap_or_else(|| path.to_owned()))
            .collect();
        format!("{key}{}", paths.join(";"))
    };
    let parts: Vec<String> = claim.value.split(',').map(part).collect();
    let value = parts.join(",");
    format!("qm set {} --{} {}", claim.vmid, claim.key, word(&value))
}

fn map_anew(name: &str) -> String {
    format!("# make the mapping `{name}` anew under Datacenter, Resource Mappings")
}

/// A mapping's name that Proxmox finds nothing under.
fn no_such_mapping(view: &View<'_>) -> Option<Draft> {
    for claim in view.claims() {
        let Some(name) = &claim.mapping else { continue };
        let draft = match view.mapping(name) {
            None => Draft::new(format!(
                "VM {} wants the mapping `{name}`, and there is none of that name",
                claim.vmid
            ))
            .proof("vm-configs", claim.quote())
            .proof("vm-configs", format!("pci.cfg: no {name}")),
            Some(mapping) => {
                let Some(own) = view.own_node() else { continue };
                if mapping.devices.iter().any(|one| view.is_here(one)) {
                    continue;
                }
                Draft::new(format!(
                    "VM {} wants the mapping `{name}`, which has no entry for this node, {own}",
                    claim.vmid
                ))
                .proof("vm-configs", claim.quote())
                .proof(
                    "vm-configs",
                    format!("pci.cfg: {name}, and no map of node={own}"),
                )
            }
        };
        return Some(
            draft
                .proofs("run", view.said("PCI device mapping not found"))
                .fix(format!(
                    "# give the mapping `{name}` this node's device under Datacenter, Resource Mappings"
                )),
        );
    }
    None
}

fn ids(device: &PciIdentity) -> String {
    format!("{}:{}", device.vendor, device.device)
}

pub(super) fn renumbered(view: &View<'_>) -> Option<Draft> {
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
        found.is_some_and(|one| one.id() == id)
    };
    // What was at this path before, and the device that it is now, if that is at another one.
    let new_place = |path: &str| {
        let named = earlier
            .iter()
            .filter(|one| vm_configs::names(path, one.address));
        named
            .filter(|before| !is(before.address, &ids(before)))
            .find_map(|before| {
                let id = ids(before);
                let new = now.iter().find(|one| {
                    let there_before = earlier
                        .iter()
                        .any(|old| old.address == one.address && ids(old) == id);
                    is(one.address, &id) && !there_before
                });
                Some((before, new?))
            })
    };
    for claim in view.claims() {
        let found = claim.paths.iter().find_map(|path| new_place(path));
        let Some((before, new)) = found else { continue };
        let at = now.iter().find(|one| one.address == before.address);
        let at = at.map_or("nothing".to_owned(), describe);
        let draft = Draft::new(format!(
            "the device of VM {} was at {} and is now at {}",
            claim.vmid, before.address, new.address
        ))
        .proof("vm-configs", claim.quote())
        .proof(
            source,
            format!(
                "before: {} [{}] class {}",
                before.address,
                ids(before),
                before.class
            ),
        )
        .proof("pci", format!("now there: {at}"))
        .proof("pci", format!("now: {}", describe(new)))
        .fix(with_paths(claim, |path| {
            new_place(path).map(|(_, new)| in_form_of(path, new.address))
        }));
        return Some(match claim.mapping {
            Some(_) => draft,
            None => draft
                .fix("# a resource mapping would have refused to start the VM with another device"),
        });
    }
    None
}

/// An address as a path was written: with domain and function, or without.
fn in_form_of(path: &str, address: PciAddress) -> String {
    let mut text = address.to_string();
    if !path.contains('.') {
        text.truncate(text.rfind('.').unwrap_or(text.len()));
    }
    match text.strip_prefix("0000:") {
        Some(short) if path.matches(':').count() < 2 => short.to_owned(),
        _ => text,
    }
}

/// The devices that a mapping describes, each with its place in the list: of a path without a function the
/// function 0. Proxmox looks at no other function.
fn identified<'a>(view: &View<'a>, list: &str) -> impl Iterator<Item = (usize, &'a PciDevice)> {
    let pci = view.facts().pci.as_ref();
    list.split(';')
        .enumerate()
        .filter_map(move |(index, path)| {
            let mut devices = pci?.devices.iter();
            let found = devices.find(|one| {
                let function = path.contains('.') || one.address.function == 0;
                function && vm_configs::names(path, one.address)
            });
            Some((index, found?))
        })
}

/// Where a device is not what a mapping says of it, in the order in which Proxmox looks: what is wrong, and
/// the fact that shows it.
fn difference(
    mapping: &str,
    mapped: &MappedDevice,
    index: usize,
    found: &PciDevice,
) -> Option<(String, String)> {
    let at = found.address;
    let same = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
    if let Some(id) = mapped.id.as_ref().filter(|id| !same(id, &found.id())) {
        return Some((
            format!("the mapping `{mapping}` means a [{id}] at {at}, and another device is there"),
            describe(found),
        ));
    }
    let hardware = mapped.hardware.as_ref()?;
    // The group counts for the first of a list only.
    let group = found.iommu_group.filter(|_| index == 0);
    let group = group.map(|group| ("IOMMU group", group.to_string(), &hardware.iommu_group));
    let subsystem = format!("{}:{}", found.subsystem_vendor, found.subsystem_device);
    let subsystem = ("subsystem id", subsystem, &hardware.subsystem_id);
    let mut all = group.into_iter().chain([subsystem]);
    let (what, is, said) =
        all.find(|(_, is, said)| said.as_ref().is_none_or(|said| !same(said, is)))?;
    let cause = match said {
        Some(said) => {
            format!("the mapping `{mapping}` says {what} {said} of {at}, which has {is}")
        }
        None => format!("the mapping `{mapping}` does not say the {what} of {at}, which it has to"),
    };
    Some((cause, format!("{at} has {what} {is}")))
}

/// A mapping says what the device was when it was made.
fn mapping_differs(view: &View<'_>) -> Option<Draft> {
    for claim in view.claims() {
        let mapping = claim.mapping.as_deref().and_then(|name| view.mapping(name));
        let Some(mapping) = mapping else { continue };
        for device in mapping.devices.iter().filter(|one| view.is_here(one)) {
            let found = identified(view, &device.path)
                .find_map(|(index, found)| difference(&mapping.name, device, index, found));
            let Some((cause, quote)) = found else {
                continue;
            };
            return Some(
                Draft::new(cause)
                    .proof("vm-configs", claim.quote())
                    .proof(
                        "vm-configs",
                        format!("pci.cfg: {}: {}", mapping.name, map_line(device)),
                    )
                    .proof("pci", quote)
                    .proofs("run", view.said("PCI device mapping invalid"))
                    .fix("lspci -nn")
                    .fix(map_anew(&mapping.name)),
            );
        }
    }
    None
}

/// A device of a mapping as its file has it.
fn map_line(device: &MappedDevice) -> String {
    let hardware = device.hardware.as_ref();
    let properties = [
        ("id", device.id.as_ref()),
        (
            "iommugroup",
            hardware.and_then(|one| one.iommu_group.as_ref()),
        ),
        ("path", Some(&device.path)),
        (
            "subsystem-id",
            hardware.and_then(|one| one.subsystem_id.as_ref()),
        ),
    ];
    let there = properties
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", value?)));
    there.collect::<Vec<_>>().join(",")
}
