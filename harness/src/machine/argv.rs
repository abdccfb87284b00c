//! The only module that knows QEMU's command line: a pure function of what the machine is
//! ([`Lab`]) and where it runs ([`Placement`]).

mod hardware;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::disks::DiskChain;
use super::doors::{self, DOORS};
use crate::accel::Accelerator;
use crate::lab::{ControllerModel, Firmware, Lab, PciAddress, Pluggable};

/// Where and how a machine runs: nothing in here changes what a guest sees of its hardware but
/// the accelerator and its CPU model.
#[derive(Debug, Clone)]
pub struct Placement {
    /// KVM or QEMU's own emulation.
    pub accelerator: Accelerator,
    /// QEMU's name of the CPU model.
    pub cpu: String,
    /// Folders where QEMU finds its firmware and option ROMs.
    pub data_dirs: Vec<PathBuf>,
    /// Folder of the sockets: private, with a short path.
    pub sockets: PathBuf,
    /// The file that keeps everything the host writes to its serial console.
    pub console_log: PathBuf,
    /// The files behind the disks, in the order of [`disk_nodes`].
    pub disks: Vec<DiskChain>,
    /// Whether the machine waits for a state to go on from in place of starting anew.
    pub incoming: bool,
}

impl Placement {
    /// QMP's socket.
    pub fn qmp_socket(&self) -> PathBuf {
        self.sockets.join("qmp")
    }

    /// The guest agent's socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.sockets.join("agent")
    }

    /// A door's socket.
    pub fn door_socket(&self, number: usize) -> PathBuf {
        doors::socket(&self.sockets, number)
    }

    /// The serial console's socket.
    pub fn console_socket(&self) -> PathBuf {
        self.sockets.join("console")
    }
}

/// Id of the port that the guest agent listens on, as QMP's `VSERPORT_CHANGE` names it.
pub const AGENT_PORT: &str = "agent";

/// Id of the machine's RAM.
const RAM: &str = "ram";

/// What a lab's machine is, as QEMU is told it: its arguments without where it runs.
pub fn hardware(lab: &Lab, accelerator: Accelerator, cpu: &str) -> Vec<u8> {
    let chain = || DiskChain {
        base: None,
        layers: Vec::new(),
        active: PathBuf::from("disk"),
        bytes: 0,
    };
    let nowhere = Placement {
        accelerator,
        cpu: cpu.to_owned(),
        data_dirs: Vec::new(),
        sockets: PathBuf::from("sockets"),
        console_log: PathBuf::from("console"),
        disks: disk_nodes(lab).iter().map(|_| chain()).collect(),
        incoming: false,
    };
    let mut bytes = Vec::new();
    for word in argv(lab, &nowhere, Path::new("ram")) {
        bytes.extend_from_slice(word.as_encoded_bytes());
        bytes.push(0);
    }
    bytes
}

/// The names of the block nodes behind a lab's disks: the host's root disk, the NAS guest's system
/// disk, then the lab's disks in the order of [`Lab::disks`].
pub fn disk_nodes(lab: &Lab) -> Vec<String> {
    let system = [ROOT_NODE, NAS_NODE].map(str::to_owned);
    let data = lab
        .controllers
        .iter()
        .enumerate()
        .flat_map(|(number, one)| (0..one.disks.len()).map(move |port| data_node(number, port)));
    system.into_iter().chain(data).collect()
}

/// A disk of a lab in its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bay {
    /// Its place in [`disk_nodes`].
    pub number: usize,
    /// The device that reads and writes its block node, and holds its health.
    pub device: String,
}

/// Where the disk with a serial number is.
pub fn bay(lab: &Lab, serial: &str) -> Option<Bay> {
    let number = lab.disks().position(|disk| disk.serial == serial)? + SYSTEM_DISKS;
    let device = disk_nodes(lab).into_iter().nth(number)?;
    Some(Bay { number, device })
}

/// The device at a PCI address, if it is one that can be pulled out.
pub fn pluggable(lab: &Lab, address: PciAddress) -> Option<String> {
    Some(match lab.behind_root_port(address)? {
        Pluggable::Card(number) => hardware::card_id(number),
        Pluggable::Controller(number) => {
            let nvme = lab.controllers[number].model == ControllerModel::Nvme;
            match nvme {
                // The drive is its own controller.
                true => data_node(number, 0),
                false => hardware::controller_id(number),
            }
        }
    })
}

/// The host's root and the NAS guest's system disk come before a lab's disks.
pub const SYSTEM_DISKS: usize = 2;

const ROOT_NODE: &str = "root";
const NAS_NODE: &str = "nas-system";

fn data_node(controller: usize, port: usize) -> String {
    format!("disk{controller}-{port}")
}

