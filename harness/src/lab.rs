//! What a lab machine *is*: its virtual IOMMU, its storage controllers and where they sit on PCI,
//! its disks and their identities. Where and how it runs is [`crate::machine`]'s business.

mod address;
mod drive;
mod wwn;

use images::HostImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use address::PciAddress;
pub use drive::{Drive, DriveData, Interface};
pub use wwn::Wwn;

/// A machine description, one TOML file under `scenarios/labs/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Lab {
    /// One sentence on what is particular about this machine.
    pub summary: String,
    /// The IOMMU that the host's firmware shows.
    pub iommu: Iommu,
    /// Whether the IOMMU remaps interrupts; VFIO refuses a guest's interrupts without it. Only
    /// Intel's and AMD's can.
    #[serde(default = "yes")]
    pub interrupt_remapping: bool,
    /// The host's firmware.
    #[serde(default)]
    pub firmware: Firmware,
    /// The system that the host runs.
    #[serde(default)]
    pub host: HostSystem,
    /// Virtual CPUs of the host.
    #[serde(default = "two")]
    #[schemars(range(min = 1))]
    pub cpus: u8,
    /// Memory of the host in MiB, from 512; the NAS guest's memory comes out of it.
    #[serde(default = "l1_memory")]
    #[schemars(range(min = 512))]
    pub memory_mib: u32,
    /// Other cards, each alone behind a root port. Their ports come before those of the
    /// controllers, so that each card moves the bus number of every controller behind a root port.
    #[serde(default)]
    pub cards: Vec<Card>,
    /// The storage controllers beside the virtio disk that the host boots from. Root ports are
    /// numbered in the order of the file: after the cards', the first one is bus 01, the next 02.
    #[serde(default, rename = "controller")]
    pub controllers: Vec<Controller>,
}

fn yes() -> bool {
    true
}

fn two() -> u8 {
    2
}

fn l1_memory() -> u32 {
    2048
}

/// The IOMMU of a lab's host.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Iommu {
    /// Intel VT-d (`intel-iommu`).
    Intel,
    /// AMD-Vi (`amd-iommu`).
    Amd,
    /// `virtio-iommu-pci`.
    Virtio,
    /// No IOMMU: VT-d is off in the firmware, or the board has none.
    None,
}

/// What starts a host's boot loader.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Firmware {
    /// BIOS (in a lab SeaBIOS), or UEFI in its compatibility mode. It starts GRUB from the disk's first sectors.
    #[default]
    Bios,
    /// UEFI (in a lab OVMF). It starts what is on the disk's EFI system partition, which a host's image has and
    /// which is empty until `proxmox-boot-tool` fills it.
    Uefi,
}

/// The system that a lab's host runs.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::Display,
)]
#[serde(rename_all = "kebab-case")]
pub enum HostSystem {
    /// Debian 13 with kernel 6.12, which Proxmox VE 9 is made from.
    #[default]
    #[serde(rename = "debian-13")]
    #[strum(serialize = "debian-13")]
    Debian13,
    /// Debian 12 with kernel 6.1, which Proxmox VE 8 is made from.
    #[serde(rename = "debian-12")]
    #[strum(serialize = "debian-12")]
    Debian12,
    /// Debian 12 with Ubuntu's kernel 6.2, which that of Proxmox VE 8.0 is made from: unlike Debian's, it leaves Intel's
    /// IOMMU off unless the command line says otherwise.
    #[serde(rename = "debian-12-kernel-6.2")]
    #[strum(serialize = "debian-12-kernel-6.2")]
    Debian12Kernel62,
}

impl HostSystem {
    /// The image that has it.
    pub fn image(self) -> HostImage {
        match self {
            HostSystem::Debian13 => HostImage::ProxmoxLike,
            HostSystem::Debian12 => HostImage::Proxmox8Like,
            HostSystem::Debian12Kernel62 => HostImage::Proxmox80Like,
        }
    }
}

/// A card that is no storage controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Card {
    /// Intel 82574L network card, PCI ids 8086:10d3. It sees a network of its own on which
    /// 10.0.2.2 answers, and nothing beyond.
    E1000e,
}

/// A storage controller of the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Controller {
    /// The chip.
    pub model: ControllerModel,
    /// Where it sits on PCI.
    pub slot: Slot,
    /// A card that is the second function of the controller's slot, and so in its IOMMU group. Only
    /// behind a root port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_function: Option<Card>,
    /// Whether the host boots from a SATA disk at this controller's last port in place of its virtio
    /// disk. The disk's serial number is `S3YJNX0K500001`.
    #[serde(default)]
    pub boots_host: bool,
    /// The disks at its ports, in the order of the ports.
    #[serde(default, rename = "disk")]
    pub disks: Vec<Disk>,
}

