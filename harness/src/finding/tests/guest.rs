//! Cases of what is given away: groups, the VM's file, disks and pools.

use super::*;
use crate::lab::PciAddress;
use crate::probe::host_storage::{DiskUse, HostDisk, HostPool, UseKind};
use crate::probe::kernel_log::PciIdentity;
use crate::probe::vm_configs::MappedHardware;

/// A disk of the host on the controller that VM 100 claims.
pub(super) fn disk_on_controller(book: &mut FactBook, uses: &[(UseKind, &str)]) {
    let uses = uses.iter().map(|(kind, name)| DiskUse {
        kind: *kind,
        name: (*name).to_owned(),
    });
    book.facts
        .host_storage
        .as_mut()
        .unwrap()
        .disks
        .push(HostDisk {
            name: "sda".to_owned(),
            size: 1,
            model: None,
            serial: Some("ZTM09FD7".to_owned()),
            controller: Some(address("00:1f.2")),
            uses: uses.collect(),
        });
}

pub(super) fn pool_on(book: &mut FactBook, disk: &str) {
    book.facts.host_storage.as_mut().unwrap().pools = Some(vec![HostPool {
        name: "tank".to_owned(),
        health: "ONLINE".to_owned(),
        disks: vec![disk.to_owned()],
        missing: Vec::new(),
        import_unit: None,
    }]);
}

/// The controller is with the VM, and what the host had on its disks is left hanging.
pub(super) fn pulled(book: &mut FactBook) {
    pool_on(book, "sda");
    let storage = book.facts.host_storage.as_mut().unwrap();
    let pool = &mut storage.pools.as_mut().unwrap()[0];
    pool.missing = std::mem::take(&mut pool.disks);
    pool.health = "SUSPENDED".to_owned();
}

/// A file system of the host's is mounted, and its disk is gone.
fn lost_mount(book: &mut FactBook) {
    let storage = book.facts.host_storage.as_mut().unwrap();
    storage.lost_mounts.push("/dev/sda1 on /srv".to_owned());
}

/// VM 100 has a graphics card, and no controller.
fn graphics_card_only(book: &mut FactBook) {
    device(book, "00:01.0").class = "030000".to_owned();
    bind(book, "00:01.0", "vfio-pci");
    vm(book, "machine: q35\nhostpci0: 0000:00:01.0,pcie=1");
}

/// A network card in the controller's group.
fn add_card(book: &mut FactBook, driver: &str) {
    let mut card = device(book, "00:1f.3").clone();
    card.address = address("00:1f.6");
    card.class = "020000".to_owned();
    card.driver = DriverState::from(driver.to_owned());
    book.facts.pci.as_mut().unwrap().devices.push(card);
    let groups = &mut book.facts.iommu.as_mut().unwrap().groups;
    let group = groups.iter_mut().find(|group| group.id == 6).unwrap();
    group.members.push(address("00:1f.6"));
}

fn network_through(book: &mut FactBook, at: &str) {
    let network = book.facts.host_network.as_mut().unwrap();
    network.interfaces[0].device = Some(address(at));
}

pub(super) fn identity(at: PciAddress, id: &str) -> PciIdentity {
    let (vendor, device) = id.split_once(':').unwrap();
    PciIdentity {
        address: at,
        vendor: vendor.to_owned(),
        device: device.to_owned(),
        class: "010601".to_owned(),
    }
}

/// The controller behind a root port, where another card is now.
pub(super) fn renumber(book: &mut FactBook) -> Vec<PciIdentity> {
    add_twin(book, "02:00.0", "ahci");
    vm(book, "machine: q35\nhostpci0: 0000:01:00.0,pcie=1");
    vec![
        identity(address("01:00.0"), "8086:2922"),
        identity(address("00:1f.2"), "8086:2922"),
    ]
}

/// VMs from number 100 on, each with its lines, and the mapping `hba` with its alternatives. Where these say
/// neither group nor subsystem, it is as in records of before those were read.
pub(super) fn mapped(book: &mut FactBook, vms: &[&str], alternatives: &[&str]) {
    let mut text = String::new();
    for (index, lines) in vms.iter().enumerate() {
        text.push_str(&format!("vm\t{}\tstopped\n", 100 + index));
        for line in lines.lines() {
            text.push_str(&format!("line\t{line}\n"));
        }
    }
    text.push_str("mapping\thba\n");
    for alternative in alternatives {
        text.push_str(&format!("mapping\t map {alternative}\n"));
    }
    text.push_str("end\n");
    let mut configs = crate::probe::vm_configs::parse(&text).unwrap();
    for device in configs.mappings.iter_mut().flat_map(|one| &mut one.devices) {
        device
            .hardware
            .take_if(|one| *one == MappedHardware::default());
    }
    book.facts.vm_configs = Some(configs);
}

