//! The machine itself: type, firmware, display, and the bridges and root ports that stand in it (qemu-server:
//! Machine.pm, OVMF.pm, pve-q35-4.0.cfg).

use super::{CommandError, Facts, Parts, value_error};
use crate::{
    config::{MACHINE, Properties, Section, VGA, parse_properties},
    pci::{HostPci, pci_address},
};

/// Whether a configuration asks for a q35.
pub fn is_q35(config: &Section) -> bool {
    properties(config)
        .is_ok_and(|machine| machine.get("type").is_some_and(|name| name.contains("q35")))
}

fn properties(config: &Section) -> Result<Properties, CommandError> {
    match config.get("machine") {
        Some(value) => parse_properties(&MACHINE, value).map_err(value_error("machine")),
        None => Ok(Properties::new()),
    }
}

/// The kind of display: `std` unless told otherwise, `none` beside a passed-through card.
pub fn vga(config: &Section, hostpci: &[HostPci]) -> Result<String, CommandError> {
    let kind = match config.get("vga") {
        Some(value) => parse_properties(&VGA, value)
            .map_err(value_error("vga"))?
            .remove("type"),
        None if hostpci.iter().any(|device| device.x_vga) => Some("none".to_owned()),
        None => None,
    };
    Ok(kind.unwrap_or_else(|| "std".to_owned()))
}

fn wants_tablet(config: &Section, vga: &str) -> bool {
    config
        .is("tablet")
        .unwrap_or(!vga.starts_with("serial") && !vga.starts_with("qxl"))
}

/// OVMF, where it is asked for.
pub fn firmware(config: &Section, facts: &Facts, parts: &mut Parts) -> Result<(), CommandError> {
    if config.get("bios") != Some("ovmf") {
        return Ok(());
    }
    let (code, variables) = facts.ovmf.as_ref().ok_or(CommandError::NoOvmf)?;
    for (node, path, read_only) in [
        ("pflash0", code, true),
        ("drive-efidisk0", variables, false),
    ] {
        let file = serde_json::json!({
            "driver": "raw",
            "node-name": node,
            "read-only": read_only,
            "file": {"driver": "file", "filename": path},
        });
        parts.option("-blockdev", file.to_string());
    }
    parts.machine.extend([
        "pflash0=pflash0".to_owned(),
        "pflash1=drive-efidisk0".to_owned(),
    ]);
    Ok(())
}

/// What stands in a machine from the start. A q35 has four root ports and, behind a bridge, the conventional buses
/// `pci.0` to `pci.3`.
pub fn layout(config: &Section, q35: bool, vga: &str, parts: &mut Parts) {
    let chip = if q35 { "ICH9-LPC" } else { "PIIX4_PM" };
    for state in ["disable_s3", "disable_s4"] {
        let enabled = properties(config).is_ok_and(|machine| {
            machine
                .get(&state.replace("disable_", "enable-"))
                .is_some_and(|flag| flag == "1")
        });
        if !enabled {
            parts.option("-global", format!("{chip}.{state}=1"));
        }
    }
    if !q35 {
        return;
    }
    if wants_tablet(config, vga) {
        parts.device("ich9-usb-ehci1,id=ehci,multifunction=on,bus=pcie.0,addr=1d.7");
        for (number, port) in [(1, 0), (2, 2), (3, 4)] {
            parts.device(format!(
                "ich9-usb-uhci{number},id=uhci-{number},multifunction=on,bus=pcie.0,addr=1d.{},masterbus=ehci.0,\
                 firstport={port}",
                number - 1
            ));
        }
    }
    for port in 1..=4 {
        parts.device(format!(
            "pcie-root-port,id=ich9-pcie-port-{port},x-speed=16,x-width=32,multifunction=on,bus=pcie.0,addr=1c.{},\
             port={port},chassis={port}",
            port - 1
        ));
    }
    parts.device("i82801b11-bridge,id=pcidmi,bus=pcie.0,addr=1e.0");
    for bus in 0..=3 {
        let number = bus + 1;
        parts.device(format!(
            "pci-bridge,id=pci.{bus},bus=pcidmi,addr={number}.0,chassis_nr={number}"
        ));
    }
}

