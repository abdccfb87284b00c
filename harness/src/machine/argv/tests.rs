use super::*;
use crate::lab::{Card, Controller, Disk, Drive, Firmware, HostSystem, Iommu, Slot, Wwn};

fn disk(drive: Drive, serial: &str) -> Disk {
    Disk {
        drive,
        serial: serial.to_owned(),
        wwn: Some(Wwn(0x5000_c500_0000_0001)),
    }
}

fn lab(iommu: Iommu, slot: Slot) -> Lab {
    Lab {
        summary: String::new(),
        iommu,
        interrupt_remapping: true,
        firmware: Firmware::Bios,
        host: HostSystem::default(),
        cpus: 2,
        memory_mib: 3072,
        cards: Vec::new(),
        controllers: vec![Controller {
            model: ControllerModel::Ich9Ahci,
            slot,
            second_function: None,
            boots_host: false,
            disks: vec![disk(Drive::ExosX14, "ONE"), disk(Drive::ExosX14, "TWO")],
        }],
    }
}

fn chain(base: Option<&str>, layers: &[&str], active: &str) -> DiskChain {
    DiskChain {
        base: base.map(PathBuf::from),
        layers: layers.iter().map(PathBuf::from).collect(),
        active: active.into(),
        bytes: 1 << 30,
    }
}

/// A machine whose every controller is behind a root port: two of SATA, one of SAS, an NVMe drive.
fn crowded() -> Lab {
    let mut lab = lab(Iommu::Intel, Slot::RootPort);
    lab.interrupt_remapping = false;
    lab.cards = vec![Card::E1000e];
    lab.controllers[0].disks.clear();
    lab.controllers[0].boots_host = true;
    let more = [
        (ControllerModel::Ich9Ahci, None),
        (ControllerModel::MegasasGen2, Some(Drive::ExosX14Sas)),
        (ControllerModel::Nvme, Some(Drive::Samsung980Pro)),
    ];
    for (model, drive) in more {
        lab.controllers.push(Controller {
            model,
            slot: Slot::RootPort,
            second_function: (model == ControllerModel::Ich9Ahci).then_some(Card::E1000e),
            boots_host: false,
            disks: drive.map(|drive| disk(drive, "ONE")).into_iter().collect(),
        });
    }
    lab
}

/// The host starts by UEFI.
fn uefi() -> Lab {
    let mut lab = lab(Iommu::Intel, Slot::RootPort);
    lab.firmware = Firmware::Uefi;
    lab
}

/// The host's root is on the chipset's controller, beside the data disks.
fn root_on_chipset() -> Lab {
    let mut lab = lab(Iommu::Virtio, Slot::ChipsetSata);
    lab.controllers[0].boots_host = true;
    lab
}

fn place(accelerator: Accelerator, cpu: &str) -> Placement {
    Placement {
        accelerator,
        cpu: cpu.to_owned(),
        data_dirs: vec!["/toolbox/usr/share/qemu".into()],
        sockets: "/run/lab".into(),
        console_log: "/evidence/pve-console.log".into(),
        disks: vec![
            chain(
                Some("/images/pve.raw"),
                &["/cp/1.qcow2"],
                "/disks/root,1.qcow2",
            ),
            chain(Some("/images/nas.raw"), &[], "/disks/nas.qcow2"),
            chain(None, &[], "/disks/0.qcow2"),
            chain(None, &[], "/disks/1.qcow2"),
        ],
        incoming: false,
    }
}

fn lines(lab: &Lab, place: &Placement) -> String {
    let mut text = String::new();
    for word in argv(lab, place, Path::new("/proc/1/fd/3")) {
        let word = word.to_string_lossy();
        text.push_str(if word.starts_with('-') && !text.is_empty() {
            "\n"
        } else {
            ""
        });
        if !text.is_empty() && !text.ends_with('\n') {
            text.push(' ');
        }
        text.push_str(&word);
    }
    text
}

#[test]
fn argv_of_each_kind_of_machine() {
    for (name, lab, place) in [
        (
            "tcg-intel",
            lab(Iommu::Intel, Slot::ChipsetSata),
            place(Accelerator::Tcg, "max"),
        ),
        (
            "kvm-intel",
            lab(Iommu::Intel, Slot::ChipsetSata),
            place(Accelerator::Kvm, "host,fsrm=off"),
        ),
        (
            "tcg-amd-root-port",
            lab(Iommu::Amd, Slot::RootPort),
            place(Accelerator::Tcg, "max"),
        ),
        (
            "tcg-none",
            lab(Iommu::None, Slot::ChipsetSata),
            place(Accelerator::Tcg, "max"),
        ),
        ("tcg-root-ports", crowded(), place(Accelerator::Tcg, "max")),
        ("tcg-uefi", uefi(), place(Accelerator::Tcg, "max")),
        (
            "tcg-root-on-chipset",
            root_on_chipset(),
            place(Accelerator::Tcg, "max"),
        ),
    ] {
        insta::assert_snapshot!(name, lines(&lab, &place));
    }
}

#[test]
fn a_machine_that_goes_on_from_a_state_has_the_same_hardware() {
    let lab = lab(Iommu::Intel, Slot::RootPort);
    let anew = place(Accelerator::Tcg, "max");
    let goes_on = Placement {
        incoming: true,
        ..anew.clone()
    };
    let (anew, goes_on) = (lines(&lab, &anew), lines(&lab, &goes_on));
    assert_eq!(goes_on.replace("-incoming defer\n", ""), anew);
}

#[test]
fn there_is_a_node_for_each_disk() {
    let lab = lab(Iommu::Intel, Slot::RootPort);
    let text = lines(&lab, &place(Accelerator::Tcg, "max"));
    let nodes = disk_nodes(&lab);
    assert_eq!(nodes, ["root", "nas-system", "disk0-0", "disk0-1"]);
    for node in nodes {
        assert!(text.contains(&format!("drive={node},")), "{node}");
        assert!(text.contains(&format!("node-name={node},")), "{node}");
    }
}

#[test]
fn disks_and_cards_are_found_as_the_command_line_has_them() {
    let lab = crowded();
    let text = lines(&lab, &place(Accelerator::Tcg, "max"));
    for (bus, device) in [
        (1, Some("card0")),
        (2, Some("hba0")),
        (3, Some("hba1")),
        (4, Some("hba2")),
        (5, Some("disk3-0")),
        (6, None),
    ] {
        let address = PciAddress {
            domain: 0,
            bus,
            device: 0,
            function: 0,
        };
        let found = pluggable(&lab, address);
        assert_eq!(found.as_deref(), device, "{address}");
        if let Some(device) = device {
            assert!(text.contains(&format!(",id={device},")), "{device}");
        }
    }
    assert_eq!(pluggable(&lab, "00:1f.2".parse().unwrap()), None);

    let nvme = Lab {
        controllers: lab.controllers[3..].to_vec(),
        ..lab
    };
    let found = bay(&nvme, "ONE").unwrap();
    assert_eq!((found.number, found.device.as_str()), (2, "disk0-0"));
    let text = lines(&nvme, &place(Accelerator::Tcg, "max"));
    assert!(text.contains("nvme,id=disk0-0,drive=disk0-0,"), "{text}");
    assert_eq!(bay(&nvme, "NONE"), None);
}

#[test]
fn a_comma_in_a_path_is_doubled() {
    let text = lines(
        &lab(Iommu::None, Slot::ChipsetSata),
        &place(Accelerator::Tcg, "max"),
    );
    assert!(text.contains("/disks/root,,1.qcow2"), "{text}");
}
