//! QEMU's command line, as a pure function of a configuration and of facts about the host (qemu-server, QemuServer.pm,
//! `config_to_command`).
//!
//! It is Proxmox's, with these differences, all because upstream's QEMU is run and no qmeventd or VNC proxy is there:
//! plain machine types instead of `+pve`, no `-id`, no VNC (`-display none`), no `-no-shutdown`, no event socket, no boot splash,
//! no USB controllers unless the tablet needs one, no sound chip, image files without a throttle node, and network cards
//! that are plugged into nothing.

mod boot;
mod cpu;
mod drive;
mod machine;
mod net;

use std::collections::BTreeSet;

use crate::{
    config::{FormatError, Section, parse_properties},
    host::Host,
    pci::{HostPci, PciAddresses, pci_address, pcie_address, root_port},
    text::{base64_decode, percent_decode, split_words},
};

pub use drive::{Drive, drives, image_path};
pub use machine::is_q35;

/// What must be known of the host beside the configuration.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// CPUs of the host.
    pub cpus: u64,
    /// `svm` or `vmx`, where the host's CPU has it.
    pub virtualization: Option<&'static str>,
    /// Which of the paths in the configuration are block devices.
    pub block_devices: BTreeSet<String>,
    /// Which of the paths in the configuration are character devices.
    pub character_devices: BTreeSet<String>,
    /// OVMF's code and this VM's copy of its variables.
    pub ovmf: Option<(String, String)>,
    /// The bridges of the host.
    pub bridges: BTreeSet<String>,
    /// The passed-through devices, chosen.
    pub hostpci: Vec<HostPci>,
}

/// Why there is no command line.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The host is too small.
    #[error("MAX {0} vcpus allowed per VM on this node")]
    TooManyCpus(u64),
    /// `serialN` names no character device.
    #[error("no such serial device")]
    NoSerial,
    /// The firmware's files are not there.
    #[error("EFI base image '/usr/share/OVMF/OVMF_CODE_4M.fd' not found")]
    NoOvmf,
    /// Another architecture.
    #[error("don't know how to emulate architecture '{0}'")]
    Architecture(String),
    /// The network's bridge is not there.
    #[error("bridge '{0}' does not exist")]
    NoBridge(String),
    /// A volume on a storage that is not here.
    #[error("storage '{0}' does not exist")]
    NoStorage(String),
    /// A value does not parse.
    #[error("{0}: {1}")]
    Value(String, FormatError),
}

fn value_error(key: &str) -> impl FnOnce(FormatError) -> CommandError {
    let key = key.to_owned();
    move |error| CommandError::Value(key, error)
}

/// The parts of a command line while it grows.
#[derive(Default)]
struct Parts {
    options: Vec<String>,
    devices: Vec<String>,
    machine: Vec<String>,
    buses: PciAddresses,
}

impl Parts {
    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.options.extend([name.to_owned(), value.into()]);
    }

    fn device(&mut self, value: impl Into<String>) {
        self.devices.extend(["-device".to_owned(), value.into()]);
    }

    fn chardev(&mut self, value: impl Into<String>) {
        self.devices.extend(["-chardev".to_owned(), value.into()]);
    }

    fn address(&mut self, id: &str) -> String {
        pci_address(id, &mut self.buses)
    }
}

