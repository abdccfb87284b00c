//! Labs that cannot be built.

use super::super::two_labs;
use super::report;
use crate::lab::{HostSystem, Lab};
use crate::scenario::load::parse;
use crate::scenario::{Labs, labs};

/// Hardware changes while the machine is off; the system on its root disk does not.
#[test]
fn another_system_is_no_rewiring() {
    let lab = two_labs().get("q35-ich9").cloned().unwrap();
    let other = |host| Lab {
        host,
        cpus: 1,
        ..lab.clone()
    };
    let labs: Labs = [
        ("new".to_owned(), lab.clone()),
        ("same".to_owned(), other(HostSystem::Debian13)),
        ("old".to_owned(), other(HostSystem::Debian12)),
    ]
    .into_iter()
    .collect();
    let scenario = |to: &str| {
        let text = format!("summary = \"s\"\nlab = \"new\"\n[[step]]\nrewire = \"{to}\"\n");
        parse("x.toml".as_ref(), &text, &labs)
    };
    assert!(scenario("same").is_ok());
    assert_eq!(
        report(&scenario("old").unwrap_err()),
        ["4:10 this lab's host is debian-12, and the root disk stays, which has debian-13"]
    );
}

#[test]
fn wrong_labs() {
    let check = |source: &str, said: &[&str]| match labs::parse("labs/x.toml".as_ref(), source) {
        Ok(_) => panic!("nothing is wrong with\n{source}"),
        Err(error) => assert_eq!(report(&error), said, "{source}"),
    };
    let lab = |rest: &str| format!("summary = \"s\"\niommu = \"intel\"\n{rest}\n");
    let disk = |serial: &str, wwn: &str| {
        format!("{{ drive = \"exos-x14\", serial = \"{serial}\", wwn = \"{wwn}\" }}")
    };
    let disks = |disks: &[String]| {
        lab(&format!(
            "[[controller]]\nmodel = \"ich9-ahci\"\nslot = \"root-port\"\ndisk = [\n{}\n]",
            disks.join(",\n")
        ))
    };
    const GOOD: &str = "0x5000c50000000001";
    check(
        "summary = \"s\"",
        &["1:1 `iommu` is missing (The IOMMU that the host's firmware shows)"],
    );
    check(
        &lab("memory-mb = 1"),
        &["3:1 unknown key `memory-mb` (did you mean `memory-mib`?)"],
    );
    check(
        &lab("memory-mib = 100"),
        &[
            "3:14 `memory-mib` takes a number from 512 up, not 100 (Memory of the host in MiB, from 512; the NAS guest's memory comes out of it)",
        ],
    );
    check(
        &lab("cpus = 256"),
        &["3:8 `cpus` takes a number from 1 to 255, not 256 (Virtual CPUs of the host)"],
    );
    check(
        &lab("cpus = 0"),
        &["3:8 `cpus` takes a number from 1 to 255, not 0 (Virtual CPUs of the host)"],
    );
    check(
        &disks(&[disk("A,id=x", GOOD)]),
        &["7:32 `A,id=x` is not a serial number: use letters, digits and hyphens"],
    );
    check(
        &disks(&[disk("", GOOD)]),
        &["7:32 `` is not a serial number: use letters, digits and hyphens"],
    );
    check(
        &disks(&[disk("123456789012345678901", GOOD)]),
        &["7:32 `123456789012345678901` has 21 characters; a disk's serial number has at most 20"],
    );
    check(
        &disks(&[disk("A", "5000c50000000001")]),
        &["7:43 `5000c50000000001` is not a WWN: write 0x and sixteen hexadecimal digits"],
    );
    check(
        &disks(&[disk("A", "0x6000c50000000001")]),
        &["7:43 a disk's WWN begins with 5, as in 0x5000c500a1b2c3d4"],
    );
    check(
        &disks(&[disk("A", GOOD), disk("A", GOOD)]),
        &[
            "8:32 another disk has the serial `A` already",
            "8:43 another disk has the WWN 0x5000c50000000001 already",
        ],
    );
    let seven: Vec<String> = (1..=7)
        .map(|n| disk(&format!("S{n}"), &format!("0x5000c5000000000{n}")))
        .collect();
    check(&disks(&seven), &["13:1 this controller has 6 ports"]);
    let chipset = "[[controller]]\nmodel = \"ich9-ahci\"\nslot = \"chipset-sata\"\n";
    check(
        &lab(&chipset.repeat(2)),
        &["8:8 the chipset has one SATA controller, and an earlier entry is that one"],
    );
    check(
        &lab("[[controller]]\nmodel = \"ich9\"\nslot = \"chipset\""),
        &[
            "4:9 `ich9` is not a value of `model` (known here: `ich9-ahci`, `megasas-gen2`, `nvme`)",
            "5:8 `chipset` is not a value of `slot` (known here: `chipset-sata`, `root-port`)",
        ],
    );

    check(
        &lab("interrupt-remapping = true").replace("intel", "virtio"),
        &["3:23 an IOMMU of the kind `virtio` remaps no interrupts"],
    );
    check(
        &lab("host = \"debian-11\""),
        &["3:8 `debian-11` is not a value of `host` (did you mean `debian-12`?)"],
    );
    check(
        &lab(&format!("cards = [{}]", "\"e1000e\", ".repeat(9))),
        &["3:9 a lab has at most eight root ports, its cards' among them"],
    );
    let sas = |rest: &str| lab(&format!("[[controller]]\nmodel = \"megasas-gen2\"\n{rest}"));
    check(
        &sas("slot = \"chipset-sata\"\nboots-host = true\nsecond-function = \"e1000e\""),
        &[
            "5:8 only an `ich9-ahci` sits in the chipset",
            "6:14 the host boots from an `ich9-ahci` only",
            "7:19 only a controller behind a root port has room for a second function",
        ],
    );
    check(
        &sas(&format!(
            "slot = \"root-port\"\ndisk = [{}]",
            disk("A", GOOD)
        )),
        &["6:19 this is a SATA drive, and its controller is SAS"],
    );
    let own = "[[controller]]\nmodel = \"ich9-ahci\"\nslot = \"root-port\"\nboots-host = true\n";
    check(
        &lab(&own.repeat(2)),
        &["10:14 the host boots from an earlier controller already"],
    );
    check(
        &lab(&format!("{own}disk = [\n{}\n]", seven[..6].join(",\n"))),
        &["13:1 beside the host's own disk this controller has 5 ports"],
    );
    check(
        &disks(&[disk("S3YJNX0K500001", GOOD)]),
        &["7:32 this is the serial of the host's own disk"],
    );
    let nvme = |serial: &str| format!("{{ drive = \"980-pro\", serial = \"{serial}\" }}");
    check(
        &lab(&format!(
            "[[controller]]\nmodel = \"nvme\"\nslot = \"root-port\"\nsecond-function = \"e1000e\"\ndisk = [\n{},\n{}\n]",
            nvme("N1"),
            nvme("N2")
        )),
        &[
            "6:19 an NVMe drive has no second function",
            "9:1 an NVMe drive is one disk",
        ],
    );
    check(
        &lab(
            "[[controller]]\nmodel = \"nvme\"\nslot = \"root-port\"\ndisk = [{ drive = \"980-pro\", serial = \"N1\", wwn = \"0x0025380000000001\" }]",
        ),
        &["6:51 an NVMe drive of a lab has no WWN: QEMU can give it none and still save its state"],
    );
    check(
        &disks(&["{ drive = \"exos-x14\", serial = \"AAA\" }".to_owned()]),
        &["7:1 this disk has no WWN: write one, as in wwn = \"0x5000c500a1b2c3d4\""],
    );
}
