use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use super::*;
use crate::probe::text::{on_a_fake_root, run_on_a_fake_root};

/// The user that owns nothing.
const NOBODY: u32 = 65534;

// By hand, after files of Proxmox VE 9.
const HOST: &str = "vm\t100\trunning
line\t#notes%3A secret
line\tagent: 1
line\tcipassword: $5$abc
line\thostpci0: 0000:00:1f.2,pcie=1
line\tmachine: q35
line\tscsi0: local-lvm:vm-100-disk-0,iothread=1
line\t
line\t[before]
line\tagent: 1
line\thostpci0: 0000:00:1f.2,pcie=1
line\tmachine: q35
line\tsnaptime: 1753000000
vm\t101\tstopped
line\tmachine: q35
line\thostpci1: 0000:00:1f.2 pcie=1
mapping\thba
mapping\t\tmap id=1000:0072,iommugroup=12,node=pve,path=0000:01:00.0,subsystem-id=1000:3020
mapping\t\tlive-migration-capable 1
end
";

#[test]
fn sections_are_kept_apart_and_private_lines_left_out() {
    let facts = parse(HOST).unwrap();
    let [first, second] = facts.vms.as_slice() else {
        panic!("{facts:?}")
    };
    assert!(first.running && !second.running);
    let main = first.main().unwrap();
    assert_eq!(main.value("hostpci0"), Some("0000:00:1f.2,pcie=1"));
    assert_eq!(main.numbered("scsi").len(), 1);
    assert!(!serde_json::to_string(&facts).unwrap().contains("secret"));
    assert!(
        !serde_json::to_string(&facts)
            .unwrap()
            .contains("cipassword")
    );
    assert!(first.sections[1].has_snaptime && first.sections[1].out_of_order.is_empty());
    assert_eq!(first.warnings, [""; 0]);

    assert_eq!(
        second.warnings,
        [
            "vm 101 - unable to parse value of 'hostpci1' - invalid key in comma-separated list property: 0000:00:1f.2 pcie"
        ]
    );
    assert_eq!(
        second.sections[0].out_of_order,
        ["hostpci1: 0000:00:1f.2 pcie=1"]
    );

    let mapping = &facts.mappings[0];
    assert_eq!(
        (mapping.name.as_str(), mapping.live_migration),
        ("hba", true)
    );
    let device = &mapping.devices[0];
    assert_eq!(device.id.as_deref(), Some("1000:0072"));
    let hardware = device.hardware.as_ref().unwrap();
    assert_eq!(hardware.iommu_group.as_deref(), Some("12"));
    assert_eq!(hardware.subsystem_id.as_deref(), Some("1000:3020"));
}

/// A VM's file, line for line.
fn file(text: &str) -> VmConfigFile {
    VmConfigFile {
        vmid: 100,
        running: true,
        sections: sections(text),
        warnings: Vec::new(),
    }
}

#[test]
fn a_start_applies_what_is_pending() {
    let file = file(
        "boot: order=scsi0\nhostpci0: 01:00.0\nhostpci1: 02:00.0\nhostpci2: 03:00.0\nmachine: pc\n\n\
         [PENDING]\ncipassword: secret\ndelete: !boot,hostpci0 cores\nhostpci1: 02:00\n\
         hostpci2: 03:00 pcie=1\nhostpci3: 04:00.0\nmachine: q35\n\n\
         [before]\nhostpci4: 05:00.0\nsnaptime: 1753000000\n",
    );
    let seen: Vec<String> = file
        .numbered("hostpci")
        .iter()
        .map(|line| format!("{}: {}", line.key, line.value))
        .collect();
    // What cannot be read is dropped, and takes the place of nothing.
    assert_eq!(
        seen,
        [
            "hostpci2: 03:00.0",
            "hostpci1: 02:00",
            "hostpci2: 03:00 pcie=1",
            "hostpci3: 04:00.0"
        ]
    );
    assert_eq!(
        (file.value("machine"), file.value("boot")),
        (Some("q35"), None)
    );
    assert_eq!(file.main().unwrap().value("machine"), Some("pc"));
    assert!(
        file.sections
            .iter()
            .all(|one| one.value("cipassword").is_none())
    );
}

