//! Cases of the VMs' files: what a start applies, mappings, and fixes that leave the rest of a line alone.

use super::guest::{add_card_of_two, call_host, disk_on_controller, identity, mapped, renumber};
use super::*;
use crate::probe::host_storage::UseKind;
use crate::probe::vm_configs::MappedDevice;

const BY_MAPPING: &str = "hostpci0: mapping=hba";

/// What the pci probe has of the controller.
const WHOLE: &str = "id=8086:2922,iommugroup=6,node=node7,path=0000:00:1f.2,subsystem-id=1af4:1100";

/// A mapping with one entry, changed in one place.
fn map(book: &mut FactBook, from: &str, to: &str) {
    assert!(WHOLE.contains(from), "{from}");
    mapped(book, &[BY_MAPPING], &[&WHOLE.replace(from, to)]);
}

fn hardware(book: &mut FactBook) -> &mut MappedDevice {
    &mut book.facts.vm_configs.as_mut().unwrap().mappings[0].devices[0]
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        // A start of the VM applies what is pending.
        error("i440fx-with-pcie", |book| {
            vm(
                book,
                "memory: 512\n\n[PENDING]\nhostpci0: 0000:00:1f.2,pcie=1",
            );
        }),
        error("no-such-address", |book| {
            vm(
                book,
                "hostpci0: 0000:00:1f.2\n\n[PENDING]\nhostpci0: 0000:09:00.0",
            );
        }),
        error("disk-in-use-on-host", |book| {
            disk_on_controller(book, &[(UseKind::Mount, "/srv")]);
            vm(book, "memory: 512\n\n[pending]\nhostpci0: 0000:00:1f.2");
        }),
        error("no-such-address", |book| {
            mapped(book, &["hostpci0: mapping=sas"], &[WHOLE]);
        }),
        error("no-such-address", |book| {
            map(book, "node=node7", "node=node8")
        }),
        error("no-such-address", |book| {
            // A node is named without the domain of its host.
            call_host(book, "node8.example.com");
            map(book, "", "");
        }),
        error("address-renumbered", |book| {
            map(book, "iommugroup=6", "iommugroup=5")
        }),
        error("address-renumbered", |book| map(book, "iommugroup=6,", "")),
        error("address-renumbered", |book| {
            map(book, "subsystem-id=1af4:1100", "subsystem-id=1af4:1101");
        }),
        error("address-renumbered", |book| {
            map(book, ",subsystem-id=1af4:1100", "")
        }),
        error("address-renumbered", |book| {
            // The second of a list is another card.
            add_card_of_two(book);
            device(book, "01:00.0").subsystem_device = "1101".to_owned();
            map(book, "path=0000:00:1f.2", "path=0000:00:1f.2;0000:01:00.0");
        }),
    ]
}

#[test]
fn what_a_start_takes_out_counts_no_more() {
    let deleted = "hostpci0: 0000:00:1f.2,pcie=1\n\n[PENDING]\ndelete: hostpci0\n";
    silent("i440fx-with-pcie", |book| vm(book, deleted));
    silent("hostpci-not-migratable", |book| vm(book, deleted));
    silent("disk-in-use-on-host", |book| {
        disk_on_controller(book, &[(UseKind::Mount, "/srv")]);
        vm(book, deleted);
    });
    silent("controller-claimed-twice", |book| {
        let other = "hostpci0: 0000:00:1f.2\nonboot: 1";
        mapped(book, &[deleted, other], &[]);
    });
    // The machine is changed in the same go.
    silent("i440fx-with-pcie", |book| {
        vm(
            book,
            "[PENDING]\nhostpci0: 0000:00:1f.2,pcie=1\nmachine: q35",
        );
    });
    silent("hostpci-in-snapshot-section", |book| {
        let twice = "[PENDING]\nhostpci0: 00:1f.2\n[before]\nhostpci0: 00:1f.2";
        vm(book, twice);
    });
    let book = changed(|book| vm(book, "[PENDING]\nhostpci0: 0000:00:1f.2,pcie=1"));
    let found = finding(&book, "i440fx-with-pcie");
    assert_eq!(
        found.proof[0].quote,
        "100.conf: [PENDING] hostpci0: 0000:00:1f.2,pcie=1"
    );
}

#[test]
fn mappings() {
    for id in ["address-renumbered", "no-such-address"] {
        silent(id, |book| map(book, "", ""));
        // Records of before do not say what else the file has.
        silent(id, |book| {
            map(book, "iommugroup=6,", "");
            hardware(book).hardware = None;
        });
        // Which node this is, is not known.
        silent(id, |book| {
            map(book, "iommugroup=6", "iommugroup=5");
            book.facts.platform = None;
        });
        silent(id, |book| {
            map(book, "iommugroup=6", "iommugroup=5");
            hardware(book).node = None;
            device(book, "00:1f.2").iommu_group = None;
        });
        // The group is that of the first.
        silent(id, |book| {
            add_card_of_two(book);
            map(book, "path=0000:00:1f.2", "path=0000:00:1f.2;0000:01:00");
        });
    }
    for (from, to, cause) in [
        (
            "iommugroup=6",
            "iommugroup=5",
            "the mapping `hba` says IOMMU group 5 of 0000:00:1f.2, which has 6",
        ),
        (
            ",subsystem-id=1af4:1100",
            "",
            "the mapping `hba` does not say the subsystem id of 0000:00:1f.2, which it has to",
        ),
        // By name, as Proxmox has them.
        (
            "id=8086:2922,iommugroup=6",
            "id=1000:0072,iommugroup=5",
            "the mapping `hba` means a [1000:0072] at 0000:00:1f.2, and another device is there",
        ),
    ] {
        let book = changed(|book| map(book, from, to));
        let found = finding(&book, "address-renumbered");
        assert_eq!(found.cause, cause);
        let line = WHOLE.replace(from, to).replace("node=node7,", "");
        assert_eq!(found.proof[1].quote, format!("pci.cfg: hba: {line}"));
        assert_eq!(found.fix[1], MAP_ANEW);
    }
    let book = changed(|book| map(book, "node=node7", "node=node8"));
    let found = finding(&book, "no-such-address");
    let cause = "VM 100 wants the mapping `hba`, which has no entry for this node, node7";
    assert_eq!(found.cause, cause);
}

