//! Whole command lines on a host that is not there.

use std::fs;

use super::testing::Node;

const NAS: &str = "agent: 1\nhostpci0: 0000:00:1f.2,pcie=1\nmachine: q35\nmemory: 2048\nname: nas\nvga: serial0\n";

#[test]
fn start_binds_the_controller_and_stop_leaves_it_there() {
    let node = Node::with(&[(100, NAS)]);
    node.check("status 100", 0, "status: stopped\n", "");
    node.check("start 100", 0, "", "");
    for id in ["0000:00:1f.0", "0000:00:1f.2", "0000:00:1f.3"] {
        assert_eq!(node.fake.driver(id).as_deref(), Some("vfio-pci"), "{id}");
    }
    let argv = fs::read_to_string(node.fake.root().join("argv")).unwrap();
    assert!(
        argv.contains("vfio-pci,host=0000:00:1f.2,id=hostpci0,bus=ich9-pcie-port-1,addr=0x0"),
        "{argv}"
    );
    let reservations = node.host.run.join("pci-id-reservations");
    assert_eq!(
        fs::read_to_string(&reservations).unwrap(),
        "0000:00:1f.2 100 pid:4711\n"
    );
    node.check("start 100", 255, "", "VM 100 already running\n");

    // QEMU is gone by the time that its answer would come.
    fs::remove_dir_all(node.host.proc.join("4711")).unwrap();
    node.check("stop 100", 0, "", "");
    assert_eq!(
        node.fake.driver("0000:00:1f.2").as_deref(),
        Some("vfio-pci")
    );
}

#[test]
fn start_that_fails() {
    let node = Node::with(&[
        (100, NAS),
        (101, NAS),
        (102, "lock: backup\n"),
        (103, "template: 1\n"),
    ]);
    node.check("start 99", 255, "", "400 Parameter verification failed.\nvmid: invalid format - value does not look like a valid VM ID\n\nUSAGE: qm start <vmid> [OPTIONS]\n");
    node.check(
        "start 109",
        2,
        "",
        "Configuration file 'nodes/pve/qemu-server/109.conf' does not exist\n",
    );
    node.check("start 102", 255, "", "VM is locked (backup)\n");
    node.check(
        "start 103",
        255,
        "",
        "you can't start a vm if it's a template\n",
    );

    let fails = node.fake.root().join("qemu-fails");
    fs::write(&fails, "").unwrap();
    node.check(
        "start 100",
        255,
        "",
        "start failed: QEMU exited with code 1\n",
    );
    assert_eq!(
        fs::read_to_string(node.host.run.join("pci-id-reservations")).unwrap(),
        ""
    );
    fs::remove_file(fails).unwrap();

    node.check("start 100", 0, "", "");
    node.check(
        "start 101",
        255,
        "",
        "PCI device '0000:00:1f.2' already in use by VMID '100'\n",
    );
}

#[test]
fn start_that_hangs_is_given_up() {
    let node = Node::with(&[(100, "memory: 128\n")]);
    fs::write(node.fake.root().join("qemu-hangs"), "").unwrap();
    let outcome = node.qm("start 100 --timeout 0");
    assert_eq!(outcome.code, 255);
    assert!(
        outcome
            .errors
            .starts_with("start failed: command '/usr/bin/qemu-system-x86_64 -name "),
        "{outcome:?}"
    );
    assert!(
        outcome.errors.ends_with("' failed: got timeout\n"),
        "{outcome:?}"
    );
}

#[test]
fn passthrough_refusals() {
    let node = Node::with(&[
        (100, NAS),
        (101, "hostpci0: 0000:00:1f.2,pcie=1\n"),
        (102, "hostpci0: 0000:00:1e.2\n"),
        (103, "hostpci0: 0000:00:1f.2 pcie=1\nmachine: q35\n"),
        (104, "hostpci0: 00:1f.2\nhostpci1: 00:1f.2\n"),
    ]);
    node.check("start 101", 255, "", "q35 machine model is not enabled\n");
    node.check(
        "start 102",
        255,
        "",
        "no PCI device found for '0000:00:1e.2'\n",
    );
    node.check(
        "start 104",
        255,
        "",
        "device '0000:00:1f.2' assigned more than once\n",
    );
    // The trap: what does not parse is dropped, and the VM starts without its controller.
    node.check(
        "start 103",
        0,
        "",
        "vm 103 - unable to parse value of 'hostpci0' - invalid key in comma-separated list property: 0000:00:1f.2 pcie\n",
    );
    let argv = fs::read_to_string(node.fake.root().join("argv")).unwrap();
    assert!(!argv.contains("vfio-pci"), "{argv}");

    node.fake.remove_iommu();
    node.check(
        "start 100",
        255,
        "",
        "cannot prepare PCI pass-through, IOMMU not present\n",
    );
}

#[test]
fn lines_that_do_not_count_and_drivers_that_stay() {
    let node = Node::with(&[
        (
            100,
            "machine: q35\n\n[before]\nhostpci0: 0000:00:1f.2,pcie=1\n",
        ),
        (
            101,
            "machine: q35\nhostpci0: 0000:00:1f.2,pcie=1,driver=keep\n",
        ),
    ]);
    let argv = || fs::read_to_string(node.fake.root().join("argv")).unwrap();
    // A line below a snapshot's name is the snapshot's, and nothing is said of it.
    node.check("start 100", 0, "", "");
    assert!(!argv().contains("vfio-pci"));
    // QEMU gets the device with whatever driver it and its group have.
    node.check("start 101", 0, "", "");
    assert!(argv().contains("vfio-pci,host=0000:00:1f.2"));
    assert_eq!(node.fake.driver("0000:00:1f.2").as_deref(), Some("ahci"));
}

