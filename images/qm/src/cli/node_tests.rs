//! Command lines about the node: guests at its boot, migration away from it.

use std::{fs, thread, time::Duration};

use serde_json::json;

use super::testing::Node;
use crate::{monitor::testing::Script, poll};

const NAS: &str = "hostpci0: 0000:00:1f.2,pcie=1\nmachine: q35\nonboot: 1\n";

#[test]
fn guests_start_with_the_host_in_their_order() {
    let node = Node::with(&[
        (100, NAS),
        (101, "memory: 128\nonboot: 1\nstartup: order=2,up=9\n"),
        (102, "memory: 128\n"),
        (103, "hostpci0: 00:1f.2\nonboot: 1\nstartup: order=3\n"),
        (104, "onboot: 1\ntemplate: 1\n"),
        (105, "memory: 128\nonboot: 0\n"),
    ]);
    // Every VM here gets the same process, so that of 101 has to be gone for the next to be told from it.
    assert_eq!(
        node.pvenode("startall"),
        "Starting VM 101\nWaiting for 9 seconds (startup delay)\nStarting VM 103\nStarting VM 100\n\
         Starting VM 100 failed: PCI device '0000:00:1f.2' already in use by VMID '103'\n"
    );
    let asked = node.fake.loaded();
    for what in ["settled", "paused 9 s"] {
        assert!(asked.contains(&what.to_owned()), "{what}");
    }
}

#[test]
fn a_host_without_such_guests_waits_for_nothing() {
    let node = Node::with(&[(100, "memory: 128\n")]);
    assert_eq!(node.pvenode("startall"), "");
    assert_eq!(node.pvenode("stopall"), "");
    assert_eq!(*node.fake.loaded(), [""; 0]);
}

/// Lets VM 100's process go once QEMU was told to power down.
fn goes_down(node: &Node) -> thread::JoinHandle<()> {
    let seen = node.serve(
        "qmp",
        Script::Qmp(vec![(
            "query-status",
            json!({"return": {"status": "running"}}),
        )]),
    );
    let process = node.host.proc.join("4711");
    thread::spawn(move || {
        let told = poll::until::<(), ()>(Duration::from_secs(5), || {
            let seen = seen.lock().unwrap();
            let asked = seen
                .iter()
                .any(|(command, _)| command == "system_powerdown");
            Ok(asked.then_some(()))
        });
        assert_eq!(told, Ok(Some(())));
        fs::remove_dir_all(process).unwrap();
    })
}

#[test]
fn guests_go_down_with_the_host() {
    let node = Node::with(&[
        (100, "memory: 128\nstartup: order=1,down=7\n"),
        (101, "memory: 128\n"),
    ]);
    node.pretend_running(100, 4711);
    let guest = goes_down(&node);
    assert_eq!(
        node.pvenode("stopall"),
        "Stopping VM 100 (timeout = 7 seconds)\n"
    );
    guest.join().unwrap();
    node.check("status 100", 0, "status: stopped\n", "");
}

#[test]
fn reboot_is_a_shutdown_and_a_start() {
    let mut node = Node::with(&[(100, "cores: 1\n\n[PENDING]\ncores: 2\n")]);
    node.check("reboot 100", 255, "", "VM 100 not running\n");
    node.pretend_running(100, 4711);
    let guest = goes_down(&node);
    node.check("reboot 100", 0, "", "");
    guest.join().unwrap();
    assert_eq!(node.config(100), "cores: 2\n");
    assert!(node.host.proc.join("4711/cmdline").exists());

    // A guest that does not go down is not started a second time.
    fs::remove_file(node.fake.root().join("argv")).unwrap();
    node.host.patience = 0.2;
    let running = json!({"return": {"status": "running"}});
    node.serve("qmp", Script::Qmp(vec![("query-status", running)]));
    node.check(
        "reboot 100 --timeout 1",
        255,
        "",
        "VM quit/powerdown failed - got timeout\n",
    );
    assert!(!node.fake.root().join("argv").exists());
}

#[test]
fn migration_is_refused() {
    let node = Node::with(&[
        (100, NAS),
        (101, "memory: 128\n"),
        (102, "lock: backup\n"),
        (103, "hostpci0: mapping=hba\nserial0: socket\n"),
        (
            104,
            "hostpci0: 00:1f.2\nhostpci1: 01:00.0\nserial0: /dev/ttyS0\n",
        ),
    ]);
    let unknown = "no such cluster node 'pve2'\n";
    node.check("migrate 100 pve2", 255, "", unknown);
    fs::write(
        node.host.config_root.join(".members"),
        r#"{"nodename": "pve", "nodelist": {"pve": {"id": 1}, "pve2": {"id": 2, "ip": "10.0.0.2"}}}"#,
    )
    .unwrap();
    node.check(
        "migrate 100 pve",
        255,
        "",
        "400 Parameter verification failed.\ntarget: target is local node.\n",
    );
    let aborted = |line: &str, reason: &str| {
        let outcome = node.qm(line);
        let expected =
            format!("ERROR: migration aborted (duration 00:00:00): {reason}\nmigration aborted\n");
        // Before it stand day and time.
        assert_eq!(outcome.code, 255, "{line}");
        assert_eq!(outcome.errors.get(20..), Some(expected.as_str()), "{line}");
    };
    let local = "can't migrate VM which uses local devices: hostpci0";
    aborted("migrate 100 pve2", local);
    aborted("migrate 102 pve2", "VM is locked (backup)");
    let several = "can't migrate VM which uses local devices: hostpci0, hostpci1, serial0";
    aborted("migrate 104 pve2", several);
    let unreachable = "Can't connect to destination address using public key";
    aborted("migrate 101 pve2", unreachable);
    aborted("migrate 103 pve2", unreachable);
    aborted("migrate 100 pve2 --force", unreachable);

    node.pretend_running(100, 4711);
    let stopped_only = "can't migrate running VM without --online";
    aborted("migrate 100 pve2", stopped_only);
    aborted("migrate 100 pve2 --online --force", local);
}