/// The chip of a storage controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ControllerModel {
    /// Intel ICH9 AHCI, six SATA ports, PCI ids 8086:2922.
    Ich9Ahci,
    /// LSI MegaRAID SAS 2108 with eight ports, PCI ids 1000:0079, driver megaraid_sas. Its disks say who
    /// they are, and have no SMART. (QEMU's plain SAS1068 works on the host, but the console of a guest
    /// that it is passed to ends with GRUB's last line.)
    MegasasGen2,
    /// An NVMe drive, which is its own controller and has one disk.
    Nvme,
}

impl ControllerModel {
    /// What its disks are attached by.
    pub const fn interface(self) -> Interface {
        match self {
            ControllerModel::Ich9Ahci => Interface::Sata,
            ControllerModel::MegasasGen2 => Interface::Sas,
            ControllerModel::Nvme => Interface::Nvme,
        }
    }

    /// How many disks it can have.
    pub const fn ports(self) -> usize {
        match self {
            ControllerModel::Ich9Ahci => 6,
            ControllerModel::MegasasGen2 => 8,
            ControllerModel::Nvme => 1,
        }
    }
}

/// Where a controller sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    /// The chipset's own function at 0000:00:1f.2, in one IOMMU group with LPC bridge and SMBus.
    ChipsetSata,
    /// Behind a PCI Express root port of its own.
    RootPort,
}

/// A disk of the lab: what is printed on its label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Disk {
    /// The drive type, which settles model, firmware, size and rotation rate.
    pub drive: Drive,
    /// Serial number: letters, digits and hyphens, at most 20 of them, the length of the field in
    /// ATA and NVMe.
    #[schemars(length(min = 1, max = 20))]
    pub serial: String,
    /// World Wide Name: `0x5`, then fifteen hexadecimal digits; Seagate's begin with `0x5000c500`. An NVMe
    /// drive has none: QEMU saves the state of one only if its namespace is the controller's own, and to
    /// that it gives no EUI-64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<Wwn>,
}

/// What is behind a root port, by its place in the lab's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pluggable {
    /// One of [`Lab::cards`].
    Card(usize),
    /// One of [`Lab::controllers`].
    Controller(usize),
}

/// A number of exactly so many hexadecimal digits; no sign, unlike in `from_str_radix`.
fn hexadecimal(text: &str, digits: usize) -> Option<u64> {
    let well_formed = text.len() == digits && text.chars().all(|c| c.is_ascii_hexdigit());
    well_formed
        .then(|| u64::from_str_radix(text, 16).ok())
        .flatten()
}

/// The disk that the host boots from where its root is at a storage controller. It is none of the
/// lab's disks, and like the virtio disk it has no World Wide Name.
pub const HOST_DISK: HostDisk = HostDisk {
    serial: "S3YJNX0K500001",
    model: "Samsung SSD 860 EVO 250GB",
    firmware: "RVT01B6Q",
};

/// What is printed on the label of the host's own disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostDisk {
    /// Serial number.
    pub serial: &'static str,
    /// Model.
    pub model: &'static str,
    /// Firmware revision.
    pub firmware: &'static str,
}

impl Lab {
    /// Every disk at a storage controller, in the order of controllers and ports.
    pub fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.controllers
            .iter()
            .flat_map(|controller| &controller.disks)
    }

    /// What sits at this address, if it is behind a root port of its own. Only there a machine's cards can
    /// be pulled out while it runs.
    pub fn behind_root_port(&self, address: PciAddress) -> Option<Pluggable> {
        let controllers = self.controllers.iter().enumerate();
        let behind = controllers.filter(|(_, one)| one.slot == Slot::RootPort);
        let cards = (0..self.cards.len()).map(Pluggable::Card);
        let all = cards.chain(behind.map(|(number, _)| Pluggable::Controller(number)));
        let first = address.domain == 0 && address.device == 0 && address.function == 0;
        let port = usize::from(address.bus).checked_sub(1).filter(|_| first)?;
        all.into_iter().nth(port)
    }

    /// The machine in a few words: its IOMMU and how many disks it has.
    pub fn in_short(&self) -> String {
        format!("iommu {} and {} disks", self.iommu, self.disks().count())
    }

    /// Exchanges two serial numbers; the disks that carry them stay where they are.
    pub fn swap_serials(&mut self, pair: &[String; 2]) {
        let disks = self.controllers.iter_mut().flat_map(|one| &mut one.disks);
        for disk in disks {
            if let Some(at) = pair.iter().position(|serial| *serial == disk.serial) {
                disk.serial.clone_from(&pair[1 - at]);
            }
        }
    }
}
