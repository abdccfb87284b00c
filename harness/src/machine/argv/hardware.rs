//! The part of the command line that says what hardware a lab has: its IOMMU, cards, controllers and
//! disks.

use super::{Args, data_node};
use crate::lab::{Card, Controller, ControllerModel, Disk, HOST_DISK, Interface, Iommu, Lab, Slot};
use crate::machine::disks::DiskChain;

/// The root ports so far: functions of one PCI device.
#[derive(Default)]
pub(super) struct RootPorts(usize);

impl RootPorts {
    /// Adds a port; gives the bus behind it.
    fn add(&mut self, args: &mut Args) -> String {
        let function = self.0;
        self.0 += 1;
        let port = self.0;
        args.pair(
            "-device",
            format!("pcie-root-port,id=port{port},bus=pcie.0,chassis={port},slot={port},addr=0x1c.{function:x},multifunction=on"),
        );
        format!("port{port}")
    }
}

pub(super) fn card_id(number: usize) -> String {
    format!("card{number}")
}

pub(super) fn controller_id(number: usize) -> String {
    format!("hba{number}")
}

pub(super) fn card(number: usize, card: Card, ports: &mut RootPorts, args: &mut Args) {
    let bus = ports.add(args);
    card_device(card, &card_id(number), &bus, "0x0", args);
}

fn card_device(card: Card, id: &str, bus: &str, address: &str, args: &mut Args) {
    match card {
        // A network that ends inside QEMU: nothing listens on L0, and nothing gets out.
        Card::E1000e => {
            args.pair("-netdev", format!("user,id={id}-net,restrict=on,ipv6=off"));
            args.pair(
                "-device",
                format!("e1000e,id={id},netdev={id}-net,bus={bus},addr={address}"),
            );
        }
    }
}

pub(super) fn iommu(lab: &Lab, args: &mut Args) {
    let remapping = if lab.interrupt_remapping { "on" } else { "off" };
    match lab.iommu {
        Iommu::Intel => args.pair("-device", format!("intel-iommu,intremap={remapping}")),
        Iommu::Amd => args.pair(
            "-device",
            format!("amd-iommu,intremap={remapping},xtsup={remapping},dma-remap=on"),
        ),
        Iommu::Virtio => args.pair("-device", "virtio-iommu-pci,bus=pcie.0,addr=0x1"),
        Iommu::None => {}
    }
}

pub(super) fn controller<'a>(
    number: usize,
    controller: &Controller,
    ports: &mut RootPorts,
    chains: &mut impl Iterator<Item = &'a DiskChain>,
    args: &mut Args,
) {
    let place = match controller.slot {
        Slot::ChipsetSata => None,
        Slot::RootPort => Some(ports.add(args)),
    };
    // An NVMe controller has its disk's identity, so it comes with the disk.
    if let Some(bus) = &place
        && controller.model != ControllerModel::Nvme
    {
        let chip = match controller.model {
            ControllerModel::Ich9Ahci => "ich9-ahci",
            ControllerModel::MegasasGen2 => "megasas-gen2",
            ControllerModel::Nvme => "nvme",
        };
        let shared = match controller.second_function {
            Some(_) => ",multifunction=on",
            None => "",
        };
        args.pair(
            "-device",
            format!(
                "{chip},id={},bus={bus},addr=0x0{shared}",
                controller_id(number)
            ),
        );
    }
    if let (Some(bus), Some(card)) = (&place, controller.second_function) {
        card_device(card, &format!("hba{number}-second"), bus, "0x0.1", args);
    }
    let bus = match &place {
        // The chipset's own AHCI is part of the q35 machine and calls its ports ide.0 to ide.5.
        None => "ide".to_owned(),
        Some(port) if controller.model == ControllerModel::Nvme => port.clone(),
        Some(_) => controller_id(number),
    };
    for (port, disk) in controller.disks.iter().enumerate() {
        let node = data_node(number, port);
        args.disk(&node, chains.next());
        args.pair("-device", disk_device(disk, &node, &bus, port));
    }
    if controller.boots_host {
        let port = controller.model.ports() - 1;
        args.pair("-device", host_disk(&format!("{bus}.{port}")));
    }
}

/// The device of a disk, with the node's name as its id. An NVMe drive is the controller with the one namespace of its
/// own: with an `nvme-ns` beside it, QEMU 11.1 refuses to save the machine's state.
fn disk_device(disk: &Disk, node: &str, bus: &str, port: usize) -> String {
    let data = disk.drive.data();
    let (serial, model, firmware) = (&disk.serial, data.model, data.firmware);
    let wwn = disk
        .wwn
        .map_or_else(String::new, |wwn| format!("wwn={wwn},"));
    // discard_granularity=0: a spinning disk has no TRIM, and smartctl would report it.
    let spinning = format!(
        "rotation_rate={},physical_block_size={},discard_granularity=0",
        data.rotation_rpm, data.physical_sector
    );
    match data.interface {
        Interface::Sata => format!(
            "ide-hd,id={node},drive={node},bus={bus}.{port},serial={serial},model={model},ver={firmware},{wwn}{spinning}"
        ),
        Interface::Sas => format!(
            "scsi-hd,id={node},drive={node},bus={bus}.0,scsi-id={port},serial={serial},vendor={},product={model},ver={firmware},{wwn}{spinning}",
            data.vendor
        ),
        Interface::Nvme => format!(
            "nvme,id={node},drive={node},bus={bus},addr=0x0,serial={serial},model={model},firmware-version={firmware}"
        ),
    }
}

fn host_disk(bus: &str) -> String {
    format!(
        "ide-hd,id=root,drive=root,bus={bus},serial={},model={},ver={},rotation_rate=1,bootindex=0",
        HOST_DISK.serial, HOST_DISK.model, HOST_DISK.firmware
    )
}
