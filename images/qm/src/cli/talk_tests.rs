//! Command lines that talk to QEMU or to the guest.

use serde_json::json;

use super::testing::Node;
use crate::{kernel::End, monitor::testing::Script};

const NAS: &str = "agent: 1\nhostpci0: 0000:00:1f.2,pcie=1\nmachine: q35\nmemory: 2048\nname: nas\nvga: serial0\n";

#[test]
fn states() {
    let node = Node::with(&[(100, "memory: 512\n")]);
    node.check("suspend 100", 255, "", "VM 100 not running\n");
    node.check("shutdown 100", 0, "", "");
    node.pretend_running(100, 4711);
    let seen = node.serve(
        "qmp",
        Script::Qmp(vec![
            ("query-status", json!({"return": {"status": "running"}})),
            ("query-status", json!({"return": {"status": "paused"}})),
            (
                "query-version",
                json!({"return": {"qemu": {"major": 10, "minor": 0, "micro": 7}}}),
            ),
            ("qom-get", json!({"return": "pc-i440fx-10.0-machine"})),
            (
                "query-blockstats",
                json!({"return": [{"stats": {"rd_bytes": 5, "wr_bytes": 7}}]}),
            ),
        ]),
    );
    node.check("status 100", 0, "status: running\n", "");
    node.check("suspend 100", 0, "", "");
    node.check("status 100", 0, "status: paused\n", "");
    node.check("shutdown 100", 255, "", "VM is paused - cannot shutdown\n");
    node.check("resume 100", 0, "", "");
    node.check("reset 100", 0, "", "");
    let commands: Vec<String> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|(command, _)| command.clone())
        .collect();
    let told: Vec<&String> = commands
        .iter()
        .filter(|command| !command.starts_with("q"))
        .collect();
    assert_eq!(told, ["stop", "cont", "system_reset"]);

    let verbose = node.qm("status 100 --verbose").output;
    for line in [
        "diskread: 5",
        "pid: 4711",
        "running-machine: pc-i440fx-10.0",
        "running-qemu: 10.0.7",
        "qmpstatus: paused",
    ] {
        assert!(
            verbose.lines().any(|found| found == line),
            "{line} is not in\n{verbose}"
        );
    }
}

#[test]
fn the_guest_agent() {
    let node = Node::with(&[(100, NAS), (101, "memory: 128\n")]);
    node.check(
        "guest cmd 101 ping",
        255,
        "",
        "No QEMU guest agent configured\n",
    );
    node.check("guest cmd 100 ping", 255, "", "VM 100 is not running\n");
    node.pretend_running(100, 4711);
    node.check(
        "guest cmd 100 ping",
        255,
        "",
        "QEMU guest agent is not running\n",
    );
    let seen = node.serve("qga", Script::Agent(vec![
        ("guest-exec", json!({"return": {"pid": 812}})),
        ("guest-exec-status", json!({"return": {"exited": false}})),
        (
            "guest-exec-status",
            json!({"return": {"exited": true, "exitcode": 3, "out-data": "w6kK", "err-data": "bm8K"}}),
        ),
        ("guest-get-host-name", json!({"return": {"host-name": "nas"}})),
        ("guest-get-time", json!({"return": 17})),
        ("guest-fstrim", json!({"error": {"class": "GenericError", "desc": "not supported"}})),
    ]));
    node.check("guest cmd 100 ping", 0, "", "");
    node.check(
        "agent 100 get-host-name",
        0,
        "{\n   \"host-name\" : \"nas\"\n}\n",
        "",
    );
    node.check("guest cmd 100 get-time", 0, "17\n", "");
    node.check(
        "guest cmd 100 fstrim",
        255,
        "",
        "Agent error: not supported\n",
    );
    assert_eq!(node.qm("guest cmd 100 dance").code, 255);

    // Bytes above 0x7f are encoded twice, as on a real host.
    let result = "{\n   \"err-data\" : \"no\\n\",\n   \"exitcode\" : 3,\n   \"exited\" : 1,\n   \"out-data\" : \"\u{c3}\u{a9}\\n\"\n}\n";
    node.check("guest exec 100 -- ls -l", 0, result, "");
    let exec = seen
        .lock()
        .unwrap()
        .iter()
        .find(|(command, _)| command == "guest-exec")
        .cloned()
        .unwrap();
    assert_eq!(
        exec.1,
        json!({"path": "ls", "arg": ["-l"], "capture-output": true})
    );
    node.check("guest exec-status 100 812", 0, result, "");
    node.check(
        "guest exec 100 --synchronous 0 -- ls",
        0,
        "{\n   \"pid\" : 812\n}\n",
        "",
    );
    node.check(
        "guest exec 100",
        255,
        "",
        "command or input-data (or both) required\n",
    );
    node.check(
        "guest exec 100 --synchronous 0 --timeout 3 -- ls",
        255,
        "",
        "400 Parameter verification failed.\nsynchronous: needs to be set for 'timeout'\n",
    );
}

