//! Reads the machines that scenarios run on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::document::{Document, Node};
use super::load::{name, read, toml_files};
use super::problem::{Problem, ScenarioError};
use crate::lab::{Controller, ControllerModel, HOST_DISK, Interface, Iommu, Lab, Slot, Wwn};

/// The longest serial number that an ATA or NVMe disk can have.
pub(super) const SERIAL_LENGTH: usize = 20;

/// Functions of the one PCI device that the root ports are.
const ROOT_PORTS: usize = 8;

/// Labs by name.
#[derive(Debug, Clone, Default)]
pub struct Labs {
    labs: BTreeMap<String, Lab>,
    /// Set where the labs could not be read: then no name is wrong.
    unknown: bool,
}

impl Labs {
    /// Reads every lab in a folder.
    ///
    /// # Errors
    /// Everything that is wrong with any of the files.
    pub fn load(dir: &Path) -> Result<Self, ScenarioError> {
        let files = toml_files(dir).map_err(|error| {
            ScenarioError::new(vec![Problem::of_file(
                dir,
                format!("failed to list the labs: {error}"),
            )])
        })?;
        let mut labs = BTreeMap::new();
        let mut problems = Vec::new();
        for path in files {
            match name(&path).and_then(|name| Ok((name, parse(&path, &read(&path)?)?))) {
                Ok((name, lab)) => {
                    labs.insert(name, lab);
                }
                Err(error) => problems.extend(error.into_problems()),
            }
        }
        match problems.is_empty() {
            true => Ok(Labs {
                labs,
                unknown: false,
            }),
            false => Err(ScenarioError::new(problems)),
        }
    }

    /// Labs that could not be read.
    pub(super) fn unknown() -> Self {
        Labs {
            unknown: true,
            ..Labs::default()
        }
    }

    pub(super) fn are_unknown(&self) -> bool {
        self.unknown
    }