/// The command that runs a VM.
pub fn command(
    host: &Host,
    vmid: u32,
    config: &Section,
    facts: &Facts,
) -> Result<Vec<String>, CommandError> {
    if let Some(other) = config.get("arch").filter(|arch| *arch != "x86_64") {
        return Err(CommandError::Architecture(other.to_owned()));
    }
    let socket = |extension: &str| host.run_file(vmid, extension).display().to_string();
    let kvm = config.is("kvm").unwrap_or(true);
    let q35 = is_q35(config);
    let vga = machine::vga(config, &facts.hostpci)?;
    let order = boot::order(config)?;
    let mut parts = Parts::default();

    parts.option("-name", format!("{},debug-threads=on", name(vmid, config)));
    parts.option(
        "-chardev",
        format!("socket,id=qmp,path={},server=on,wait=off", socket("qmp")),
    );
    parts.option("-mon", "chardev=qmp,mode=control");
    parts.option("-pidfile", socket("pid"));
    parts.options.push("-daemonize".to_owned());
    if let Some(smbios) = config.get("smbios1") {
        parts.option("-smbios", format!("type=1{}", smbios_fields(smbios)?));
    }
    machine::firmware(config, facts, &mut parts)?;
    machine::layout(config, q35, &vga, &mut parts);
    if let Some(id) = config.get("vmgenid").filter(|id| *id != "0") {
        parts.device(format!("vmgenid,guid={id}"));
    }
    machine::tablet(config, q35, &vga, &mut parts);
    let hidden = passed_through(config, facts, &order, &mut parts);
    serial_ports(config, facts, &socket, &mut parts)?;
    processors(config, facts, &mut parts)?;
    parts.options.push("-nodefaults".to_owned());
    parts.option(
        "-boot",
        "menu=on,strict=on,reboot-timeout=1000,splash-time=0",
    );
    if config.is("acpi") == Some(false) {
        parts.machine.push("acpi=off".to_owned());
    }
    if config.is("reboot") == Some(false) {
        parts.options.push("-no-reboot".to_owned());
    }
    machine::display(q35, &vga, &mut parts);
    parts.option("-cpu", cpu::model(config, kvm, hidden, facts)?);
    parts.option("-m", memory(config)?.to_string());
    if config.is("freeze") == Some(true) {
        parts.options.push("-S".to_owned());
    }
    agent(config, &socket, &mut parts)?;
    if config.number("balloon") != Some(0) {
        let address = parts.address("balloon0");
        parts.device(format!(
            "virtio-balloon-pci,id=balloon0{address},free-page-reporting=on"
        ));
    }
    drive::add(config, facts, &order, q35, &mut parts)?;
    net::add(config, facts, &order, &mut parts)?;
    machine::bridges(config, q35, &mut parts);
    machine::flags(config, kvm, q35, &vga, &mut parts)?;

    let mut command = vec![host.qemu.display().to_string()];
    command.append(&mut parts.options);
    command.append(&mut parts.devices);
    command.extend(["-machine".to_owned(), parts.machine.join(",")]);
    command.extend(config.get("args").map(split_words).unwrap_or_default());
    Ok(command)
}

/// The memory of a VM in MiB.
pub fn memory(config: &Section) -> Result<u64, CommandError> {
    let Some(value) = config.get("memory") else {
        return Ok(512);
    };
    let found = parse_properties(&crate::config::MEMORY, value).map_err(value_error("memory"))?;
    Ok(found
        .get("current")
        .and_then(|value| value.parse().ok())
        .unwrap_or(512))
}

/// The name that QEMU shows for a VM.
pub fn name(vmid: u32, config: &Section) -> String {
    config
        .get("name")
        .map_or_else(|| format!("vm{vmid}"), str::to_owned)
}

/// A value inside a QEMU option, where a comma is written twice.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

fn smbios_fields(value: &str) -> Result<String, CommandError> {
    let mut fields =
        parse_properties(&crate::config::SMBIOS1, value).map_err(value_error("smbios1"))?;
    let coded = fields.remove("base64").is_some_and(|flag| flag == "1");
    let field = |(key, value): (&String, &String)| {
        let plain = if coded && key != "uuid" {
            String::from_utf8_lossy(&base64_decode(value)).into_owned()
        } else {
            value.clone()
        };
        format!(",{key}={}", escape(&plain))
    };
    Ok(fields.iter().map(field).collect())
}

/// Adds the passed-through devices; says whether KVM is to be hidden from the guest.
fn passed_through(config: &Section, facts: &Facts, order: &boot::Order, parts: &mut Parts) -> bool {
    let mut hidden = false;
    for hostpci in &facts.hostpci {
        let id = hostpci.id();
        let address = if hostpci.pcie {
            if let Some(port) = root_port(hostpci.index) {
                parts.device(port);
            }
            pcie_address(hostpci.index)
        } else if hostpci.legacy_igd {
            parts.buses.insert(0);
            ",bus=pci.0,addr=0x2".to_owned()
        } else {
            parts.address(&id)
        };
        hidden |= hostpci.x_vga;
        let multifunction = hostpci.devices().len() > 1 && hostpci.mdev.is_none();
        for (function, device) in hostpci.devices().iter().enumerate() {
            let suffix = if multifunction {
                format!(".{function}")
            } else {
                String::new()
            };
            let mut text = format!("vfio-pci,host={}", device.id);
            if hostpci.live_migration {
                text.push_str(",enable-migration=on");
            }
            text.push_str(&format!(",id={id}{suffix}{address}{suffix}"));
            if function == 0 {
                first_function(config, hostpci, multifunction, order, &mut text);
            }
            parts.device(text);
        }
    }
    hidden
}