#[test]
fn a_program_that_does_not_end() {
    let node = Node::with(&[(100, NAS)]);
    node.pretend_running(100, 4711);
    node.serve(
        "qga",
        Script::Agent(vec![
            ("guest-exec", json!({"return": {"pid": 812}})),
            ("guest-exec-status", json!({"return": {"exited": false}})),
        ]),
    );
    node.check(
        "guest exec 100 --timeout 2 -- sleep 60",
        0,
        "{\n   \"pid\" : 812\n}\n",
        "timeout reached, returning pid\n",
    );
}

#[test]
fn an_agent_that_stalls() {
    let mut node = Node::with(&[(100, NAS)]);
    node.host.patience = 0.3;
    node.pretend_running(100, 4711);
    node.serve("qga", Script::Stall);
    node.check(
        "guest exec 100 -- true",
        255,
        "",
        "QEMU guest agent is not running\n",
    );
}

#[test]
fn stop_goes_from_asking_to_killing() {
    let mut node = Node::with(&[(100, "memory: 512\n")]);
    node.host.patience = 0.2;
    node.pretend_running(100, 4711);
    let seen = node.serve("qmp", Script::Qmp(vec![]));
    node.check(
        "stop 100 --timeout 1",
        0,
        "",
        "VM still running - terminating now with SIGTERM\nVM still running - terminating now with SIGKILL\n",
    );
    assert_eq!(
        *node.fake.ended(),
        [(4711, End::Terminate), (4711, End::Kill)]
    );
    assert_eq!(seen.lock().unwrap()[1].0, "quit");
    node.check("status 100", 0, "status: stopped\n", "");
}

#[test]
fn shutdown_asks_the_agent_and_gives_up() {
    let mut node = Node::with(&[(100, NAS)]);
    node.host.patience = 0.3;
    node.pretend_running(100, 4711);
    let qmp = node.serve(
        "qmp",
        Script::Qmp(vec![(
            "query-status",
            json!({"return": {"status": "running"}}),
        )]),
    );
    node.check(
        "shutdown 100 --timeout 1",
        255,
        "",
        "QEMU Guest Agent is not running - VM 100 qmp command 'guest-ping' failed - unable to connect to VM 100 qga \
         socket - No such file or directory\nVM quit/powerdown failed - got timeout\n",
    );
    assert!(
        qmp.lock()
            .unwrap()
            .iter()
            .any(|(command, _)| command == "system_powerdown")
    );
    let qga = node.serve("qga", Script::Agent(vec![]));
    node.check(
        "shutdown 100 --timeout 1",
        255,
        "",
        "VM quit/powerdown failed - got timeout\n",
    );
    assert_eq!(
        qga.lock()
            .unwrap()
            .last()
            .map(|(command, _)| command.clone())
            .as_deref(),
        Some("guest-shutdown")
    );
    assert_eq!(*node.fake.ended(), []);
}
