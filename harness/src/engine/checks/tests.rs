use super::*;
use crate::lab::{Controller, ControllerModel, Drive, Firmware, HostSystem, Slot, Wwn};
use crate::probe::disks::BlockDevice;
use crate::probe::iommu::{IommuFacts, IommuGroup, IommuUnit};
use crate::probe::pci::PciFacts;
use crate::probe::smart::SmartFacts;

const SERIALS: [&str; 2] = ["ZTM09FD7", "ZTM093QT"];

fn lab() -> Lab {
    let disk = |(number, serial): (usize, &str)| Disk {
        drive: Drive::ExosX14,
        serial: serial.to_owned(),
        wwn: Some(Wwn(0x5000_c500_0000_0000 + number as u64)),
    };
    Lab {
        summary: String::new(),
        iommu: Iommu::Intel,
        interrupt_remapping: true,
        firmware: Firmware::Bios,
        host: HostSystem::default(),
        cpus: 2,
        memory_mib: 3072,
        cards: Vec::new(),
        controllers: vec![Controller {
            model: ControllerModel::Ich9Ahci,
            slot: Slot::ChipsetSata,
            second_function: None,
            boots_host: false,
            disks: SERIALS.into_iter().enumerate().map(disk).collect(),
        }],
    }
}

/// What the three tools say of disks with these serials and WWNs, beside the boot disk.
fn seen(disks: &[(&str, u64)]) -> FactMap {
    let data = Drive::ExosX14.data();
    let block = |serial: &str, wwn: u64| BlockDevice {
        name: "sdb".to_owned(),
        size: data.bytes,
        model: Some(data.model.to_owned()),
        serial: Some(serial.to_owned()),
        wwn: Some(format!("0x{wwn:016x}")),
        rotational: true,
        transport: Some("sata".to_owned()),
        physical_sector: 4096,
        logical_sector: 512,
        holds_root: false,
    };
    let mut blocks: Vec<BlockDevice> = disks.iter().map(|(s, w)| block(s, *w)).collect();
    blocks.push(BlockDevice {
        model: Some("QEMU HARDDISK".to_owned()),
        serial: None,
        wwn: None,
        holds_root: true,
        ..block("", 0)
    });
    let query = serde_json::Value::from(
        disks
            .iter()
            .map(|(serial, wwn)| {
                serde_json::json!({
                    "identifier": format!("{{serial_lunid}}{serial}_{wwn:016x}"),
                    "name": "sdb", "serial": serial, "lunid": format!("{wwn:016x}"),
                    "size": data.bytes, "model": data.model, "type": "HDD",
                    "rotationrate": data.rotation_rpm, "bus": "ATA",
                })
            })
            .collect::<Vec<_>>(),
    );
    let smart = disks
        .iter()
        .map(|(serial, wwn)| {
            serde_json::from_value(serde_json::json!({
                "device": "/dev/sdb", "protocol": "ata", "family": data.family,
                "model": data.model, "serial": serial, "wwn": format!("0x{wwn:016x}"),
                "firmware": data.firmware, "bytes": data.bytes, "logical-sector": 512,
                "physical-sector": 4096, "rotation-rate": data.rotation_rpm,
                "available": true, "enabled": true, "passed": true, "attributes": [],
                "logged-errors": 0, "self-tests": 0, "critical-warning": null,
                "exit-status": 0,
            }))
            .unwrap()
        })
        .collect();
    BTreeMap::from([
        (
            Probe::NasDisks,
            Facts::NasDisks(DiskFacts { disks: blocks }),
        ),
        (
            Probe::DiskQuery,
            Facts::DiskQuery(crate::probe::disk_query::parse(&query.to_string()).unwrap()),
        ),
        (Probe::Smart, Facts::Smart(SmartFacts { disks: smart })),
    ])
}

fn nas(disks: &[&str]) -> Expect {
    Expect {
        nas: Some(ExpectNas {
            disks: Some(disks.iter().map(|serial| (*serial).to_owned()).collect()),
            smart: Some(SmartVerdict::Passed),
            family: Some("Seagate Exos X14".to_owned()),
            boot_disk: Some("QEMU HARDDISK".to_owned()),
            ..ExpectNas::default()
        }),
        ..Expect::default()
    }
}

const FIRST: u64 = 0x5000_c500_0000_0000;

#[test]
fn the_disks_that_the_lab_gave_hold_by_three_ways() {
    let facts = seen(&[(SERIALS[0], FIRST), (SERIALS[1], FIRST + 1)]);
    let held = judge(&nas(&SERIALS), &lab(), &facts, None).unwrap();
    let disks = held.iter().filter(|one| one.check == "nas.disks").count();
    assert_eq!((disks, held.len()), (3, 6), "{held:?}");
}

#[test]
fn exchanged_serials_a_missing_disk_and_a_strange_one_do_not_hold() {
    for disks in [
        &[(SERIALS[1], FIRST), (SERIALS[0], FIRST + 1)][..],
        &[(SERIALS[0], FIRST)],
        &[
            (SERIALS[0], FIRST),
            (SERIALS[1], FIRST + 1),
            ("STRANGE", FIRST + 2),
        ],
    ] {
        let failure = judge(&nas(&SERIALS), &lab(), &seen(disks), None).unwrap_err();
        assert_eq!(failure.check.as_deref(), Some("nas.disks"), "{disks:?}");
    }
}