/// A card with two functions, of which the second is another device.
pub(super) fn add_card_of_two(book: &mut FactBook) {
    add_twin(book, "01:00.1", "vfio-pci");
    device(book, "01:00.1").device = "1aef".to_owned();
    add_twin(book, "01:00.0", "vfio-pci");
}

/// Two controllers, of which a VM with the mapping gets one.
fn either_of_two(book: &mut FactBook, vms: &[&str]) {
    add_twin(book, "01:00.0", "vfio-pci");
    let alternatives = [
        "id=8086:2922,node=node7,path=0000:00:1f.2",
        "id=8086:2922,node=node7,path=0000:01:00.0",
    ];
    mapped(book, vms, &alternatives);
}

pub(super) fn call_host(book: &mut FactBook, name: &str) {
    book.facts.platform.as_mut().unwrap().host_name = name.to_owned();
}

const BY_MAPPING: &str = "hostpci0: mapping=hba\nonboot: 1";

fn virtual_disks(book: &mut FactBook, serials: [Option<&str>; 2]) {
    let disks = &mut book.facts.nas_disks.as_mut().unwrap().disks;
    let mut boot = disks.iter().find(|disk| disk.holds_root).unwrap().clone();
    boot.holds_root = false;
    boot.model = Some("QEMU HARDDISK".to_owned());
    for (index, serial) in serials.into_iter().enumerate() {
        boot.name = format!("sdx{index}");
        boot.serial = serial.map(str::to_owned);
        disks.push(boot.clone());
    }
}

