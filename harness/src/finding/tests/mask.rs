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

/// A book of a host of this name, whose volumes, pools and messages have it too.
fn named(host: &str) -> FactBook {
    changed(|book| {
        book.facts.platform.as_mut().unwrap().host_name = host.to_owned();
        let label = host.split('.').next().unwrap();
        let mapped = label.replace('-', "--");
        let root = format!("quiet intel_iommu=on iommu=pt root=/dev/mapper/{mapped}--vg-root");
        words(book, &root);
        let storage = book.facts.host_storage.as_mut().unwrap();
        storage
            .lost_mounts
            .push(format!("/dev/{label}-vg/srv on /srv/{label}"));
        run(book)
            .console
            .push(format!("{host} login: towering {label}."));
    })
}

#[test]
fn a_hosts_name_is_gone_from_other_texts() {
    for (host, shown) in [
        ("tower", "HOST-1"),
        ("my-tower", "HOST-1"),
        ("tower.home.arpa", "HOST-1.DOMAIN"),
    ] {
        let book = named(host);
        let masked = mask(&book).unwrap();
        let console = &masked.run.as_ref().unwrap().console;
        assert_eq!(*console, [format!("{shown} login: towering HOST-1.")]);
        let storage = masked.facts.host_storage.as_ref().unwrap();
        assert_eq!(storage.lost_mounts, ["/dev/HOST-1-vg/srv on /srv/HOST-1"]);
        let words = &masked.facts.cmdline.as_ref().unwrap().words;
        assert_eq!(words[3], "root=/dev/mapper/HOST-1--vg-root");
        assert_eq!(mask(&masked).unwrap(), masked);
        for name in ["\"tower", "my-", "home.arpa", "tower.", "tower-", "/tower"] {
            assert!(!masked.to_json().contains(name), "{host}: {name}");
        }
    }
}

/// A short name stays where it may be another word, one that installers give stays everywhere.
#[test]
fn a_name_that_names_nobody_stays() {
    let masked = mask(&named("nas")).unwrap();
    let storage = masked.facts.host_storage.as_ref().unwrap();
    assert_eq!(storage.lost_mounts, ["/dev/HOST-1-vg/srv on /srv/nas"]);
    let words = &masked.facts.cmdline.as_ref().unwrap().words;
    assert_eq!(words[3], "root=/dev/mapper/HOST-1--vg-root");
    let masked = mask(&named("pve.home.arpa")).unwrap();
    assert_eq!(masked.facts.platform.unwrap().host_name, "pve.DOMAIN");
    let words = &masked.facts.cmdline.as_ref().unwrap().words;
    assert_eq!(words[3], "root=/dev/mapper/pve--vg-root");
}

/// Neither the document's own words nor those that a rule looks for are taken for the host's name.
#[test]
fn a_name_that_is_a_word_of_the_facts_does_no_harm() {
    for host in ["root", "intel", "vfio", "iommu", "ahci", "running", "facts"] {
        let book = named(host);
        let masked = mask(&book).unwrap();
        let ids = |book: &FactBook| derive(book).iter().map(|one| one.id).collect::<Vec<_>>();
        assert_eq!(ids(&masked), ids(&book), "{host}");
        assert_eq!(masked.facts.platform.unwrap().host_name, "HOST-1");
    }
}

#[test]
fn a_disk_that_no_probe_saw_is_masked_by_its_name() {
    let book = changed(|book| {
        vm(
            book,
            "hostpci0: 0000:00:1f.2,pcie=1\n\
             scsi1: /dev/disk/by-id/wwn-0x5000c500aaaaaaaa,size=1\n\
             scsi2: /dev/disk/by-id/scsi-35000c500aaaaaaaa\n\
             scsi3: /dev/disk/by-id/nvme-eui.0025385bbbbbbbbb\n\
             scsi4: /dev/disk/by-id/nvme-nvme.1b36-6162-63-00000001\n\
             scsi5: /dev/disk/by-id/nvme-Samsung_SSD_980_S5GXCCCCCC_1\n\
             scsi6: /dev/disk/by-id/usb-SanDisk_Ultra_4C53DDDDDD-0:0\n\
             args: -a /dev/disk/by-id/ata-A_EEEEEE1 -b '/dev/disk/by-id/ata-B_EEEEEE2'",
        );
        let pool = |missing: &[&str]| crate::probe::host_storage::HostPool {
            name: "tank".to_owned(),
            health: "ONLINE".to_owned(),
            disks: vec!["vda".to_owned()],
            missing: missing.iter().map(|one| (*one).to_owned()).collect(),
            import_unit: None,
        };
        book.facts.host_storage.as_mut().unwrap().pools = Some(vec![pool(&[
            "disk/by-id/ata-ST12000NM0008-2H3101_ZTMFFFFF-part1",
            "disk/by-id/wwn-0x5000c500aaaaaaaa-part1",
            "mapper/luks-6d1c2f0e-31d5-4b57-9a5e-5f0a1c9b7e01",
        ])]);
        // It is told before the pool is.
        words(book, "quiet intel_iommu=on iommu=pt disk=ZTMFFFFF");
    });
    let masked = mask(&book).unwrap();
    let json = masked.to_json();
    for name in [
        "aaaaaaaa", "bbbbbbbb", "6162", "CCCCCC", "DDDDDD", "EEEEEE", "FFFFF", "6d1c2f0e",
    ] {
        assert!(!json.contains(name), "{name}: {json}");
    }
    let storage = masked.facts.host_storage.as_ref().unwrap();
    let missing = &storage.pools.as_ref().unwrap()[0].missing;
    let lines = &masked.facts.vm_configs.as_ref().unwrap().vms[0].sections[0];
    let wwn = lines.value("scsi1").unwrap().strip_suffix(",size=1");
    let wwn = wwn.unwrap().strip_prefix("/dev/disk/by-id/wwn-").unwrap();
    assert_eq!(missing[1], format!("disk/by-id/wwn-{wwn}-part1"));
    assert_eq!(
        lines.value("scsi2").unwrap(),
        format!("/dev/disk/by-id/scsi-3{wwn}")
    );
    let words = &masked.facts.cmdline.as_ref().unwrap().words;
    let serial = words[3].strip_prefix("disk=").unwrap();
    assert_eq!(
        missing[0],
        format!("disk/by-id/ata-ST12000NM0008-2H3101_{serial}-part1")
    );
    assert_eq!(mask(&masked).unwrap(), masked);
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