#[test]
fn one_tool_that_says_otherwise_is_enough() {
    let good = [(SERIALS[0], FIRST), (SERIALS[1], FIRST + 1)];
    for probe in [Probe::NasDisks, Probe::DiskQuery, Probe::Smart] {
        let mut facts = seen(&good);
        let mut other = seen(&[(SERIALS[0], FIRST), (SERIALS[1], FIRST + 7)]);
        facts.extend(other.remove_entry(&probe));
        let failure = judge(&nas(&SERIALS), &lab(), &facts, None).unwrap_err();
        assert_eq!(failure.check.as_deref(), Some("nas.disks"), "{probe}");
    }
}

#[test]
fn no_smart_verdict_is_not_a_good_one() {
    let mut facts = seen(&[(SERIALS[0], FIRST), (SERIALS[1], FIRST + 1)]);
    if let Some(Facts::Smart(smart)) = facts.get_mut(&Probe::Smart) {
        smart.disks[0].passed = None;
    }
    let failure = judge(&nas(&SERIALS), &lab(), &facts, None).unwrap_err();
    assert_eq!(failure.check.as_deref(), Some("nas.smart"));
}

#[test]
fn an_expectation_of_no_disk_fails_on_any() {
    let facts = seen(&[(SERIALS[0], FIRST), (SERIALS[1], FIRST + 1)]);
    let failure = judge(&nas(&[]), &lab(), &facts, None).unwrap_err();
    assert_eq!(failure.check.as_deref(), Some("nas.disks"));
}

#[test]
fn a_device_that_is_not_there_is_not_one_without_a_group() {
    let expect = Expect {
        pve: Some(ExpectPve {
            iommu_group: Some(BTreeMap::from([("01:00.0".parse().unwrap(), Vec::new())])),
            ..ExpectPve::default()
        }),
        ..Expect::default()
    };
    assert!(needs(&expect).contains(&Probe::Pci));
    let (units, groups, devices) = (Vec::new(), Vec::new(), Vec::new());
    let facts = BTreeMap::from([
        (Probe::Iommu, Facts::Iommu(IommuFacts { units, groups })),
        (Probe::Pci, Facts::Pci(PciFacts { devices })),
    ]);
    let failure = judge(&expect, &lab(), &facts, None).unwrap_err();
    assert_eq!(failure.check.as_deref(), Some("pve.iommu-group"));
    assert_eq!(failure.seen.as_deref(), Some("no such device"));
}

#[test]
fn an_iommu_needs_groups_and_no_iommu_has_none() {
    let unit = || IommuUnit {
        name: "dmar0".to_owned(),
        kind: Iommu::Intel,
    };
    let group = || IommuGroup {
        id: 0,
        domain: None,
        members: vec!["00:1f.2".parse().unwrap()],
        other_members: Vec::new(),
    };
    let judged = |kind, units, groups| {
        let facts = BTreeMap::from([(Probe::Iommu, Facts::Iommu(IommuFacts { units, groups }))]);
        let pve = ExpectPve {
            iommu: Some(kind),
            ..ExpectPve::default()
        };
        let expect = Expect {
            pve: Some(pve),
            ..Expect::default()
        };
        judge(&expect, &lab(), &facts, None).is_ok()
    };
    assert!(judged(Iommu::Intel, vec![unit()], vec![group()]));
    assert!(judged(Iommu::None, vec![], vec![]));
    assert!(!judged(Iommu::Intel, vec![unit()], vec![]));
    assert!(!judged(Iommu::Intel, vec![], vec![]));
    assert!(!judged(Iommu::None, vec![unit()], vec![group()]));
}

#[test]
fn a_pool_is_held_to_its_state_and_its_errors() {
    let pool = serde_json::from_value(serde_json::json!({
        "name": "tank", "state": "DEGRADED", "status": null, "scan": null, "data-errors": 1,
        "vdevs": [{
            "name": "raidz1-0", "kind": "raidz", "state": "DEGRADED", "read-errors": 3,
            "write-errors": 0, "checksum-errors": 0,
        }],
    }));
    let pools = vec![pool.unwrap()];
    let facts = BTreeMap::from([(
        Probe::Pool,
        Facts::Pool(crate::probe::pool::PoolFacts {
            pools,
            ..Default::default()
        }),
    )]);
    for (pool, holds) in [
        (r#"state = "DEGRADED", errors = 4"#, true),
        (
            r#"state = "DEGRADED", min-errors = 4, vdev = "raidz""#,
            true,
        ),
        (
            r#"state = "DEGRADED", min-errors = 0, data-errors = 1"#,
            true,
        ),
        (r#"state = "DEGRADED", min-errors = 5"#, false),
        (
            r#"state = "DEGRADED", min-errors = 1, data-errors = 0"#,
            false,
        ),
        (r#"state = "DEGRADED""#, false),
        (r#"state = "ONLINE", errors = 4"#, false),
        (r#"state = "DEGRADED", errors = 4, vdev = "mirror""#, false),
    ] {
        let text = format!(r#"nas.pool = {{ name = "tank", {pool} }}"#);
        let expect: Expect = toml::from_str(&text).unwrap();
        assert_eq!(
            judge(&expect, &lab(), &facts, None).is_ok(),
            holds,
            "{pool}"
        );
    }
    let other: Expect =
        toml::from_str(r#"nas.pool = { name = "pond", state = "DEGRADED", errors = 4 }"#).unwrap();
    assert!(judge(&other, &lab(), &facts, None).is_err());
}

#[test]
fn facts_that_were_not_read_are_a_failure_and_not_a_pass() {
    let failure = judge(&nas(&SERIALS), &lab(), &FactMap::new(), None).unwrap_err();
    assert_eq!(failure.check.as_deref(), Some("facts"));
}