pub(super) fn cases() -> Vec<Case> {
    let q35 = "machine: q35";
    let controller = "hostpci0: 0000:00:1f.2,pcie=1";
    vec![
        error("group-not-viable", |book| {
            bind(book, "00:1f.3", "i801_smbus");
            start_said(
                book,
                "kvm: -device vfio-pci: vfio 0000:00:1f.2: group 6 is not viable",
            );
        }),
        error("group-not-viable", |book| {
            bind(book, "00:1f.3", "i801_smbus");
            vm(book, "hostpci0: 0000:00:1f.2,driver=keep");
        }),
        error("group-takes-nic", |book| {
            add_card(book, "e1000e");
            network_through(book, "00:1f.6");
        }),
        error("group-takes-nic", |book| {
            add_card(book, "e1000e");
            let sample = "interface\teno2\t/sys/devices/pci0000:00/0000:00:1f.6\tovs-system\nend\n";
            book.facts.host_network = Some(crate::probe::host_network::parse(sample).unwrap());
        }),
        error("group-takes-nic", |book| add_card(book, "vfio-pci")),
        warning("group-takes-nic", |book| add_card(book, "e1000e")),
        note("group-shared", |_| {}),
        note("no-reset-method", |_| {}),
        error("hostpci-unparsable", |book| {
            vm(book, "machine: q35\nhostpci0: 0000:00:1f.2;pcie=1");
        }),
        error("hostpci-unparsable", |book| {
            vm(book, "hostpci0 0000:00:1f.2")
        }),
        error("hostpci-in-snapshot-section", |book| {
            let file = format!("{q35}\n\n[before]\n{q35}\nsnaptime: 1753000000\n{controller}");
            vm(book, &file);
        }),
        error("hostpci-in-snapshot-section", |book| {
            vm(book, &format!("{q35}\n[before]\n{controller}"));
        }),
        error("i440fx-with-pcie", |book| vm(book, controller)),
        error("i440fx-with-pcie", |book| {
            vm(book, &format!("{controller}\nmachine: pc-i440fx-9.2"))
        }),
        error("no-such-address", |book| {
            vm(book, &format!("{q35}\nhostpci0: 00:1e.2,pcie=1"))
        }),
        error("address-renumbered", |book| {
            let earlier = renumber(book);
            run(book).earlier_devices = earlier;
        }),
        error("address-renumbered", |book| {
            let earlier = renumber(book);
            book.facts.kernel_log.as_mut().unwrap().previous_devices = earlier;
            let mut other = device(book, "00:01.0").clone();
            other.address = address("01:00.0");
            book.facts.pci.as_mut().unwrap().devices.push(other);
        }),
        error("address-renumbered", |book| {
            let other = "id=1000:0072,node=node7,path=0000:00:1f.2";
            mapped(book, &[BY_MAPPING], &[other]);
        }),
        error("address-renumbered", |book| {
            // A node is named without the domain of its host.
            call_host(book, "node7.example.com");
            let other = "id=1000:0072,node=node7,path=0000:00:1f.2";
            mapped(book, &[BY_MAPPING], &[other]);
        }),
        error("address-renumbered", |book| {
            // The id is the second function's, and the first is what counts.
            add_card_of_two(book);
            let whole = "id=8086:1aef,node=node7,path=0000:01:00";
            mapped(book, &[BY_MAPPING], &[whole]);
        }),
        error("address-renumbered", |book| {
            add_card_of_two(book);
            let both = "id=1000:0072,node=node7,path=0000:01:00.0;0000:01:00.1";
            mapped(book, &[BY_MAPPING], &[both]);
        }),
        error("address-renumbered", |book| {
            // The first is what it was, and the second is something else.
            add_card_of_two(book);
            let both = "id=8086:2922,node=node7,path=0000:01:00.0;0000:01:00.1";
            mapped(book, &[BY_MAPPING], &[both]);
        }),
        error("address-renumbered", |book| {
            add_card_of_two(book);
            device(book, "01:00.0").device = "1aef".to_owned();
            let whole = "id=8086:2922,node=node7,path=0000:00:1f.2;0000:01:00";
            mapped(book, &[BY_MAPPING], &[whole]);
        }),
        warning("controller-claimed-twice", |book| two_vms(book, "0")),
        error("controller-claimed-twice", |book| two_vms(book, "1")),
        error("controller-claimed-twice", |book| {
            two_vms(book, "0");
            start_said(
                book,
                "PCI device '0000:00:1f.2' already in use by VMID '100'",
            );
        }),
        error("controller-claimed-twice", |book| {
            vm(book, &format!("{q35}\n{controller}\nhostpci1: 00:1f"));
        }),
        error("controller-claimed-twice", |book| {
            call_host(book, "node7.example.com");
            let only = "id=8086:2922,node=node7,path=0000:00:1f.2";
            mapped(book, &[BY_MAPPING, BY_MAPPING], &[only]);
        }),
        error("controller-claimed-twice", |book| {
            // Whichever it gets, the first function is in it.
            add_card_of_two(book);
            let alternatives = [
                "id=8086:2922,node=node7,path=0000:01:00.0",
                "id=8086:2922,node=node7,path=0000:01:00",
            ];
            let direct = "hostpci0: 0000:01:00.0\nonboot: 1";
            mapped(book, &[BY_MAPPING, direct], &alternatives);
        }),
        error("controller-claimed-twice", |book| {
            // A template has the first shared device.
            let vms = [
                "hostpci0: 0000:00:1f.0\nhostpci1: 0000:00:1f.2\nonboot: 1",
                "hostpci0: 0000:00:1f.0\ntemplate: 1",
                "hostpci0: 0000:00:1f.2\nonboot: 1",
            ];
            mapped(book, &vms, &[]);
        }),
        error("controller-claimed-twice", |book| {
            // The first shared device is only so as long as one of the VMs is off.
            let vms = [
                "hostpci0: 0000:00:1f.0\nhostpci1: 0000:00:1f.2\nonboot: 1",
                "hostpci0: 0000:00:1f.0",
                "hostpci0: 0000:00:1f.2\nonboot: 1",
            ];
            mapped(book, &vms, &[]);
        }),
        note("hostpci-not-migratable", |_| {}),
        note("passthrough-not-in-backups", |_| {}),
        error("host-boots-from-controller", |book| {
            disk_on_controller(book, &[(UseKind::Root, "/")]);
        }),
        error("host-boots-from-controller", |book| {
            // No VM claims it yet: the blacklist alone is enough.
            vm(book, "memory: 512");
            disk_on_controller(book, &[(UseKind::Swap, "[SWAP]")]);
            bind(book, "00:1f.2", "ahci");
            rule_on_disk(book, "blacklist ahci", true);
            unload(book, "ahci");
            run(book)
                .console
                .push("Gave up waiting for root file system device.".to_owned());
        }),
        error("host-boots-from-controller", |book| {
            vm(book, "memory: 512");
            disk_on_controller(book, &[(UseKind::Boot, "/boot/efi")]);
            rule_on_disk(book, "options vfio_pci ids=8086:2922", true);
        }),
        error("disk-in-use-on-host", |book| {
            disk_on_controller(
                book,
                &[(UseKind::Mount, "/srv"), (UseKind::Lvm, "data-srv")],
            );
        }),
        error("disk-in-use-on-host", lost_mount),
        error("pool-imported-on-host", pulled),
        error("pool-imported-on-host", |book| {
            disk_on_controller(book, &[(UseKind::Zfs, "tank")]);
            pool_on(book, "sda");
        }),
        warning("disks-not-controller", |book| {
            virtual_disks(book, [Some("a"), Some("b")])
        }),
        error("disks-not-controller", |book| {
            virtual_disks(book, [None, None])
        }),
        warning("disks-not-controller", |book| {
            vm(
                book,
                "boot: order=scsi0\nscsi0: local:1\nscsi1: /dev/disk/by-id/ata-X_1",
            );
        }),
    ]
}

