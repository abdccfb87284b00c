//! Outcomes for tests.

use std::collections::{BTreeMap, BTreeSet};

use super::family::CONTROLLER;
use super::ingredient::{Dropped, Ingredient};
use super::outcome::{BeforeStart, Outcome, Stop};
use super::record::Record;
use crate::finding::{FactBook, FactSet};
use crate::lab::{Iommu, Lab};
use crate::probe::disks::{BlockDevice, DiskFacts};
use crate::probe::iommu::{IommuFacts, IommuGroup, IommuUnit};
use crate::probe::modules::{FailedModule, ListedModule, ModuleFacts};
use crate::probe::pci::{PciDevice, PciFacts};
use crate::scenario::{DriverState, FailureKind};

pub(super) fn dropped(ingredients: &[Ingredient]) -> Dropped {
    ingredients.iter().copied().collect()
}

pub(super) fn stop(at: &str, message: &str) -> Stop {
    Stop {
        at: at.to_owned(),
        kind: FailureKind::Start,
        check: None,
        message: message.to_owned(),
    }
}

/// The write-up's outcome where it works.
pub(super) fn works() -> Outcome {
    Outcome {
        failure: None,
        before: Some(BeforeStart {
            iommu: Iommu::Intel,
            domains: BTreeSet::from(["identity".to_owned()]),
            driver: DriverState::None,
            disks: BTreeSet::new(),
            modules_failed: [("vfio_virqfd".to_owned(), "not found".to_owned())].into(),
        }),
        driver_after: Some(DriverState::Bound("vfio-pci".to_owned())),
        complaints: BTreeSet::new(),
        findings: [("vfio-virqfd-gone", crate::finding::Severity::Note)].into(),
        unread: BTreeSet::new(),
    }
}

/// The same with the host's driver on the controller until the VM starts.
pub(super) fn ahci_first() -> Outcome {
    changed(|before| {
        before.driver = DriverState::Bound("ahci".to_owned());
        before.disks = BTreeSet::from(["ONE".to_owned(), "TWO".to_owned()]);
    })
}

/// The write-up's outcome with another host before the VM's start.
pub(super) fn changed(change: impl FnOnce(&mut BeforeStart)) -> Outcome {
    let mut outcome = works();
    if let Some(before) = &mut outcome.before {
        change(before);
    }
    outcome
}

/// The outcome where `qm` refuses.
pub(super) fn fails(message: &str) -> Outcome {
    Outcome {
        failure: Some(stop("Start the NAS", message)),
        ..works()
    }
}

pub(super) fn lab() -> Lab {
    let text = include_str!("../../../scenarios/labs/q35-ich9.toml");
    let mut lab: Lab = toml::from_str(text).unwrap();
    lab.controllers[0].disks.truncate(2);
    lab.controllers[0].disks[0].serial = "ONE".to_owned();
    lab.controllers[0].disks[1].serial = "TWO".to_owned();
    lab
}

fn pci(driver: &str) -> PciFacts {
    PciFacts {
        devices: vec![PciDevice {
            address: CONTROLLER,
            class: "010601".to_owned(),
            vendor: "8086".to_owned(),
            device: "2922".to_owned(),
            subsystem_vendor: "1af4".to_owned(),
            subsystem_device: "1100".to_owned(),
            driver: DriverState::Bound(driver.to_owned()),
            driver_override: None,
            reset_methods: Vec::new(),
            iommu_group: Some(4),
        }],
    }
}

fn modules() -> ModuleFacts {
    ModuleFacts {
        used_by: BTreeMap::new(),
        kernel: "6.12.1-amd64".to_owned(),
        loaded: BTreeSet::from(["vfio".to_owned()]),
        builtin: BTreeSet::new(),
        listed: vec![ListedModule {
            module: "vfio_virqfd".to_owned(),
            file: "/etc/modules".to_owned(),
        }],
        loader: "active".to_owned(),
        failed: vec![FailedModule {
            module: "vfio_virqfd".to_owned(),
            reason: "not found".to_owned(),
        }],
        parameters: [].into(),
    }
}

/// What is kept of a run in [`lab`].
pub(super) fn record() -> Record {
    let disk = |serial: &str| BlockDevice {
        name: serial.to_lowercase(),
        size: 1 << 30,
        model: None,
        serial: Some(serial.to_owned()),
        wwn: None,
        rotational: true,
        transport: Some("sata".to_owned()),
        physical_sector: 4096,
        logical_sector: 512,
        holds_root: false,
    };
    let before = FactSet {
        iommu: Some(IommuFacts {
            units: vec![IommuUnit {
                name: "dmar0".to_owned(),
                kind: Iommu::Intel,
            }],
            groups: vec![IommuGroup {
                id: 4,
                domain: Some("identity".to_owned()),
                members: vec![CONTROLLER],
                other_members: Vec::new(),
            }],
        }),
        pci: Some(pci("ahci")),
        modules: Some(modules()),
        host_disks: Some(DiskFacts {
            disks: vec![disk("ONE"), disk("TWO"), disk("ANOTHER")],
        }),
        ..FactSet::default()
    };
    let mut end = FactBook::default();
    end.facts.pci = Some(pci("vfio-pci"));
    end.facts.modules = Some(modules());
    let text = serde_json::json!({
        "format": 1,
        "key": "ab".repeat(32),
        "cell": "pve9",
        "taken": "2020-11-24T10:00:00Z",
        "failure": null,
        "before": before,
        "start-words": "vm 100 - a word\n",
        "end": end,
    });
    serde_json::from_value(text).unwrap()
}
