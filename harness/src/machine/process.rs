//! A child process that cannot outlive the harness, whatever ends either of them.

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::sync::watch;

use crate::poll::{Pace, TimedOut, poll};

/// What went wrong with a child process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("failed to start {}", program.display())]
    Start {
        /// What was to be run.
        program: PathBuf,
        /// Why it could not.
        source: io::Error,
    },
    /// Its output file could not be made.
    #[error("failed to create {}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A running child, in a process group of its own, killed when this value is dropped and by the
/// kernel when the harness dies.
#[derive(Debug)]
pub struct Process {
    pidfd: std::os::fd::OwnedFd,
    pid: u32,
    stderr: PathBuf,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Starts `command` with its standard output and error going to `stderr`.
    ///
    /// # Errors
    /// When the file cannot be made or the program cannot be run.
    pub fn spawn(mut command: Command, stderr: &Path) -> Result<Self, ProcessError> {
        let output_error = |source| ProcessError::Output {
            path: stderr.to_owned(),
            source,
        };
        let log = File::create(stderr).map_err(output_error)?;
        let second = log.try_clone().map_err(output_error)?;
        command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(second)
            .process_group(0);
        let program = PathBuf::from(command.get_program());
        let start_error = |source| ProcessError::Start {
            program: program.clone(),
            source,
        };

        let mut child = spawn_from_keeper(command).map_err(start_error)?;
        let pid = child.id();
        let pidfd = match i32::try_from(pid).ok().and_then(Pid::from_raw) {
            Some(raw) => rustix::process::pidfd_open(raw, PidfdFlags::empty())
                .map_err(|errno| start_error(errno.into()))?,
            None => {
                return Err(start_error(io::Error::other(
                    "the kernel gave no process id",
                )));
            }
        };
        let (sender, exit) = watch::channel(None);
        std::thread::Builder::new()
            .name(format!("wait-{pid}"))
            .spawn(move || {
                let status = child
                    .wait()
                    .unwrap_or_else(|_| ExitStatus::from_raw(0x7f00));
                sender.send_replace(Some(status));
            })
            .map_err(start_error)?;
        Ok(Process {
            pidfd,
            pid,
            stderr: stderr.to_owned(),
            exit,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits until it has ended.
    pub async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or_default(),
            Err(_) => ExitStatus::default(),
        }
    }

    /// Kills it and waits until it is gone.
    pub async fn kill(&self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.wait().await
    }

    /// Stops it, and waits until each of its threads stands still.
    ///
    /// # Errors
    /// When one does not.
    pub async fn halt(&self, limit: Duration) -> Result<(), TimedOut> {
        self.signal(Signal::STOP);
        let what = format!("the process {} to stand still", self.pid);
        poll(&what, limit, Pace::QUICK, async || {
            Ok(stands_still(&PathBuf::from(format!("/proc/{}/task", self.pid))).then_some(()))
        })
        .await
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// The last lines of what it wrote to its standard output and error.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.stderr).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    fn signal(&self, signal: Signal) {
        // A process that is already gone needs no signal.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Whether every thread in a `task` folder of /proc is stopped.
fn stands_still(tasks: &Path) -> bool {
    let Ok(tasks) = std::fs::read_dir(tasks) else {
        return false;
    };
    tasks.flatten().all(|task| {
        // A thread that has ended meanwhile stands still too.
        std::fs::read_to_string(task.path().join("stat"))
            .map_or(true, |stat| state(&stat) == Some('T'))
    })
}

/// The state in a line of /proc/PID/stat, which comes after a name in parentheses that may hold anything.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

type Spawned = io::Result<Child>;

/// Starts a child from a thread that lives as long as the harness: the kernel's parent-death
/// signal is sent when the *thread* that started a child ends, and a runtime's threads come and go.
fn spawn_from_keeper(command: Command) -> Spawned {
    static KEEPER: OnceLock<mpsc::Sender<(Command, mpsc::Sender<Spawned>)>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<(Command, mpsc::Sender<Spawned>)>();
        let keep = move || {
            for (mut command, answer) in jobs {
                // The asker is waiting; if it is not, there is nobody to tell.
                let _ = answer.send(die_with_parent(&mut command).spawn());
            }
        };
        // Without this thread there is no child, and the next line reports it.
        let _ = std::thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(keep);
        sender
    });
    let gone = || io::Error::other("the thread that starts processes is gone");
    let (sender, answer) = mpsc::channel();
    keeper.send((command, sender)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

#[expect(
    unsafe_code,
    reason = "std marks every pre_exec hook unsafe; this one makes two system calls that are safe after fork"
)]
fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = rustix::process::getpid();
    let hook = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::other(
                "the harness died while it started this process",
            ))
        }
    };
    // SAFETY: the hook allocates nothing and takes no lock on its success path; prctl and getppid
    // are async-signal-safe.
    unsafe { command.pre_exec(hook) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_process_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        let process = Process::spawn(command, &dir.path().join("err")).unwrap();
        let exit = process.exit.clone();
        assert!(process.exited().is_none());
        drop(process);
        let mut exit = exit;
        let status = exit.wait_for(Option::is_some).await.unwrap().unwrap();
        assert_eq!(status.signal(), Some(9));
    }

    #[tokio::test]
    async fn a_halted_process_stands_still_until_it_may_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        let file = dir.path().join("beats");
        command
            .args(["-c", "while :; do echo x >>\"$0\"; done"])
            .arg(&file);
        let process = Process::spawn(command, &dir.path().join("err")).unwrap();
        let limit = Duration::from_secs(30);
        let size = || std::fs::metadata(&file).map(|data| data.len()).unwrap_or(0);
        let grows = async |than: u64| {
            poll("it to write", limit, Pace::QUICK, async || {
                Ok::<_, TimedOut>((size() > than).then_some(()))
            })
            .await
            .unwrap();
        };
        grows(0).await;
        process.halt(limit).await.unwrap();
        let before = size();
        process.halt(limit).await.unwrap();
        assert_eq!(size(), before);
        process.go_on();
        grows(before).await;
        assert_eq!(state("12 (a) b) T 1"), Some('T'));
    }

    #[tokio::test]
    async fn the_last_words_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo out of cheese >&2; exit 3"]);
        let process = Process::spawn(command, &dir.path().join("err")).unwrap();
        assert_eq!(process.wait().await.code(), Some(3));
        assert_eq!(process.last_words(), "out of cheese");
    }

    #[test]
    fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            Process::spawn(Command::new("/no/such/qemu"), &dir.path().join("err")).unwrap_err();
        assert!(error.to_string().contains("/no/such/qemu"));
    }
}