#[test]
fn a_later_line_takes_the_place_of_an_earlier_one() {
    let lines = [
        "hostpci0: 00:1f.2",
        "scsi0: a:0",
        "hostpci1: 01:00.0",
        "hostpci0: 02:00.0",
        "hostpci1: 01:00.0 pcie=1",
        "scsi0: b:0",
    ];
    let section = &sections(&lines.join("\n"))[0];
    let shown = |name: &str| -> Vec<String> {
        let lines = section.numbered(name).into_iter();
        lines
            .map(|line| format!("{}: {}", line.key, line.value))
            .collect()
    };
    // What cannot be read is none that could.
    assert_eq!(shown("hostpci"), [lines[2], lines[3], lines[4]]);
    assert_eq!(shown("scsi"), [lines[5]]);
}

#[test]
fn a_number_that_proxmox_does_not_know_gives_no_device() {
    let section =
        &sections("hostpci15: 00:1f.2\nhostpci16: 01:00.0\nscsi30: a:0\nscsi030: b:0\n")[0];
    let keys: Vec<_> = section.lines.iter().map(|line| line.key.as_str()).collect();
    assert_eq!(keys, ["hostpci15", "scsi30"]);
}

#[test]
fn addresses_may_be_short() {
    let address = "0000:00:1f.2".parse().unwrap();
    for (prefix, is) in [
        ("0000:00:1f.2", true),
        ("00:1f.2", true),
        ("00:1F.2", true),
        ("00:1f", true),
        ("0000:00:1f", true),
        ("00:1", false),
        ("00:1f.0", false),
        ("0001:00:1f.2", false),
    ] {
        assert_eq!(names(prefix, address), is, "{prefix}");
    }
}

/// A host of one VM that runs.
fn fake_host() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let pid = format!("{}\n", std::process::id());
    for (path, content) in [
        ("etc/pve/qemu-server/100.conf", "machine: q35\nmemory: 512"),
        ("etc/pve/qemu-server/101.conf", "memory: 1024\n"),
        ("etc/pve/mapping/pci.cfg", "hba\n"),
        ("run/qemu-server/100.pid", pid.as_str()),
    ] {
        write(root.path(), path, content);
    }
    root
}

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn files_that_proxmox_passes_over_are_passed_over() {
    let root = fake_host();
    for name in ["100-old", "old", "0102", "102.conf.bak", "", "*"] {
        let path = format!("etc/pve/qemu-server/{name}.conf");
        write(root.path(), &path, "memory: 1\n");
    }
    let facts = parse(&run_on_a_fake_root("sh", SCRIPT, root.path())).unwrap();
    let seen: Vec<_> = facts.vms.iter().map(|vm| (vm.vmid, vm.running)).collect();
    assert_eq!(seen, [(100, true), (101, false)]);
    assert_eq!(facts.vms[0].value("memory"), Some("512"));
    assert_eq!(facts.mappings.len(), 1);
}

#[test]
fn no_vms_are_vms_that_were_looked_for() {
    let root = fake_host();
    let folder = root.path().join("etc/pve/qemu-server");
    for file in fs::read_dir(&folder).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    let facts = parse(&run_on_a_fake_root("sh", SCRIPT, root.path())).unwrap();
    assert_eq!(facts.vms, []);
    // The cluster's file system is not mounted.
    fs::remove_dir(&folder).unwrap();
    let output = on_a_fake_root("sh", SCRIPT, root.path()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("etc/pve/qemu-server"), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_no_vm_without_devices() {
    for name in ["qemu-server/101.conf", "mapping/pci.cfg"] {
        let root = fake_host();
        let file = root.path().join("etc/pve").join(name);
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o000)).unwrap();
        let mut command = on_a_fake_root("sh", SCRIPT, root.path());
        if fs::read(&file).is_ok() {
            // Root may read everything.
            command.uid(NOBODY);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8_lossy(&output.stderr);
        let says = format!("{name} cannot be read: only root may\n");
        assert!(error.ends_with(&says), "{error}");
    }
}

#[test]
fn what_is_not_known_is_refused() {
    for (output, says) in [
        ("", "no output"),
        ("vm\t100\trunning\n", "breaks off"),
        ("vm\tx\trunning\nend\n", "no number"),
        ("line\tmachine: q35\nend\n", "no VM was named"),
        ("vms\t100\nend\n", "`vms`"),
    ] {
        let error = parse(output).unwrap_err().to_string();
        assert!(error.contains(says), "{output:?}: {error}");
    }
    assert!(parse("end\n").unwrap().vms.is_empty());
}
