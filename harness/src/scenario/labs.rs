//! Reads the machines that scenarios run on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::document::{Document, Node};
use super::load::{name, read, toml_files};
use super::problem::{Problem, ScenarioError};
use crate::lab::{Lab, Slot};

/// The longest serial number that an ATA disk can have.
pub(super) const SERIAL_LENGTH: usize = 20;

/// The ports of an ICH9 AHCI controller.
const PORTS: usize = 6;

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
            "`{serial}` has {length} characters; an ATA serial number has at most {SERIAL_LENGTH}"
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
    let mut serials = BTreeSet::new();
    let mut wwns = BTreeSet::new();
    let mut behind_root_ports = 0;
    let mut at_chipset = 0;
    for (index, controller) in lab.controllers.iter().enumerate() {
        let node = root.get("controller").item(index);
        match controller.slot {
            Slot::ChipsetSata => at_chipset += 1,
            Slot::RootPort => behind_root_ports += 1,
        }
        if controller.slot == Slot::ChipsetSata && at_chipset > 1 {
            note(
                document,
                &node.get("slot"),
                "the chipset has one SATA controller, and an earlier entry is that one",
            );
        }
        if controller.slot == Slot::RootPort && behind_root_ports > ROOT_PORTS {
            note(
                document,
                &node.get("slot"),
                "a lab has at most eight root ports",
            );
        }
        for (port, disk) in controller.disks.iter().enumerate() {
            let node = node.get("disk").item(port);
            if port >= PORTS {
                note(document, &node, "this controller has six ports");
            }
            let serial = node.get("serial");
            if let Some(message) = serial_problem(&disk.serial) {
                note(document, &serial, &message);
            } else if !serials.insert(&disk.serial) {
                note(
                    document,
                    &serial,
                    &format!("another disk has the serial `{}` already", disk.serial),
                );
            }
            if disk.wwn.0 >> 60 != 5 {
                note(
                    document,
                    &node.get("wwn"),
                    "a disk's WWN begins with 5, as in 0x5000c500a1b2c3d4",
                );
            } else if !wwns.insert(disk.wwn) {
                note(
                    document,
                    &node.get("wwn"),
                    &format!("another disk has the WWN {} already", disk.wwn),
                );
            }
        }
    }
}

fn note(document: &Document<'_>, node: &Node<'_>, message: &str) {
    document.note(document.problem(node.span.clone(), message));
}
