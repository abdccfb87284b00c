//! The fixed PCI slots of Proxmox's machines (qemu-server, PCI.pm, `get_pci_addr_map` and `get_pcie_addr_map`).

use std::collections::BTreeSet;

/// The conventional buses that something sits on; each needs its bridge.
pub type PciAddresses = BTreeSet<u32>;

/// `,bus=pci.0,addr=0x10` for the id of a device; notes the bus in `used`.
pub fn pci_address(id: &str, used: &mut PciAddresses) -> String {
    match slot(id) {
        Some((bus, slot)) => {
            used.insert(bus);
            format!(",bus=pci.{bus},addr={slot:#x}")
        }
        None => String::new(),
    }
}

fn slot(id: &str) -> Option<(u32, u32)> {
    let at = id.find(|letter: char| letter.is_ascii_digit())?;
    let numbered = |stem: &str| {
        id.strip_prefix(stem)
            .and_then(|number| number.parse::<u32>().ok())
    };
    Some(match (&id[..at], numbered(&id[..at])) {
        ("balloon", Some(0)) => (0, 3),
        ("scsihw", Some(number @ 0..=1)) => (0, 5 + number),
        ("scsihw", Some(number @ 2..=4)) => (4, number - 1),
        ("ahci", Some(0)) => (0, 7),
        ("qga", Some(0)) => (0, 8),
        ("virtio", Some(number @ 0..=5)) => (0, 10 + number),
        ("virtio", Some(number @ 6..=15)) => (2, number - 5),
        ("hostpci", Some(number @ 0..=1)) => (0, 16 + number),
        ("hostpci", Some(number @ 2..=3)) => (0, 25 + number),
        ("hostpci", Some(number @ 4..=15)) => (2, 9 + number),
        ("net", Some(number @ 0..=5)) => (0, 18 + number),
        ("net", Some(number @ 6..=31)) => (1, number - 5),
        ("virtioscsi", Some(number @ 0..=30)) => (3, 1 + number),
        ("pci.", Some(1)) => (0, 30),
        ("pci.", Some(2)) => (0, 31),
        ("pci.", Some(3)) => (0, 5),
        ("pci.", Some(4)) => (1, 28),
        _ => return None,
    })
}

/// `,bus=ich9-pcie-port-1,addr=0x0` for `hostpci0` behind its root port.
pub fn pcie_address(index: u32) -> String {
    format!(",bus=ich9-pcie-port-{},addr=0x0", index + 1)
}

/// The root port that `hostpci4` and higher need; the first four stand in the machine.
pub fn root_port(index: u32) -> Option<String> {
    let address = match index {
        4..=11 => format!("10.{}", index - 4),
        12..=15 => format!("11.{}", index - 12),
        _ => return None,
    };
    let id = index + 1;
    Some(format!(
        "pcie-root-port,id=ich9-pcie-port-{id},addr={address},x-speed=16,x-width=32,multifunction=on,bus=pcie.0,\
         port={id},chassis={id}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_proxmoxs() {
        let mut used = PciAddresses::new();
        for (id, expected) in [
            ("hostpci0", ",bus=pci.0,addr=0x10"),
            ("hostpci1", ",bus=pci.0,addr=0x11"),
            ("hostpci2", ",bus=pci.0,addr=0x1b"),
            ("hostpci3", ",bus=pci.0,addr=0x1c"),
            ("hostpci4", ",bus=pci.2,addr=0xd"),
            ("hostpci15", ",bus=pci.2,addr=0x18"),
            ("net0", ",bus=pci.0,addr=0x12"),
            ("net6", ",bus=pci.1,addr=0x1"),
            ("virtio0", ",bus=pci.0,addr=0xa"),
            ("virtio6", ",bus=pci.2,addr=0x1"),
            ("virtioscsi0", ",bus=pci.3,addr=0x1"),
            ("scsihw2", ",bus=pci.4,addr=0x1"),
            ("ahci0", ",bus=pci.0,addr=0x7"),
            ("elsewhere", ""),
        ] {
            assert_eq!(pci_address(id, &mut used), expected, "{id}");
        }
        assert_eq!(used, PciAddresses::from([0, 1, 2, 3, 4]));
        assert_eq!(pcie_address(0), ",bus=ich9-pcie-port-1,addr=0x0");
        assert_eq!(root_port(3), None);
        assert!(
            root_port(15)
                .unwrap()
                .starts_with("pcie-root-port,id=ich9-pcie-port-16,addr=11.3,")
        );
    }
}
