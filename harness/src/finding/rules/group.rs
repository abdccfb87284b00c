//! IOMMU groups: what is given away along with the controller, and how it is reset.

use super::references::{KERNEL_SYSFS_PCI, KERNEL_VFIO, PVE_PASSTHROUGH};
use crate::finding::model::{Draft, Rule, Severity};
use crate::finding::view::{View, describe, is_on_vfio};
use crate::scenario::DriverState;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "group-not-viable",
        severity: Severity::Error,
        summary: "a device of the controller's group keeps its driver, so VFIO refuses the whole group",
        explanation: "The IOMMU cannot tell the devices of a group apart. As long as the host drives one of them, a guest \
            must not have another.",
        reference: KERNEL_VFIO,
        derive: not_viable,
    },
    Rule {
        id: "group-takes-nic",
        severity: Severity::Error,
        summary: "a network card is in the controller's group, and the host loses it when the VM starts",
        explanation: "Every device of the group is unbound from its driver at the VM's start, also the card that the host \
            is reached by.",
        reference: PVE_PASSTHROUGH,
        derive: takes_nic,
    },
    Rule {
        id: "group-shared",
        severity: Severity::Note,
        summary: "other devices are in the controller's group and are taken from the host with it",
        explanation: "On a chipset's own SATA controller these are mostly the LPC bridge and the SMBus. The host does not \
            miss them, but it has to be able to do without.",
        reference: PVE_PASSTHROUGH,
        derive: shared,
    },
    Rule {
        id: "no-reset-method",
        severity: Severity::Note,
        summary: "the device cannot be reset, so the guest gets it in the state in which it was left",
        explanation: "The kernel logs that no reset mechanism is available. Controllers of disks mostly bear that; some do \
            not start a second time without a reboot of the host.",
        reference: KERNEL_SYSFS_PCI,
        derive: no_reset,
    },
];

fn not_viable(view: &View<'_>) -> Option<Draft> {
    let taken = view.taken_along();
    let held: Vec<_> = taken
        .iter()
        .filter(|(one, _)| one.driver != DriverState::None && !is_on_vfio(one))
        .collect();
    let said = view.said("is not viable");
    // Without its words only the line that tells qm to leave drivers alone proves anything: else qm will
    // bind the whole group when the VM starts.
    let kept = view.claims().iter().find(|claim| {
        let theirs = |with: &crate::lab::PciAddress| claim.devices.contains(with);
        claim.keeps_driver && held.iter().any(|(_, with)| theirs(with))
    });
    if said.is_none() && kept.is_none() {
        return None;
    }
    let cause = match held.first() {
        Some((one, with)) => format!(
            "{} is in the group of {with} and still held by {}",
            one.address,
            String::from(one.driver.clone())
        ),
        None => "the controller's group has a device that another driver holds".to_owned(),
    };
    let mut draft = Draft::new(cause)
        .proofs("run", said)
        .proofs("vm-configs", kept.map(|claim| claim.quote()))
        .proofs("pci", held.iter().map(|(one, _)| describe(one)));
    if kept.is_some() {
        draft = draft.fix("# take driver=keep out of the hostpci line, so that the whole group is bound to vfio-pci");
    }
    for (one, _) in &held {
        draft = draft.fix(format!(
            "echo {0} > /sys/bus/pci/devices/{0}/driver/unbind",
            one.address
        ));
    }
    Some(draft.fix("# or put the controller into a slot that has a group of its own"))
}

fn takes_nic(view: &View<'_>) -> Option<Draft> {
    let taken = view.taken_along();
    let (card, with) = taken.iter().find(|(one, _)| one.class.starts_with("02"))?;
    let interface = view
        .facts()
        .host_network
        .iter()
        .flat_map(|one| &one.interfaces);
    let interface = interface.filter(|one| one.device == Some(card.address));
    let interface: Vec<_> = interface.collect();
    let carries = interface.iter().any(|one| one.carries_address);
    let lost = is_on_vfio(card);
    let cause = match (lost, carries) {
        (true, _) => format!(
            "the network card {} went to the VM along with {with}",
            card.address
        ),
        (_, true) => format!(
            "the host's network card {} goes to the VM along with {with}",
            card.address
        ),
        _ => format!(
            "the network card {} is in the group of {with}",
            card.address
        ),
    };
    let quote = |one: &&crate::probe::host_network::Interface| {
        let address = match (one.carries_address, one.is_in_open_vswitch()) {
            (_, true) => "is a port of Open vSwitch, which may carry the host's address",
            (true, _) => "carries an address",
            _ => "carries no address",
        };
        format!("{} is {}, {address}", one.name, card.address)
    };
    Some(
        Draft::new(cause)
            .severity_if(!lost && !carries, Severity::Warning)
            .proof("pci", describe(card))
            .proof(
                "iommu",
                format!("{} and {with} are in one group", card.address),
            )
            .proofs("host-network", interface.iter().map(quote))
            .fix(
                "# put the controller or the card into another slot, or give the host another card",
            ),
    )
}

fn shared(view: &View<'_>) -> Option<Draft> {
    let taken = view.taken_along();
    let (_, with) = taken.first()?;
    let names: Vec<String> = taken
        .iter()
        .map(|(one, _)| one.address.to_string())
        .collect();
    Some(
        Draft::new(format!(
            "{} go to the VM along with {with}, for they are in its group",
            names.join(", ")
        ))
        .proofs("pci", taken.iter().map(|(one, _)| describe(one)))
        .fix("# nothing, unless the host needs one of them"),
    )
}

/// The kernel tells reset methods since this version; before it, none in sight proves nothing.
const TELLS_RESET_METHODS: (u32, u32) = (5, 15);

fn release(kernel: &str) -> Option<(u32, u32)> {
    let mut parts = kernel.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn no_reset(view: &View<'_>) -> Option<Draft> {
    let kernel = &view.facts().platform.as_ref()?.kernel;
    if release(kernel)? < TELLS_RESET_METHODS {
        return None;
    }
    let devices = view
        .claimed()
        .into_iter()
        .filter(|one| one.reset_methods.is_empty());
    let devices: Vec<_> = devices.collect();
    let first = devices.first()?;
    Some(
        Draft::new(format!("{} has no way to be reset", first.address))
            .proofs(
                "pci",
                devices
                    .iter()
                    .map(|one| format!("{}: no reset_method", one.address)),
            )
            .fix("# nothing; if the VM does not find its disks at a second start, reboot the host"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_numbers() {
        for (kernel, is) in [
            ("6.12.43+deb13-amd64", Some((6, 12))),
            ("5.4.203-1-pve", Some((5, 4))),
            ("6.14-pve", Some((6, 14))),
            ("linux", None),
        ] {
            assert_eq!(release(kernel), is, "{kernel}");
        }
    }
}