fn first_function(
    config: &Section,
    hostpci: &HostPci,
    multifunction: bool,
    order: &boot::Order,
    text: &mut String,
) {
    if hostpci.rombar == Some(false) {
        text.push_str(",rombar=0");
    }
    if hostpci.x_vga && config.get("bios") != Some("ovmf") {
        text.push_str(",x-vga=on");
    }
    if multifunction {
        text.push_str(",multifunction=on");
    }
    if let Some(romfile) = &hostpci.romfile {
        text.push_str(&format!(",romfile=/usr/share/kvm/{romfile}"));
    }
    if let Some(index) = order.get(&hostpci.id()) {
        text.push_str(&format!(",bootindex={index}"));
    }
    for (name, value) in &hostpci.overrides {
        text.push_str(&format!(",x-pci-{name}={value}"));
    }
}

fn serial_ports(
    config: &Section,
    facts: &Facts,
    socket: &dyn Fn(&str) -> String,
    parts: &mut Parts,
) -> Result<(), CommandError> {
    for index in 0..4 {
        let id = format!("serial{index}");
        match config.get(&id) {
            None => continue,
            Some("socket") => parts.chardev(format!(
                "socket,id={id},path={},server=on,wait=off",
                socket(&id)
            )),
            Some(path) if facts.character_devices.contains(path) => {
                parts.chardev(format!("serial,id={id},path={path}"));
            }
            Some(_) => return Err(CommandError::NoSerial),
        }
        parts.device(format!("isa-serial,chardev={id}"));
    }
    Ok(())
}

fn processors(config: &Section, facts: &Facts, parts: &mut Parts) -> Result<(), CommandError> {
    let at_least_one = |name: &str| config.number(name).filter(|number| *number > 0);
    let sockets = at_least_one("sockets").or(at_least_one("smp")).unwrap_or(1);
    let cores = at_least_one("cores").unwrap_or(1);
    let most = sockets * cores;
    if most > facts.cpus {
        return Err(CommandError::TooManyCpus(facts.cpus));
    }
    let vcpus = at_least_one("vcpus").unwrap_or(most);
    parts.option(
        "-smp",
        format!("{vcpus},sockets={sockets},cores={cores},maxcpus={most}"),
    );
    Ok(())
}

/// Whether a configuration has the guest agent, and on which kind of port.
pub fn agent_type(config: &Section) -> Result<Option<String>, CommandError> {
    let Some(value) = config.get("agent") else {
        return Ok(None);
    };
    let found = parse_properties(&crate::config::AGENT, value).map_err(value_error("agent"))?;
    let enabled = found.get("enabled").is_some_and(|flag| flag == "1");
    Ok(enabled.then(|| {
        found
            .get("type")
            .cloned()
            .unwrap_or_else(|| "virtio".to_owned())
    }))
}

fn agent(
    config: &Section,
    socket: &dyn Fn(&str) -> String,
    parts: &mut Parts,
) -> Result<(), CommandError> {
    let Some(kind) = agent_type(config)? else {
        return Ok(());
    };
    parts.chardev(format!(
        "socket,path={},server=on,wait=off,id=qga0",
        socket("qga")
    ));
    if kind == "isa" {
        parts.device("isa-serial,chardev=qga0");
    } else {
        let address = parts.address("qga0");
        parts.device(format!("virtio-serial,id=qga0{address}"));
        parts.device("virtserialport,chardev=qga0,name=org.qemu.guest_agent.0");
    }
    Ok(())
}

/// The serial number or model of a drive, as the guest is to see it.
fn decoded(value: &str) -> String {
    escape(&percent_decode(value))
}

#[cfg(test)]
mod tests;
