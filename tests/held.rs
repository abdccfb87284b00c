//! A lab that stays for a person, on the built program and a real machine: terminals, commands and copies
//! reach both guests, and whatever ends the lab leaves nothing running.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{MutexGuard, mpsc};
use std::time::{Duration, Instant};

use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use support::{processes_with, wait};

/// How long an answer of a guest under emulation may take on a busy machine.
const ANSWER: Duration = Duration::from_secs(120);
/// How long what has been killed may take to be gone.
const GONE: Duration = Duration::from_secs(20);

/// Two steps after which the NAS is up, and the head of a third.
const UP: &str = "[[step]]\nrun = \"true\"\n\n[[step]]\nstart = 100\n\n[[step]]\n";

/// Steps after that: the NAS answers nothing for longer than `qm` waits by itself, as one does whose host is busy.
const DROWSY: &str = r#"run = """
nas=$(cat /var/run/qemu-server/100.pid)
kill -STOP $nas
setsid -f sh -c "sleep 8; kill -CONT $nas" </dev/null >/dev/null 2>&1
"""

[[step]]
run = { on = "nas", command = "true" }
"#;

/// A cache whose images and checkpoints are those of the real one, so that a lab that its owner holds up
/// is left alone; and a scenario whose NAS is up after its second step.
struct House {
    cache: TempDir,
    scenarios: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl House {
    fn new() -> Self {
        let turn = support::turn();
        let real = support::cache();
        // Checkpoints are linked from runs: both have to be on one file system.
        let cache = tempfile::Builder::new()
            .prefix("held-")
            .tempdir_in(real.parent().unwrap())
            .unwrap();
        for entry in fs::read_dir(&real).unwrap().flatten() {
            let own = ["runs", "tmp", "up.lock", "up.json"];
            if !own.contains(&entry.file_name().to_string_lossy().as_ref()) {
                symlink(entry.path(), cache.path().join(entry.file_name())).unwrap();
            }
        }
        let scenarios = tempfile::tempdir().unwrap();
        fs::create_dir(scenarios.path().join("labs")).unwrap();
        let lab = "summary = \"No controller\"\niommu = \"none\"\n";
        fs::write(scenarios.path().join("labs/bare.toml"), lab).unwrap();
        let rests = [("visit", "run = \"false\"\n"), ("drowsy", DROWSY)];
        for (name, rest) in rests {
            let text = format!("summary = \"x\"\nlab = \"bare\"\n\n{UP}{rest}");
            fs::write(scenarios.path().join(format!("{name}.toml")), text).unwrap();
        }
        House {
            cache,
            scenarios,
            _turn: turn,
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("lab").args(words);
        command
            .env("LAB_CACHE", self.cache.path())
            .env("LAB_SCENARIOS", self.scenarios.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs to a good end, and gives what was printed.
    fn held(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs to a refusal that says this, among other things.
    fn refused(&self, words: &[&str], part: &str) {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{words:?}: {output:?}");
        assert!(said.contains(part), "{words:?}: {said}");
    }

    fn notice(&self) -> Value {
        serde_json::from_slice(&fs::read(self.cache.path().join("up.json")).unwrap()).unwrap()
    }

    /// Process ids of all that belongs to this cache's labs.
    fn running(&self) -> Vec<i32> {
        let name = self.cache.path().file_name().unwrap().to_string_lossy();
        processes_with(&format!("{name}/runs/"))
    }

    fn assert_nothing_left(&self) {
        wait("everything to be gone", GONE, || {
            self.running().is_empty().then_some(())
        });
        // Who held it may outlive its last process by a moment. Whoever knocks then is hung up on, by it or,
        // where ssh was let go before, by ssh in its own words.
        wait("the lab to be over", GONE, || {
            let output = self.run(&["shell", "pve"]);
            let said = String::from_utf8_lossy(&output.stderr);
            let over = output.status.code() == Some(3) && said.contains("no lab is up");
            over.then_some(())
        });
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // After a failed assertion; otherwise there is none.
        let _ = self.run(&["down"]);
    }
}

/// A terminal with the program in it.
struct Terminal {
    pair: portable_pty::PtyPair,
    child: Box<dyn portable_pty::Child + Send + Sync>,
    keyboard: Box<dyn Write + Send>,
    screen: mpsc::Receiver<Vec<u8>>,
    seen: String,
    /// The lab's evidence.
    folder: PathBuf,
}

impl Terminal {
    fn open(house: &House, words: &[&str], rows: u16, cols: u16) -> Self {
        let pair = native_pty_system().openpty(size(rows, cols)).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("lab");
        command.args(words);
        command.env("LAB_CACHE", house.cache.path());
        command.env("TERM", "xterm");
        let child = pair.slave.spawn_command(command).unwrap();
        let mut reader = pair.master.try_clone_reader().unwrap();
        let (sender, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut piece) {
                if sender.send(piece[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal {
            keyboard: pair.master.take_writer().unwrap(),
            pair,
            child,
            screen,
            seen: String::new(),
            folder: PathBuf::from(house.notice()["folder"].as_str().unwrap()),
        }
    }

    fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    /// Waits until the screen shows something, and forgets all up to there.
    fn shows(&mut self, text: &str) {
        let end = Instant::now() + ANSWER;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(piece) => self.seen.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => panic!(
                    "the terminal does not show {text:?} but {:?}; the last words of the host's agent and of QEMU:\n{}\n{}",
                    self.seen,
                    last_lines(&self.folder.join("agent.log"), 8),
                    last_lines(&self.folder.join("qmp.log"), 40)
                ),
            }
        }
    }

    fn exit_code(mut self) -> u32 {
        wait("the terminal's end", ANSWER, || {
            self.child.try_wait().unwrap()
        })
        .exit_code()
    }
}

fn last_lines(file: &Path, count: usize) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn size(rows: u16, cols: u16) -> PtySize {
    PtySize {
        rows,
        cols,
        ..PtySize::default()
    }
}

fn file(folder: &Path, name: &str, bytes: usize) -> PathBuf {
    let path = folder.join(name);
    // No period that a buffer could have.
    let content: Vec<u8> = (0..bytes).map(|at| (at * at / 251 % 256) as u8).collect();
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn a_person_gets_into_both_guests_with_a_terminal_commands_and_copies() {
    let house = House::new();
    let said = house.held(&["up", "visit@2"]);
    for part in [
        "after step 2 of 3",
        "shell pve",
        "shell nas",
        "cp pve:",
        "lab down",
    ] {
        assert!(said.contains(part), "{part} is missing in\n{said}");
    }
    house.refused(&["up", "visit@1"], "is up already: visit, after step 2");

    for guest in ["pve", "nas"] {
        a_command_has_its_streams_and_its_exit_code(&house, guest);
        a_terminal_is_one(&house, guest);
        copies_are_equal(&house, guest);
    }
    for guest in ["pve", "nas"] {
        a_visitor_goes_while_the_guest_still_talks(&house, guest);
        doors_are_counted(&house);
    }
    a_door_that_something_holds_is_cleared(&house);
    a_doctor_comes_by_ssh_and_changes_nothing(&house);

    let said = house.held(&["down"]);
    assert!(said.contains("the lab is down"), "{said}");
    house.assert_nothing_left();
}

fn a_command_has_its_streams_and_its_exit_code(house: &House, guest: &str) {
    let mut command = house.command(&["shell", guest, "--", "cat; echo wrong >&2; exit 7"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"right\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (b"right\n".as_slice(), b"wrong\n".as_slice())
    );
}

fn a_terminal_is_one(house: &House, guest: &str) {
    let mut terminal = Terminal::open(house, &["shell", guest], 30, 90);
    terminal.shows("# ");
    terminal.type_in("stty size\r");
    terminal.shows("30 90");
    terminal.pair.master.resize(size(41, 123)).unwrap();
    // The news of the new size and what is typed take different ways.
    terminal.type_in(
        "until [ \"$(stty size)\" = '41 123' ]; do sleep 0.1; done; echo it is $((41 + 1))\r",
    );
    terminal.shows("it is 42");
    terminal.type_in("sh -c 'echo asleep-$((1 + 1)); exec sleep 3000'\r");
    terminal.shows("asleep-2");
    terminal.type_in("\x03");
    terminal.shows("^C");
    terminal.type_in("echo code $((0 + $?))\r");
    terminal.shows("code 130");
    terminal.type_in("exit 5\r");
    assert_eq!(terminal.exit_code(), 5);
}

fn copies_are_equal(house: &House, guest: &str) {
    let folder = tempfile::tempdir().unwrap();
    let one = file(folder.path(), "one file", 300_001);
    let back = folder.path().join("back");
    house.held(&[
        "cp",
        one.to_str().unwrap(),
        &format!("{guest}:/root/a copy"),
    ]);
    house.held(&[
        "cp",
        &format!("{guest}:/root/a copy"),
        back.to_str().unwrap(),
    ]);
    assert!(fs::read(&one).unwrap() == fs::read(&back).unwrap());

    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let leaf = file(&tree, "leaf", 100);
    house.held(&["cp", tree.to_str().unwrap(), &format!("{guest}:/root/tree")]);
    let other = folder.path().join("other");
    house.held(&[
        "cp",
        &format!("{guest}:/root/tree"),
        other.to_str().unwrap(),
    ]);
    assert!(fs::read(leaf).unwrap() == fs::read(other.join("leaf")).unwrap());
}

/// What the guest had still to say is neither told to the next at that door, nor does it keep the door shut.
fn a_visitor_goes_while_the_guest_still_talks(house: &House, guest: &str) {
    let mut command = house.command(&["shell", guest, "--", "yes"]);
    // What carries its bytes complains of the killed reader.
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut piece = [0; 4096];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut piece)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

fn doors_are_counted(house: &House) {
    let inside: Vec<_> = (0..2)
        .map(|_| {
            let mut terminal = Terminal::open(house, &["shell", "pve"], 24, 80);
            terminal.shows("# ");
            terminal
        })
        .collect();
    house.refused(&["shell", "pve"], "doors of the lab are in use");
    for mut terminal in inside {
        terminal.type_in("exit\r");
        assert_eq!(terminal.exit_code(), 0);
    }
    house.held(&["shell", "pve", "--", "true"]);
}

/// An ssh server whose visitor left while the guest was starting does not notice.
fn a_door_that_something_holds_is_cleared(house: &House) {
    let mut terminal = Terminal::open(house, &["shell", "pve"], 24, 80);
    terminal.shows("# ");
    // The terminal is in one door, and what the one before has left may still be in the other.
    terminal.type_in(
        "until for door in 0 1; do sh -c \"exec 3<>/dev/virtio-ports/lab.door.$door; setsid -f sleep 600\" \
         2>/dev/null && break; done; do :; done; echo ta\"\"ken\r",
    );
    terminal.shows("taken");
    house.held(&["shell", "pve", "--", "true"]);
    terminal.type_in("exit\r");
    assert_eq!(terminal.exit_code(), 0);
}

/// The host's own ssh server at the other end; only the way to it is the lab's.
fn a_doctor_comes_by_ssh_and_changes_nothing(house: &House) {
    let config = "/etc/pve/qemu-server/100.conf";
    let line = format!("echo 'hostpci0: 0000:00:1e.7,pcie=1' >> {config}");
    house.held(&["shell", "pve", "--", &line]);
    // What every machine writes as it runs, and the history of the shell that asks, is not of interest.
    let state = "find / -xdev -path /var/log -prune -o -path /var/lib/systemd -prune -o -type f \
        ! -name .bash_history -printf '%p %s %m %T@ %C@\n' | sort";
    let before = house.held(&["shell", "pve", "--", state]);
    assert!(before.contains(config), "{before}");

    let folder = tempfile::tempdir().unwrap();
    let ssh = house.notice()["ssh"].as_str().unwrap().to_owned();
    symlink(ssh, folder.path().join("ssh")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let recording = folder.path().join("host.json");
    let doctor = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("doctor").args(words).arg("--json");
        command.env("PATH", format!("{}:{path}", folder.path().display()));
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let file = recording.to_str().unwrap();
    let seen = doctor(&["--ssh", "pve", "--record", file]);
    let found: Vec<_> = seen["findings"].as_array().unwrap().iter().collect();
    let ids: Vec<_> = found
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert!(ids.contains(&"no-such-address"), "{ids:?}");
    let facts = doctor(&["--facts", file]);
    let again = facts["findings"].as_array().unwrap().iter();
    let again: Vec<_> = again.map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, again);

    assert_eq!(house.held(&["shell", "pve", "--", state]), before);
}

#[test]
fn a_step_that_fails_leaves_the_lab_as_it_was() {
    let house = House::new();
    let output = house.run(&["up", "visit"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        said.contains("step 3 (run false) failed: command"),
        "{said}"
    );
    assert!(
        said.contains("stays as that left it: visit, after step 2"),
        "{said}"
    );
    house.held(&["shell", "nas", "--", "true"]);
    house.held(&["down"]);
    house.assert_nothing_left();
}

#[test]
fn a_nas_that_is_slow_to_answer_is_waited_for() {
    House::new().held(&["drowsy"]);
}

#[test]
fn a_lab_whose_holder_is_killed_is_gone() {
    let house = House::new();
    house.held(&["up", "visit@1"]);
    assert!(!house.running().is_empty());
    let holder = house.notice()["process"].as_i64().unwrap();
    let holder = Pid::from_raw(i32::try_from(holder).unwrap()).unwrap();
    kill_process(holder, Signal::KILL).unwrap();
    house.assert_nothing_left();

    // The next one does not mind, and ends when its host is switched off from inside.
    house.held(&["up", "visit@0"]);
    let mut terminal = Terminal::open(&house, &["shell", "pve"], 24, 80);
    terminal.shows("# ");
    terminal.type_in("poweroff\r");
    terminal.exit_code();
    house.assert_nothing_left();
}