const MAP_ANEW: &str = "# make the mapping `hba` anew under Datacenter, Resource Mappings";

/// The fix for a device that was at 01:00.0 and is at 02:00.0.
#[track_caller]
fn moved(lines: &str) -> Vec<String> {
    let book = changed(|book| {
        let earlier = renumber(book);
        run(book).earlier_devices = earlier;
        mapped(
            book,
            &[lines],
            &["id=8086:2922,node=node7,path=0000:01:00.0"],
        );
    });
    finding(&book, "address-renumbered").fix
}

#[test]
fn a_device_that_moved_leaves_the_rest_of_its_line_alone() {
    for (line, fix) in [
        ("0000:01:00.0,pcie=1", "0000:02:00.0,pcie=1"),
        ("0000:01:00.0", "0000:02:00.0"),
        (
            "0000:01:00,pcie=1,rombar=0,romfile=x.bin",
            "0000:02:00,pcie=1,rombar=0,romfile=x.bin",
        ),
        ("rombar=0,host=01:00.0", "rombar=0,host=02:00.0"),
        ("00:1f.2;01:00.0", "'00:1f.2;02:00.0'"),
    ] {
        let fixes = moved(&format!("machine: q35\nhostpci3: {line}"));
        assert_eq!(fixes[0], format!("qm set 100 --hostpci3 {fix}"));
        assert_eq!(fixes.len(), 2);
    }
    // A mapping is not changed into an address.
    assert_eq!(
        moved("hostpci0: mapping=hba,pcie=1\nmachine: q35"),
        [MAP_ANEW]
    );
}

/// Two cards, and a third before them: what is one's old place is the other's new one.
#[test]
fn all_that_moved_is_changed_at_once() {
    let book = changed(|book| {
        for (at, id) in [("02:00.0", "0072"), ("03:00.0", "0097")] {
            add_twin(book, at, "ahci");
            device(book, at).device = id.to_owned();
        }
        vm(book, "hostpci0: 01:00.0;02:00.0,rombar=0");
        run(book).earlier_devices = vec![
            identity(address("01:00.0"), "8086:0072"),
            identity(address("02:00.0"), "8086:0097"),
        ];
    });
    let fix = &finding(&book, "address-renumbered").fix[0];
    assert_eq!(fix, "qm set 100 --hostpci0 '02:00.0;03:00.0,rombar=0'");
}

#[test]
fn an_address_without_a_device_leaves_the_rest_of_its_line_alone() {
    for (line, fix) in [
        ("0000:09:00.0", "0000:BB:DD.F"),
        ("09:00,rombar=0,x-vga=1", "0000:BB:DD,rombar=0,x-vga=1"),
        ("00:1f.2;09:00.0,pcie=0", "'00:1f.2;0000:BB:DD.F,pcie=0'"),
    ] {
        let book = changed(|book| vm(book, &format!("hostpci2: {line}")));
        let found = finding(&book, "no-such-address");
        assert_eq!(found.fix[1], format!("qm set 100 --hostpci2 {fix}"));
    }
    let book = changed(|book| map(book, "path=0000:00:1f.2", "path=0000:09:00.0"));
    assert_eq!(finding(&book, "no-such-address").fix[1], MAP_ANEW);
}

#[test]
fn a_line_that_cannot_be_read_is_written_anew_and_no_other() {
    let good = "hostpci0: 0000:00:1f.2,x-vga=1";
    for (lines, fix) in [
        (
            format!("machine: pc\n{good}\nhostpci1: 0000:00:1f.2 pcie=1"),
            "--hostpci1 0000:BB:DD.F",
        ),
        (
            format!("machine: q35\n{good}\nhostpci1: 0000:00:1f.2 pcie=1"),
            "--hostpci1 0000:BB:DD.F,pcie=1",
        ),
        (
            "hostpci0: 00:1f.2;pcie=1".to_owned(),
            "--hostpci0 0000:BB:DD.F",
        ),
        // Its key holds a device, or is none of Proxmox's.
        (
            format!("{good}\nhostpci0 0000:00:1f.3"),
            "--hostpci1 0000:BB:DD.F",
        ),
        (
            format!("{good}\nhostpci16: 0000:00:1f.3"),
            "--hostpci1 0000:BB:DD.F",
        ),
    ] {
        let book = changed(|book| vm(book, &lines));
        let found = finding(&book, "hostpci-unparsable");
        assert_eq!(found.fix[1], format!("qm set 100 {fix}"), "{lines}");
    }
}

/// Whether anybody wants passthrough is not known where the VMs are not.
#[test]
fn vms_that_could_not_be_read_excuse_nothing() {
    let severity = |lines: Option<&str>| {
        let book = changed(|book| {
            no_iommu(book);
            words(book, "quiet intel_iommu=off");
            match lines {
                Some(lines) => vm(book, lines),
                None => book.facts.vm_configs = None,
            }
        });
        finding(&book, "iommu-off-on-cmdline").severity
    };
    assert_eq!(severity(Some("memory: 512")), Severity::Note);
    assert_eq!(severity(Some("hostpci0: 00:1f.2")), Severity::Error);
    assert_eq!(severity(None), Severity::Error);
}