fn two_vms(book: &mut FactBook, onboot: &str) {
    let vms = &mut book.facts.vm_configs.as_mut().unwrap().vms;
    let mut second = vms[0].clone();
    second.vmid = 200;
    let lines = &mut second.sections[0].lines;
    lines
        .iter_mut()
        .find(|line| line.key == "onboot")
        .unwrap()
        .value = onboot.to_owned();
    lines.retain(|line| line.key != "scsi0");
    vms.push(second);
}

#[test]
fn groups() {
    // Not started yet: `qm start` will bind the whole group.
    silent("group-not-viable", |book| {
        bind(book, "00:1f.3", "i801_smbus")
    });
    silent("group-not-viable", |book| {
        vm(book, "hostpci0: 0000:00:1f.2,driver=keep")
    });
    silent("group-takes-nic", |book| network_through(book, "00:03.0"));
    silent("group-takes-nic", |book| {
        add_card(book, "e1000e");
        vm(book, "hostpci0: 0000:00:1f");
    });
    silent("group-shared", |book| vm(book, "hostpci0: 0000:00:01.0"));
    silent("group-shared", |book| {
        device(book, "00:1f.0").class = "060400".to_owned();
        device(book, "00:1f.3").class = "060400".to_owned();
    });
    silent("no-reset-method", |book| {
        device(book, "00:1f.2").reset_methods.push("bus".to_owned())
    });
    silent("no-reset-method", |book| {
        book.facts.platform.as_mut().unwrap().kernel = "5.4.203-1-pve".to_owned();
    });
}