/// The pointing device.
pub fn tablet(config: &Section, q35: bool, vga: &str, parts: &mut Parts) {
    if !wants_tablet(config, vga) {
        return;
    }
    if q35 {
        parts.device("usb-tablet,id=tablet,bus=ehci.0,port=1");
    } else {
        parts.device("piix3-usb-uhci,id=uhci,bus=pci.0,addr=0x1.0x2");
        parts.device("usb-tablet,id=tablet,bus=uhci.0,port=1");
    }
}

/// The display card. Nothing shows it: there is no VNC here.
pub fn display(q35: bool, vga: &str, parts: &mut Parts) {
    let card = match vga {
        "std" => Some("VGA"),
        "cirrus" => Some("cirrus-vga"),
        "vmware" => Some("vmware-svga"),
        "virtio" | "virtio-gl" => Some("virtio-vga"),
        kind if kind.starts_with("qxl") => Some("qxl-vga"),
        _ => None,
    };
    if let Some(card) = card {
        let address = if q35 {
            ",bus=pcie.0,addr=0x1"
        } else {
            ",bus=pci.0,addr=0x2"
        };
        parts.device(format!("{card},id=vga{address}"));
    }
    parts.option("-display", "none");
}

/// The bridges that devices on higher buses need, placed before everything on them.
pub fn bridges(config: &Section, q35: bool, parts: &mut Parts) {
    if parts.buses.contains(&4) {
        parts.buses.insert(1);
    }
    if !q35 {
        parts.buses.extend([1, 2]);
        if config.get("scsihw") == Some("virtio-scsi-single") {
            parts.buses.insert(3);
        }
    }
    let mut unused = Default::default();
    let needed: Vec<u32> = parts
        .buses
        .iter()
        .copied()
        .filter(|bus| *bus > if q35 { 3 } else { 0 })
        .collect();
    let mut front = Vec::new();
    for bus in needed {
        let address = pci_address(&format!("pci.{bus}"), &mut unused);
        front.extend([
            "-device".to_owned(),
            format!("pci-bridge,id=pci.{bus},chassis_nr={bus}{address}"),
        ]);
    }
    // On a q35, bus 4 hangs below pci.1, which stands in the machine's own layout.
    let at = if q35 {
        parts
            .devices
            .iter()
            .position(|text| text.starts_with("pci-bridge,id=pci.3,"))
            .map_or(0, |place| place + 1)
    } else {
        0
    };
    parts.devices.splice(at..at, front);
}

/// The flags of `-machine`.
pub fn flags(
    config: &Section,
    kvm: bool,
    q35: bool,
    vga: &str,
    parts: &mut Parts,
) -> Result<(), CommandError> {
    if config.get("ostype") == Some("l26") {
        parts.machine.push("hpet=off".to_owned());
    }
    parts
        .machine
        .push(format!("accel={}", if kvm { "kvm" } else { "tcg" }));
    // SeaBIOS on a serial console wants it so.
    if config.get("bios").unwrap_or("seabios") == "seabios"
        && (vga.starts_with("serial") || vga == "none")
    {
        parts.machine.push("smm=off".to_owned());
    }
    let machine = properties(config)?;
    let name = machine.get("type").map_or("pc", String::as_str);
    parts.machine.push(format!(
        "type={}",
        name.split("+pve").next().unwrap_or(name)
    ));
    match machine.get("viommu").map(String::as_str) {
        Some("intel") if q35 => {
            let width = machine
                .get("aw-bits")
                .map(|bits| format!(",aw-bits={bits}"))
                .unwrap_or_default();
            let device = format!("intel-iommu,intremap=on,caching-mode=on{width}");
            parts.devices.splice(0..0, ["-device".to_owned(), device]);
            parts.machine.push("kernel-irqchip=split".to_owned());
        }
        Some("virtio") => parts.device("virtio-iommu-pci"),
        _ => {}
    }
    Ok(())
}
