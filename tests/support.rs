//! The built program with a lab of its own: started, watched, ended.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test target uses some of it"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// One lab at a time: two would only slow each other down.
static ONE_LAB: Mutex<()> = Mutex::new(());

/// How long a machine may take to come up under emulation on a busy machine.
pub const BOOT: Duration = Duration::from_secs(600);
/// How long what has been killed may take to be gone.
const GONE: Duration = Duration::from_secs(20);

/// A scenario whose host is up when its second step begins, which then does `what`.
pub fn scenario(what: &str) -> String {
    format!(
        "summary = \"x\"\nlab = \"bare\"\n\n[[step]]\nrun = \"true\"\n\n[[step]]\nrun = '''{what}'''\n"
    )
}

/// A folder with one lab, `bare`, and one scenario of this name and text.
pub fn scenarios(name: &str, text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("labs")).unwrap();
    let lab = "summary = \"No controller\"\niommu = \"none\"\n";
    fs::write(folder.path().join("labs/bare.toml"), lab).unwrap();
    fs::write(folder.path().join(format!("{name}.toml")), text).unwrap();
    folder
}

/// A program that does not outlive its test.
pub struct Running(pub Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Running(command.spawn().unwrap())
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failed assertion; otherwise it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a program says, line by line, while it runs.
pub struct Heard(mpsc::Receiver<String>);

impl Heard {
    pub fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                // Nobody listens once the test is over.
                let _ = sender.send(line);
            }
        });
        Heard(lines)
    }

    /// Waits for a line with these words, and gives it.
    pub fn says(&self, words: &str, limit: Duration) -> String {
        let end = Instant::now() + limit;
        let mut before = String::new();
        while let Ok(line) = self.0.recv_timeout(end - Instant::now()) {
            if line.contains(words) {
                return line;
            }
            before = before + &line + "\n";
        }
        panic!("`{words}` is not said after:\n{before}");
    }
}

/// Waits until no other test of this target has a lab.
pub fn turn() -> MutexGuard<'static, ()> {
    ONE_LAB.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The built program, running one scenario.
pub struct Lab {
    pub program: Running,
    pub cache: PathBuf,
    _scenarios: TempDir,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Lab {
    pub fn start(scenario: &str) -> Self {
        Self::start_with(scenario, cache(), Command::new(env!("CARGO_BIN_EXE_xtask")))
    }

    /// A second one beside another.
    pub fn start_beside(scenario: &str) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        Self::start_any(scenario, cache(), command, None)
    }

    pub fn start_with(scenario: &str, cache: PathBuf, command: Command) -> Self {
        Self::start_any(scenario, cache, command, Some(turn()))
    }

    fn start_any(
        scenario: &str,
        cache: PathBuf,
        mut command: Command,
        turn: Option<MutexGuard<'static, ()>>,
    ) -> Self {
        let scenarios = scenarios("fault", scenario);
        command
            .args(["lab", "--cache"])
            .arg(&cache)
            .arg("--scenarios")
            .arg(scenarios.path())
            // Snapshots of scenarios that live for one test are new each time.
            .env("INSTA_UPDATE", "always")
            .env_remove("CI")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Lab {
            program: Running::start(&mut command),
            cache,
            _scenarios: scenarios,
            _turn: turn,
        }
    }

    pub fn pid(&self) -> Pid {
        self.program.pid()
    }

    /// The run's folder, whose name ends with the program's process id.
    pub fn run_folder(&self) -> PathBuf {
        let suffix = format!("-{}", self.program.0.id());
        wait("the run's folder", BOOT, || {
            let runs = fs::read_dir(self.cache.join("runs")).ok()?;
            let mut paths = runs.flatten().map(|run| run.path());
            paths.find(|path| path.to_string_lossy().ends_with(&suffix))
        })
    }

    pub fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.run_folder().join("events.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The events of this kind.
    pub fn events_of(&self, kind: &str) -> Vec<Value> {
        let mut events = self.events();
        events.retain(|event| event["event"] == kind);
        events
    }

    /// Runs to its end, which must be a good one.
    pub fn held(mut self) -> Self {
        let code = self.end().code();
        assert_eq!(code, Some(0), "{}", self.words());
        self
    }

    /// Waits until the host is up and the second step under way.
    pub fn until_under_way(&mut self) {
        let started = |event: &Value| event["event"] == "step-started" && event["step"] == 2;
        wait("the second step", BOOT, || {
            if self.program.0.try_wait().unwrap().is_some() {
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
    pub fn left_running(&self) -> Vec<i32> {
        let run = self.run_folder();
        let name = run.file_name().unwrap().to_string_lossy();
        processes_with(&format!("runs/{name}/"))
    }

    pub fn end(&mut self) -> ExitStatus {
        wait("the program's end", BOOT, || {
            self.program.0.try_wait().unwrap()
        })
    }

    pub fn words(&mut self) -> String {
        let mut words = String::new();
        if let Some(mut out) = self.program.0.stdout.take() {
            out.read_to_string(&mut words).unwrap();
        }
        if let Some(mut err) = self.program.0.stderr.take() {
            err.read_to_string(&mut words).unwrap();
        }
        words
    }

    pub fn assert_nothing_left(&self) {
        wait("everything to be gone", GONE, || {
            self.left_running().is_empty().then_some(())
        });
    }

    pub fn assert_evidence(&self) {
        let scenario = self.run_folder().join("fault");
        let has = |name: &str| {
            let data = fs::metadata(scenario.join(name));
            data.is_ok_and(|data| data.len() > 0)
        };
        for name in ["qemu-argv.txt", "qmp.log", "agent.log"] {
            assert!(
                has(name),
                "{name} is missing or empty in {}",
                scenario.display()
            );
        }
        // A host that went on from a checkpoint may have had nothing to say since.
        let console = has("pve-console.log") || has("pve-console-before.log");
        assert!(console, "there is no console in {}", scenario.display());
    }
}

pub fn cache() -> PathBuf {
    images::Cache::open(std::env::var_os("LAB_CACHE").map(PathBuf::from))
        .unwrap()
        .root()
        .to_owned()
}

pub fn wait<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
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

pub fn processes_with(words: &str) -> Vec<i32> {
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

pub fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}
