//! What ends a lab early, on the built program and a real machine: nothing is left running, the
//! evidence is there, the exit code and the words say what happened, and the next run works.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// One lab at a time: two would only slow each other down.
static ONE_LAB: Mutex<()> = Mutex::new(());

/// How long a machine may take to come up under emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(600);
/// How long what has been killed may take to be gone.
const GONE: Duration = Duration::from_secs(20);

/// A scenario whose host is up when its second step begins, which then does `what`.
fn scenario(what: &str) -> String {
    format!(
        "summary = \"x\"\nlab = \"bare\"\n\n[[step]]\nrun = \"true\"\n\n[[step]]\nrun = '''{what}'''\n"
    )
}

/// The built program, running one scenario.
struct Lab {
    child: Child,
    cache: PathBuf,
    _scenarios: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    fn start(scenario: &str) -> Self {
        Self::start_with(scenario, cache(), Command::new(env!("CARGO_BIN_EXE_xtask")))
    }

    fn start_with(scenario: &str, cache: PathBuf, mut command: Command) -> Self {
        let turn = ONE_LAB.lock().unwrap_or_else(PoisonError::into_inner);
        let scenarios = tempfile::tempdir().unwrap();
        fs::create_dir(scenarios.path().join("labs")).unwrap();
        let lab = "summary = \"No controller\"\niommu = \"none\"\n";
        fs::write(scenarios.path().join("labs/bare.toml"), lab).unwrap();
        fs::write(scenarios.path().join("fault.toml"), scenario).unwrap();
        let child = command
            .args(["lab", "--cache"])
            .arg(&cache)
            .arg("--scenarios")
            .arg(scenarios.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Lab {
            child,
            cache,
            _scenarios: scenarios,
            _turn: turn,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    /// The run's folder, whose name ends with the program's process id.
    fn run_folder(&self) -> PathBuf {
        let suffix = format!("-{}", self.child.id());
        wait("the run's folder", BOOT, || {
            let runs = fs::read_dir(self.cache.join("runs")).ok()?;
            let mut paths = runs.flatten().map(|run| run.path());
            paths.find(|path| path.to_string_lossy().ends_with(&suffix))
        })
    }

    fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.run_folder().join("events.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits until the host is up and the second step under way.
    fn until_under_way(&mut self) {
        let started = |event: &Value| event["event"] == "step-started" && event["step"] == 2;
        wait("the second step", BOOT, || {
            if self.child.try_wait().unwrap().is_some() {
                panic!("the program ended early: {}", self.words());
            }
            self.events().iter().any(started).then_some(())
        });
        assert!(
            !self.left_running().is_empty(),
            "the lab has no QEMU process"
        );
    }

    /// Process ids whose command lines name the run's folder. Its name is unique; its path depends on
    /// whose mounts one looks through.
    fn left_running(&self) -> Vec<i32> {
        let run = self.run_folder();
        let name = run.file_name().unwrap().to_string_lossy();
        processes_with(&format!("runs/{name}/"))
    }

    fn end(&mut self) -> ExitStatus {
        wait("the program's end", BOOT, || self.child.try_wait().unwrap())
    }

    fn words(&mut self) -> String {
        use std::io::Read;
        let mut words = String::new();
        if let Some(mut out) = self.child.stdout.take() {
            out.read_to_string(&mut words).unwrap();
        }
        if let Some(mut err) = self.child.stderr.take() {
            err.read_to_string(&mut words).unwrap();
        }
        words
    }

    fn assert_nothing_left(&self) {
        wait("everything to be gone", GONE, || {
            self.left_running().is_empty().then_some(())
        });
    }

    fn assert_evidence(&self) {
        let scenario = self.run_folder().join("fault");
        for name in ["qemu-argv.txt", "pve-console.log", "qmp.log", "agent.log"] {
            let size = fs::metadata(scenario.join(name))
                .map(|data| data.len())
                .unwrap_or(0);
            assert!(
                size > 0,
                "{name} is missing or empty in {}",
                scenario.display()
            );
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // After a failed assertion; otherwise it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cache() -> PathBuf {
    images::Cache::open(std::env::var_os("LAB_CACHE").map(PathBuf::from))
        .unwrap()
        .root()
        .to_owned()
}

fn wait<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(
            start.elapsed() < limit,
            "waited {} s for {what}",
            limit.as_secs()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

fn processes_with(words: &str) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(words)
        })
        .collect()
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[test]
fn a_request_to_stop_ends_everything_and_says_so() {
    for request in [Signal::INT, Signal::TERM] {
        let mut lab = Lab::start(&scenario("sleep 3000"));
        lab.until_under_way();
        kill_process(lab.pid(), request).unwrap();
        assert_eq!(lab.end().code(), Some(130), "{}", lab.words());
        lab.assert_nothing_left();
        lab.assert_evidence();
        assert!(lab.words().contains("INTERRUPTED"));
    }
}

#[test]
fn kill_9_leaves_nothing_running_and_the_next_run_tidies_up() {
    let mut lab = Lab::start(&scenario("sleep 3000"));
    lab.until_under_way();
    let folder = lab.run_folder();
    let sockets = PathBuf::from(fs::read_to_string(folder.join("sockets-at")).unwrap());
    kill_process(lab.pid(), Signal::KILL).unwrap();
    lab.end();
    lab.assert_nothing_left();
    lab.assert_evidence();
    assert!(folder.join("fault/disks").exists() && sockets.exists());
    drop(lab);

    let mut next = Lab::start(&scenario("uname -r"));
    assert_eq!(next.end().code(), Some(0), "{}", next.words());
    assert!(
        !folder.join("fault/disks").exists(),
        "the dead run's disks are still there"
    );
    assert!(!sockets.exists(), "the dead run's sockets are still there");
}

#[test]
fn a_qemu_that_dies_is_named() {
    let mut lab = Lab::start(&scenario("sleep 3000"));
    lab.until_under_way();
    for pid in lab.left_running() {
        signal(pid, Signal::KILL);
    }
    assert_eq!(lab.end().code(), Some(1));
    let words = lab.words();
    assert!(
        words.contains("QEMU ended") && words.contains("signal: 9"),
        "{words}"
    );
    lab.assert_evidence();
}

#[test]
fn a_host_that_panics_is_named_with_its_last_words() {
    let mut lab = Lab::start(&scenario(
        "echo 0 > /proc/sys/kernel/panic; echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger",
    ));
    assert_eq!(lab.end().code(), Some(1));
    let words = lab.words();
    assert!(
        words.contains("Kernel panic - not syncing") && words.contains("crash"),
        "{words}"
    );
    assert!(
        words.contains("last lines of the console of pve"),
        "{words}"
    );
    lab.assert_nothing_left();
}

#[test]
fn an_agent_that_stalls_is_a_timeout() {
    let mut lab = Lab::start(&scenario("kill -STOP $(pidof qemu-ga); sleep 3000"));
    assert_eq!(lab.end().code(), Some(1));
    let words = lab.words();
    assert!(words.contains("did not answer"), "{words}");
    lab.assert_nothing_left();
}

/// A cache on a file system of its own that is all but full, with the images of the real one.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// The program in a mount namespace of its own where `folder` is a file system of `mib` MiB.
    fn program(&self, mib: u32) -> Command {
        let images = cache();
        let script = format!(
            "mount -t tmpfs -o size={mib}m tmpfs \"$0\" && for entry in '{}'/*; do \
             case \"$entry\" in */runs|*/tmp) ;; *) ln -s \"$entry\" \"$0\";; esac; done && exec \"$@\"",
            images.display()
        );
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "sh", "-c", &script]);
        command
            .arg(self.folder.path())
            .arg(env!("CARGO_BIN_EXE_xtask"));
        command
    }
}

#[test]
fn a_disk_with_too_little_room_is_told_before_anything_starts() {
    let small = SmallDisk {
        folder: tempfile::tempdir().unwrap(),
    };
    let mut lab = Lab::start_with(
        &scenario("true"),
        small.folder.path().to_owned(),
        small.program(64),
    );
    assert_eq!(lab.end().code(), Some(4));
    let words = lab.words();
    assert!(
        words.contains("skipped") && words.contains("disk"),
        "{words}"
    );
}

#[test]
fn a_disk_that_fills_during_a_run_is_the_labs_trouble_and_not_the_procedures() {
    let small = SmallDisk {
        folder: tempfile::tempdir().unwrap(),
    };
    let write = "dd if=/dev/urandom of=/root/fill bs=1M count=512 conv=fsync && sync";
    let mut lab = Lab::start_with(
        &scenario(&format!("sleep 5; {write}")),
        small.folder.path().to_owned(),
        small.program(3400),
    );
    // From outside, the program's file system is seen through its own root.
    let inside = Path::new("/proc")
        .join(lab.child.id().to_string())
        .join("root")
        .join(small.folder.path().strip_prefix("/").unwrap());
    lab.cache = inside.clone();
    lab.until_under_way();
    let filler = fs::File::create(inside.join("filler")).unwrap();
    let room = rustix::fs::statvfs(&inside).unwrap();
    let free = room.f_bavail * room.f_frsize;
    rustix::fs::fallocate(
        &filler,
        rustix::fs::FallocateFlags::empty(),
        0,
        free - (64 << 20),
    )
    .unwrap();
    assert_eq!(lab.end().code(), Some(3));
    let words = lab.words();
    assert!(
        words.contains("No space left") || words.contains("full"),
        "{words}"
    );
}