/// QEMU's arguments for a lab whose RAM is the file `ram`, the program's name not among them.
pub fn argv(lab: &Lab, place: &Placement, ram: &Path) -> Vec<OsString> {
    let mut args = Args::default();
    args.pair("-name", "pve,debug-threads=on");
    args.flag("-no-user-config");
    args.flag("-nodefaults");
    args.pair("-display", "none");
    args.pair(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    for dir in &place.data_dirs {
        args.pair("-L", dir);
    }

    let machine = place.accelerator.machine();
    args.pair("-machine", format!("{machine},memory-backend={RAM}"));
    let accelerator = match place.accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "tcg,thread=multi",
    };
    args.pair("-accel", accelerator);
    if lab.firmware == Firmware::Uefi {
        // One file, whose variables are in memory: no boot of a lab depends on one that an earlier boot set.
        args.pair("-bios", "OVMF.fd");
    }
    args.pair("-cpu", &place.cpu);
    args.pair("-smp", lab.cpus.to_string());
    args.pair("-m", lab.memory_mib.to_string());
    // QEMU saves no RAM that others have too: a checkpoint takes it from the file, and puts it there.
    args.pair(
        "-object",
        format!(
            "memory-backend-file,id={RAM},size={}M,mem-path={},share=on",
            lab.memory_mib,
            Args::escaped(ram)
        ),
    );
    args.pair("-rtc", "base=utc");
    // As on most boards: the chipset's watchdog may reset the machine, once a driver has set it going.
    args.pair("-global", "ICH9-LPC.noreboot=off");
    // Stopped until every channel is connected, so that none of them misses the beginning.
    args.flag("-S");
    if place.incoming {
        args.pair("-incoming", "defer");
    }

    // The IOMMU comes first: QEMU wants it to exist before the devices behind it.
    hardware::iommu(lab, &mut args);

    let qmp = Args::escaped(&place.qmp_socket());
    args.pair("-qmp", format!("unix:{qmp},server=on,wait=off"));
    args.socket("console", &place.console_socket(), Some(&place.console_log));
    args.pair("-device", "isa-serial,chardev=console");
    args.pair(
        "-device",
        "virtio-serial-pci,id=channels,bus=pcie.0,addr=0x3",
    );
    args.socket("agent", &place.agent_socket(), None);
    args.pair(
        "-device",
        format!("virtserialport,id={AGENT_PORT},chardev=agent,name=org.qemu.guest_agent.0"),
    );
    for number in 0..DOORS {
        let (id, name) = (doors::id(number), doors::port_name(number));
        args.socket(&id, &place.door_socket(number), None);
        args.pair(
            "-device",
            format!("virtserialport,id={id},chardev={id},name={name}"),
        );
    }

    let mut chains = place.disks.iter();
    args.disk(ROOT_NODE, chains.next());
    if !lab.controllers.iter().any(|one| one.boots_host) {
        args.pair(
            "-device",
            "virtio-blk-pci,id=root,drive=root,bus=pcie.0,addr=0x4,bootindex=0",
        );
    }
    args.disk(NAS_NODE, chains.next());
    args.pair(
        "-device",
        "virtio-blk-pci,id=nas-system,drive=nas-system,serial=nas-system,bus=pcie.0,addr=0x5",
    );

    let mut ports = hardware::RootPorts::default();
    for (number, card) in lab.cards.iter().enumerate() {
        hardware::card(number, *card, &mut ports, &mut args);
    }
    for (number, one) in lab.controllers.iter().enumerate() {
        hardware::controller(number, one, &mut ports, &mut chains, &mut args);
    }
    args.0
}

/// The arguments so far.
#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn pair(&mut self, flag: &str, value: impl AsRef<std::ffi::OsStr>) {
        self.flag(flag);
        self.0.push(value.as_ref().to_owned());
    }

    /// A path inside a `key=value,…` option: QEMU reads a doubled comma as a comma.
    fn escaped(path: &Path) -> String {
        path.to_string_lossy().replace(',', ",,")
    }

    fn socket(&mut self, id: &str, path: &Path, log: Option<&Path>) {
        let mut value = format!(
            "socket,id={id},path={},server=on,wait=off",
            Self::escaped(path)
        );
        if let Some(log) = log {
            value.push_str(&format!(",logfile={}", Self::escaped(log)));
        }
        self.pair("-chardev", value);
    }

    /// A disk: its image, the frozen layers over it, and the file that is written to. Each names its
    /// parent here, whatever stands in its header, so that files can be moved.
    fn disk(&mut self, node: &str, chain: Option<&DiskChain>) {
        // A lab has as many chains as disks; without one QEMU refuses the device by its name.
        let Some(chain) = chain else { return };
        let mut parent = None;
        if let Some(base) = &chain.base {
            let name = format!("{node}.base");
            let file = Self::escaped(base);
            self.pair(
                "-blockdev",
                format!(
                    "driver=raw,node-name={name},read-only=on,file.driver=file,file.filename={file}"
                ),
            );
            parent = Some(name);
        }
        for (number, layer) in chain.layers.iter().enumerate() {
            let name = format!("{node}.{number}");
            self.qcow2(&name, layer, ",read-only=on", parent.as_deref());
            parent = Some(name);
        }
        self.qcow2(node, &chain.active, "", parent.as_deref());
    }

    /// A qcow2 file. L0's page cache outlives QEMU, and a lab's disks do not outlive L0, so flushes
    /// need not reach L0's platters.
    fn qcow2(&mut self, node: &str, file: &Path, options: &str, parent: Option<&str>) {
        let file = Self::escaped(file);
        let backing = match parent {
            Some(parent) => format!(",backing={parent}"),
            None => String::new(),
        };
        self.pair(
            "-blockdev",
            format!("driver=qcow2,node-name={node}{options},discard=unmap,cache.no-flush=on,file.driver=file,file.filename={file},file.cache.no-flush=on{backing}"),
        );
    }
}

#[cfg(test)]
mod tests;