    /// The lab of this name.
    pub fn get(&self, name: &str) -> Option<&Lab> {
        self.labs.get(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.labs.keys().map(String::as_str)
    }
}

impl FromIterator<(String, Lab)> for Labs {
    fn from_iter<I: IntoIterator<Item = (String, Lab)>>(labs: I) -> Self {
        Labs {
            labs: labs.into_iter().collect(),
            unknown: false,
        }
    }
}

/// Reads a lab from its text.
pub(super) fn parse(path: &Path, source: &str) -> Result<Lab, ScenarioError> {
    let document = Document::parse(path, source)?;
    let lab = document.read::<Lab>();
    if let Some(lab) = &lab {
        check(&document, lab);
    }
    document.finish(lab)
}

/// What is wrong with a serial number.
pub(super) fn serial_problem(serial: &str) -> Option<String> {
    let length = serial.chars().count();
    if length > SERIAL_LENGTH {
        Some(format!(
            "`{serial}` has {length} characters; a disk's serial number has at most {SERIAL_LENGTH}"
        ))
    } else if serial.is_empty()
        || !serial
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-')
    {
        // A comma would end the value in QEMU's arguments and begin another option.
        Some(format!(
            "`{serial}` is not a serial number: use letters, digits and hyphens"
        ))
    } else {
        None
    }
}

fn check(document: &Document<'_>, lab: &Lab) {
    let root = document.root();
    let remapping = root.get("interrupt-remapping");
    if remapping.value.is_some()
        && lab.interrupt_remapping
        && matches!(lab.iommu, Iommu::Virtio | Iommu::None)
    {
        let message = format!("an IOMMU of the kind `{}` remaps no interrupts", lab.iommu);
        note(document, &remapping, &message);
    }
    let ports = |lab: &Lab| {
        let behind = |one: &&Controller| one.slot == Slot::RootPort;
        lab.cards.len() + lab.controllers.iter().filter(behind).count()
    };
    if ports(lab) > ROOT_PORTS {
        let message = "a lab has at most eight root ports, its cards' among them";
        let last = lab.controllers.len().checked_sub(1);
        let node = last.map_or_else(
            || root.get("cards"),
            |last| root.get("controller").item(last),
        );
        note(document, &node, message);
    }
    let mut seen = Seen::default();
    for (index, controller) in lab.controllers.iter().enumerate() {
        let node = root.get("controller").item(index);
        place(document, &node, controller, &mut seen);
        disks(document, &node, controller, &mut seen);
    }
}

/// What the controllers before have taken.
#[derive(Default)]
struct Seen {
    chipset: bool,
    host: bool,
    serials: BTreeSet<String>,
    wwns: BTreeSet<Wwn>,
}

/// Whether a controller can be where it is, with what is beside it.
fn place(document: &Document<'_>, node: &Node<'_>, controller: &Controller, seen: &mut Seen) {
    let sata = controller.model.interface() == Interface::Sata;
    if controller.slot == Slot::ChipsetSata {
        let slot = node.get("slot");
        if !sata {
            note(document, &slot, "only an `ich9-ahci` sits in the chipset");
        } else if std::mem::replace(&mut seen.chipset, true) {
            let message = "the chipset has one SATA controller, and an earlier entry is that one";
            note(document, &slot, message);
        }
        if controller.second_function.is_some() {
            let message = "only a controller behind a root port has room for a second function";
            note(document, &node.get("second-function"), message);
        }
    }
    if controller.second_function.is_some() && controller.model == ControllerModel::Nvme {
        let message = "an NVMe drive has no second function";
        note(document, &node.get("second-function"), message);
    }
    if controller.boots_host {
        let boots = node.get("boots-host");
        if !sata {
            note(document, &boots, "the host boots from an `ich9-ahci` only");
        } else if std::mem::replace(&mut seen.host, true) {
            let message = "the host boots from an earlier controller already";
            note(document, &boots, message);
        }
    }
}

/// Whether a controller can have its disks.
fn disks(document: &Document<'_>, node: &Node<'_>, controller: &Controller, seen: &mut Seen) {
    let interface = controller.model.interface();
    let ports = controller.model.ports() - usize::from(controller.boots_host);
    for (port, disk) in controller.disks.iter().enumerate() {
        let node = node.get("disk").item(port);
        if port >= ports {
            let message = match (controller.boots_host, ports) {
                (true, _) => {
                    format!("beside the host's own disk this controller has {ports} ports")
                }
                (false, 1) => "an NVMe drive is one disk".to_owned(),
                (false, _) => format!("this controller has {ports} ports"),
            };
            note(document, &node, &message);
        }
        let kind = disk.drive.data().interface;
        if kind != interface {
            let message = format!("this is a {kind} drive, and its controller is {interface}");
            note(document, &node.get("drive"), &message);
        }
        let serial = node.get("serial");
        if let Some(message) = serial_problem(&disk.serial) {
            note(document, &serial, &message);
        } else if disk.serial == HOST_DISK.serial {
            note(
                document,
                &serial,
                "this is the serial of the host's own disk",
            );
        } else if !seen.serials.insert(disk.serial.clone()) {
            let message = format!("another disk has the serial `{}` already", disk.serial);
            note(document, &serial, &message);
        }
        match (disk.wwn, kind) {
            (None, Interface::Nvme) => {}
            (None, _) => note(
                document,
                &node,
                "this disk has no WWN: write one, as in wwn = \"0x5000c500a1b2c3d4\"",
            ),
            (Some(_), Interface::Nvme) => note(
                document,
                &node.get("wwn"),
                "an NVMe drive of a lab has no WWN: QEMU can give it none and still save its state",
            ),
            (Some(wwn), _) if wwn.0 >> 60 != 5 => note(
                document,
                &node.get("wwn"),
                "a disk's WWN begins with 5, as in 0x5000c500a1b2c3d4",
            ),
            (Some(wwn), _) if !seen.wwns.insert(wwn) => note(
                document,
                &node.get("wwn"),
                &format!("another disk has the WWN {wwn} already"),
            ),
            (Some(_), _) => {}
        }
    }
}

fn note(document: &Document<'_>, node: &Node<'_>, message: &str) {
    document.note(document.problem(node.span.clone(), message));
}
