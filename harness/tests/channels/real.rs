//! The channels against the real programs, by hand: `LAB_TEST_TOOLBOX` names an unpacked QEMU,
//! `LAB_TEST_AGENT` an unpacked qemu-guest-agent, which then runs its commands on this machine.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::guest::{Agent, Exec, Exit, Guest, GuestError};
use harness::machine::Process;
use harness::machine::qmp::{Qmp, QmpSignal};
use harness::machine::transcript::Transcript;
use qapi::qmp;

use crate::fake::PLENTY;

/// A program of an unpacked tree, run by the tree's own loader.
fn unpacked(variable: &str, program: &str) -> std::process::Command {
    let root = std::env::var(variable).expect("the variable names an unpacked tree");
    let lib = format!("{root}/usr/lib/x86_64-linux-gnu");
    let mut command = std::process::Command::new(format!("{lib}/ld-linux-x86-64.so.2"));
    command.args(["--library-path", &lib, &format!("{root}/usr/{program}")]);
    if program.contains("qemu-system") {
        command.args(["-L", &format!("{root}/usr/share/qemu")]);
        command.args(["-L", &format!("{root}/usr/share/seabios")]);
    }
    command
}

#[tokio::test]
#[ignore = "real machine: needs LAB_TEST_TOOLBOX"]
async fn real_machine_qemu_answers_tells_its_events_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("qmp");
    let mut command = unpacked("LAB_TEST_TOOLBOX", "bin/qemu-system-x86_64");
    command.args([
        "-nodefaults",
        "-display",
        "none",
        "-machine",
        "q35",
        "-S",
        "-qmp",
    ]);
    command.arg(format!("unix:{},server=on,wait=off", socket.display()));
    let start = Instant::now();
    let process = Process::spawn(command, &folder.path().join("err")).unwrap();
    let monitor = Qmp::connect(&socket, None, PLENTY).await.unwrap();
    println!("connected after {:?}", start.elapsed());
    let mut events = monitor.events();
    let status = monitor.execute(qmp::query_status {}, PLENTY).await.unwrap();
    assert_eq!(status.status, qmp::RunState::prelaunch);
    let error = monitor.execute(qmp::inject_nmi {}, PLENTY).await;
    println!("inject-nmi: {error:?}");
    monitor.execute(qmp::cont {}, PLENTY).await.unwrap();
    assert_eq!(
        events.recv().await.unwrap().signal(),
        Some(QmpSignal::Resume)
    );
    let start = Instant::now();
    for _ in 0..100 {
        monitor.execute(qmp::query_status {}, PLENTY).await.unwrap();
    }
    println!("a hundred commands took {:?}", start.elapsed());
    monitor.execute(qmp::quit {}, PLENTY).await.unwrap();
    let quit = QmpSignal::Shutdown {
        guest: false,
        reason: "host-qmp-quit".to_owned(),
    };
    loop {
        if events.recv().await.unwrap().signal().as_ref() == Some(&quit) {
            break;
        }
    }
    assert!(events.recv().await.is_err());
    assert_eq!(process.wait().await.code(), Some(0));
    println!(
        "{}",
        monitor.execute(qmp::stop {}, PLENTY).await.unwrap_err()
    );
}

async fn agent_process(folder: &Path) -> Process {
    let mut command = unpacked("LAB_TEST_AGENT", "sbin/qemu-ga");
    let socket = folder.join("agent");
    let _ = std::fs::remove_file(&socket);
    command.args(["-m", "unix-listen", "-p"]).arg(&socket);
    command.args([OsStr::new("-t"), folder.as_os_str()]);
    Process::spawn(command, &folder.join("err")).unwrap()
}

#[tokio::test]
#[ignore = "real machine: needs LAB_TEST_AGENT"]
async fn real_machine_the_agent_runs_commands_and_holds_files() {
    let folder = tempfile::tempdir().unwrap();
    let process = agent_process(folder.path()).await;
    let transcript = Transcript::create(&folder.path().join("agent.log")).unwrap();
    let agent = Agent::new(folder.path().join("agent"), Some(transcript)).with_answer_limit(PLENTY);
    agent.wait_ready(PLENTY).await.unwrap();

    let start = Instant::now();
    let output = agent
        .exec(Exec::shell("echo out; echo err >&2; exit 4", PLENTY))
        .await
        .unwrap();
    println!("a command took {:?}", start.elapsed());
    assert_eq!(
        (output.exit, &*output.stdout, &*output.stderr),
        (Exit::Code(4), &b"out\n"[..], &b"err\n"[..])
    );
    let output = agent.exec(Exec::shell("kill -9 $$", PLENTY)).await.unwrap();
    assert_eq!(output.exit, Exit::Signal(9));
    let mut cat = Exec::new("cat", ["-"], PLENTY);
    cat.input = Some(vec![0xff; 300_000]);
    assert!(agent.exec(cat).await.unwrap().stdout == vec![0xff; 300_000]);
    let error = agent
        .exec(Exec::new("/no/such/program", ["x"], PLENTY))
        .await
        .unwrap_err();
    println!("{error}");
    assert!(matches!(error, GuestError::Refused { .. }), "{error}");
    let error = agent
        .exec(Exec::shell("sleep 60", Duration::from_millis(100)))
        .await
        .unwrap_err();
    assert!(matches!(error, GuestError::Timeout { .. }), "{error}");
    let big = agent
        .exec(Exec::shell("head -c 17000000 /dev/zero", PLENTY * 4))
        .await
        .unwrap_err();
    println!("{big}");

    let path = folder.path().join("file");
    let path = path.to_str().unwrap();
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let start = Instant::now();
    agent.write_file(path, &content).await.unwrap();
    println!("3 MB were written in {:?}", start.elapsed());
    let start = Instant::now();
    assert!(agent.read_file(path).await.unwrap() == content);
    println!("3 MB were read in {:?}", start.elapsed());
    agent.write_file(path, b"").await.unwrap();
    assert!(agent.read_file(path).await.unwrap().is_empty());
    println!("{}", agent.read_file("/no/file").await.unwrap_err());
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(agent.boot_id().await.unwrap(), boot_id.trim());

    process.kill().await;
    println!("{}", agent.ping().await.unwrap_err());
    let _process = agent_process(folder.path()).await;
    agent.wait_ready(PLENTY).await.unwrap();
    agent.run(Exec::new("true", ["x"], PLENTY)).await.unwrap();
}