#[test]
fn the_vms_file() {
    silent("hostpci-unparsable", |book| {
        vm(book, "memory: lots\nhostpci0: 00:1f.2")
    });
    // A snapshot that Proxmox took of a VM that had the device.
    silent("hostpci-in-snapshot-section", |book| {
        vm(
            book,
            "memory: 512\n[before]\nhostpci0: 00:1f.2\nmemory: 512\nsnaptime: 1753000000",
        );
    });
    silent("hostpci-in-snapshot-section", |book| {
        vm(book, "memory: 512\n[PENDING]\nhostpci0: 00:1f.2")
    });
    silent("i440fx-with-pcie", |book| {
        vm(book, "hostpci0: 00:1f.2\nmachine: pc")
    });
    silent("i440fx-with-pcie", |book| {
        vm(book, "hostpci0: 00:1f.2,pcie=1\nmachine: pc-q35-9.2+pve1")
    });
    silent("no-such-address", |book| vm(book, "hostpci0: 1f.2"));
    silent("no-such-address", |book| {
        vm(book, "hostpci0: 00:1e.2");
        book.facts.pci = None;
    });
    silent("address-renumbered", |book| {
        // It was nowhere before either.
        let mut earlier = renumber(book);
        earlier.remove(0);
        run(book).earlier_devices = earlier;
    });
    silent("address-renumbered", |book| {
        let earlier = vec![identity(address("00:1f.2"), "8086:2922")];
        book.facts.kernel_log.as_mut().unwrap().previous_devices = earlier;
        add_twin(book, "02:00.0", "ahci");
    });
    silent("address-renumbered", |book| {
        add_card_of_two(book);
        let whole = "id=8086:2922,node=node7,path=0000:01:00";
        mapped(book, &[BY_MAPPING], &[whole]);
    });
    silent("address-renumbered", |book| {
        add_card_of_two(book);
        let both = "id=8086:2922,node=node7,path=0000:00:1f.2;0000:01:00";
        mapped(book, &[BY_MAPPING], &[both]);
    });
    silent("address-renumbered", |book| {
        let elsewhere = "id=1000:0072,node=node77,path=0000:00:1f.2";
        mapped(book, &[BY_MAPPING], &[elsewhere]);
    });
    silent("controller-claimed-twice", |book| {
        either_of_two(book, &[BY_MAPPING, BY_MAPPING]);
    });
    silent("controller-claimed-twice", |book| {
        either_of_two(book, &["hostpci0: mapping=hba\nhostpci1: mapping=hba"]);
    });
    silent("controller-claimed-twice", |book| {
        let mediated = "hostpci0: 0000:00:01.0,mdev=i915-GVTg_V5_4\nonboot: 1";
        mapped(book, &[mediated, mediated], &[]);
    });
    silent("controller-claimed-twice", |book| {
        let template = "hostpci0: 0000:00:1f.2\ntemplate: 1";
        mapped(book, &["hostpci0: 0000:00:1f.2", template, template], &[]);
    });
    silent("controller-claimed-twice", |book| {
        two_vms(book, "1");
        let second = &mut book.facts.vm_configs.as_mut().unwrap().vms[2].sections[0];
        second
            .lines
            .iter_mut()
            .find(|line| line.key == "hostpci0")
            .unwrap()
            .value = "0000:00:01.0".to_owned();
    });
    // A later line of a key takes the place of an earlier one.
    silent("controller-claimed-twice", |book| {
        vm(
            book,
            "machine: q35\nhostpci0: 0000:00:1f.2\nhostpci0: 0000:00:1f.2,pcie=1",
        );
    });
    silent("i440fx-with-pcie", |book| {
        vm(
            book,
            "hostpci0: 0000:00:1f.2,pcie=1\nhostpci0: 0000:00:1f.2",
        );
    });
    silent("no-such-address", |book| {
        vm(
            book,
            "machine: q35\nhostpci0: 00:1e.2,pcie=1\nhostpci0: 00:1f.2,pcie=1",
        );
    });
    // One that Proxmox cannot read does not.
    let unreadable = changed(|book| {
        vm(
            book,
            "hostpci0: 0000:00:1f.2,pcie=1\nhostpci0: 0000:00:1f.2 pcie=0",
        );
    });
    assert_eq!(
        bad(&unreadable),
        BTreeSet::from(["hostpci-unparsable", "i440fx-with-pcie"])
    );
    silent("hostpci-not-migratable", |book| vm(book, "memory: 512"));
    silent("hostpci-not-migratable", |book| {
        let text = "vm\t100\tstopped\nline\thostpci0: mapping=hba\nmapping\thba\n\
                    mapping\t live-migration-capable 1\nend\n";
        book.facts.vm_configs = Some(crate::probe::vm_configs::parse(text).unwrap());
    });
    // A graphics card has no disks.
    silent("passthrough-not-in-backups", |book| {
        vm(book, "hostpci0: 0000:00:03.0")
    });
}

#[test]
fn the_hosts_own_disks() {
    silent("host-boots-from-controller", |book| {
        disk_on_controller(book, &[])
    });
    silent("host-boots-from-controller", |book| {
        vm(book, "memory: 512");
        disk_on_controller(book, &[(UseKind::Root, "/")]);
    });
    silent("disk-in-use-on-host", |book| {
        disk_on_controller(book, &[(UseKind::Root, "/")])
    });
    silent("disk-in-use-on-host", |book| {
        vm(book, "memory: 512");
        disk_on_controller(book, &[(UseKind::Mount, "/srv")]);
    });
    silent("pool-imported-on-host", |book| {
        pulled(book);
        bind(book, "00:1f.2", "ahci");
    });
    silent("disk-in-use-on-host", |book| {
        lost_mount(book);
        bind(book, "00:1f.2", "ahci");
    });
    // A disk was unplugged, and the VM that runs has no controller of disks.
    silent("pool-imported-on-host", |book| {
        pulled(book);
        graphics_card_only(book);
    });
    silent("disk-in-use-on-host", |book| {
        lost_mount(book);
        graphics_card_only(book);
    });
    let along = changed(|book| {
        // The controller went to the VM with the rest of its group.
        lost_mount(book);
        vm(book, "machine: q35\nhostpci0: 0000:00:1f.3,pcie=1");
    });
    assert!(bad(&along).contains("disk-in-use-on-host"));
    silent("pool-imported-on-host", |book| {
        disk_on_controller(book, &[]);
        pool_on(book, "nvme0n1");
    });
    silent("disks-not-controller", |book| {
        vm(book, "boot: order=scsi0\nscsi0: /dev/disk/by-id/ata-X_1");
    });
}