#[test]
fn kvm_is_loaded_or_missed() {
    let node = Node::with(&[(100, "memory: 128\n"), (101, "kvm: 0\n")]);
    fs::remove_file(node.host.dev.join("kvm")).unwrap();
    node.check(
        "start 100",
        255,
        "",
        "KVM virtualisation configured, but not available. Either disable in VM configuration or enable in BIOS.\n",
    );
    assert_eq!(*node.fake.loaded(), ["kvm_amd"]);
    node.check("start 101", 0, "", "");
}

#[test]
fn pending_changes_are_applied_at_the_start() {
    let node = Node::with(&[(
        100,
        "cores: 1\n\n[PENDING]\ncores: 2\ndelete: name\n\n[snap]\ncores: 1\n",
    )]);
    node.check("config 100", 0, "cores: 2\n", "");
    node.check("config 100 --current", 0, "cores: 1\n", "");
    node.check("config 100 --snapshot snap", 0, "cores: 1\n", "");
    node.check(
        "config 100 --snapshot other",
        255,
        "",
        "snapshot 'other' does not exist\n",
    );
    node.check("start 100", 0, "", "");
    assert_eq!(node.config(100), "cores: 2\n\n[snap]\ncores: 1\n");
}

#[test]
fn set_checks_everything_before_it_writes() {
    let node = Node::with(&[(
        100,
        "#The NAS\ncores: 1\nnet0: virtio\n\n[snap]\ncores: 1\n",
    )]);
    node.check(
        "set 100 --cores 2 --hostpci0 0000:00:1f.2,pcie=1 --delete net0",
        0,
        "update VM 100: -cores 2\nupdate VM 100: -hostpci0 0000:00:1f.2,pcie=1\n",
        "",
    );
    let text = "#The NAS\ncores: 2\nhostpci0: 0000:00:1f.2,pcie=1\n\n[snap]\ncores: 1\n";
    assert_eq!(node.config(100), text);
    node.check(
        "set 100 --cores two --hostpci0 0000:00:1F.2 --bios openbios --memory 1024",
        255,
        "",
        "400 Parameter verification failed.\nbios: value 'openbios' does not have a value in the enumeration \
         'seabios, ovmf'\ncores: type check ('integer') failed - got 'two'\nhostpci0: invalid format - format error\n\
         host: value does not match the regex pattern\n",
    );
    assert_eq!(node.config(100), text);
    node.check(
        "set 100 --delete net0",
        0,
        "",
        "cannot delete 'net0' - not set in current configuration!\n",
    );
    node.check("set 100", 255, "", "no options specified\n");

    node.pretend_running(100, 4711);
    node.check(
        "set 100 --cores 4 --name nas --delete hostpci0",
        0,
        "update VM 100: -cores 4\nupdate VM 100: -name nas\n",
        "",
    );
    assert_eq!(
        node.config(100),
        "#The NAS\ncores: 2\nhostpci0: 0000:00:1f.2,pcie=1\nname: nas\n\n[PENDING]\ncores: 4\ndelete: hostpci0\n\n\
         [snap]\ncores: 1\n"
    );
    node.check("set 100 --revert cores", 0, "", "");
    node.check(
        "config 100",
        0,
        "cores: 2\ndescription: The NAS\nname: nas\n",
        "",
    );
}

#[test]
fn a_table_of_vms() {
    let node = Node::with(&[
        (100, "name: nas\nscsi0: /x,size=32G\nmemory: 2048\n"),
        (9000, ""),
    ]);
    node.pretend_running(100, 4711);
    node.check(
        "list",
        0,
        "      VMID NAME                 STATUS     MEM(MB)    BOOTDISK(GB) PID       \n\
         \x20      100 nas                  running    2048              32.00 4711      \n\
         \x20     9000 VM 9000              stopped    512                0.00 0         \n",
        "",
    );
    Node::with(&[]).check("list", 0, "", "");
}

#[test]
fn showcmd_does_nothing() {
    let node = Node::with(&[(100, NAS)]);
    let outcome = node.qm("showcmd 100 --pretty");
    assert!(
        outcome
            .output
            .contains(" \\\n  -device vfio-pci,host=0000:00:1f.2,")
            || outcome.output.contains("-device 'vfio-pci,host="),
        "{outcome:?}"
    );
    assert_eq!(node.fake.driver("0000:00:1f.2").as_deref(), Some("ahci"));
    assert!(!node.host.run.join("pci-id-reservations").exists());
}

#[test]
fn wait_and_unlock() {
    let node = Node::with(&[(100, "lock: backup\n")]);
    node.check("wait 100", 0, "", "");
    node.check("unlock 100", 0, "", "");
    assert_eq!(node.config(100), "");
    node.pretend_running(100, 4711);
    node.check(
        "wait 100 --timeout 0",
        255,
        "",
        "wait failed - got timeout\n",
    );
}
