//! A masked book names nobody and proves the same.

use super::*;
use crate::finding::mask;

#[test]
fn what_names_somebody_is_gone() {
    let book = changed(|book| {
        vm(
            book,
            "machine: q35\nhostpci0: 0000:00:1f.2,pcie=1\n\
             scsi1: /dev/disk/by-id/ata-ST12000NM0008-2H3101_ZTM09FD7,size=1\n\
             scsi2: /dev/disk/by-id/ata-WDC_WD40EFRX-68N_WD-WCC7K0000001\n\
             args: -netdev a,ip=192.168.1.7 -device b,mac=BC:24:11:AB:CD:EF",
        );
        words(
            book,
            "root=UUID=6d1c2f0e-31d5-4b57-9a5e-5f0a1c9b7e01 ip=fd00:1:2:3:4:5:6:7 intel_iommu=on iommu=pt",
        );
    });
    let masked = mask(&book).unwrap().to_json();
    for name in [
        "ZTM09FD7",
        "ZLM2BF4E",
        "5000c500",
        "WCC7K0000001",
        "6d1c2f0e",
        "192.168.1.7",
        "BC:24:11",
        "fd00:1",
        "node7",
        "pve-system",
    ] {
        assert!(
            book.to_json().contains(name),
            "{name} was not there to be masked"
        );
        assert!(!masked.contains(name), "{name}");
    }
    for kept in [
        "0000:00:1f.2",
        "ST12000NM0008-2H3101",
        "QEMU HARDDISK",
        "drive-scsi0",
        "6.12.117+deb13-amd64",
    ] {
        assert!(masked.contains(kept), "{kept}");
    }
}

/// The disks have one name each in all that was read of them.
#[test]
fn what_was_equal_stays_equal() {
    let masked = mask(&healthy()).unwrap();
    let smart = masked.facts.smart.unwrap();
    let query = masked.facts.disk_query.unwrap();
    let lsblk = masked.facts.nas_disks.unwrap();
    let (mut disks, mut queried) = (0, 0);
    for disk in &smart.disks {
        let serial = disk.serial.as_deref().unwrap_or_default();
        let seen = lsblk.by_serial(serial);
        let Some(seen) = seen.filter(|seen| seen.wwn.is_some()) else {
            continue;
        };
        assert!(serial.starts_with("SERIAL-"), "{serial}");
        queried += usize::from(query.by_serial(serial).is_some());
        assert!(seen.wwn.as_deref().unwrap().starts_with("SERIAL-"));
        disks += 1;
    }
    // The middleware's sample has one of them.
    assert_eq!((disks, queried), (3, 1));
    let cmdline = masked.facts.cmdline.unwrap().words;
    let entry = &masked.facts.host_config.unwrap().grub_entries[0];
    assert!(cmdline[0].starts_with("root=UUID=UUID-"), "{}", cmdline[0]);
    assert_eq!(cmdline[0], entry[0]);
}

#[test]
fn a_masked_book_proves_the_same() {
    for Case { id, book, .. } in cases() {
        let names = |book: &FactBook| -> Vec<(Severity, &str)> {
            derive(book)
                .iter()
                .map(|one| (one.severity, one.id))
                .collect()
        };
        let masked = mask(&book).unwrap();
        assert_eq!(names(&masked), names(&book), "{id}");
        assert_eq!(mask(&masked).unwrap(), masked, "{id}");
    }
}
