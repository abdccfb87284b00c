//! A machine that runs: its channels, its power, and the watch over it while anything is awaited.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use qapi::qmp;
use tokio::sync::watch;

use super::argv::{Placement, argv, disk_nodes};
use super::console::Console;
use super::logs::{self, AGENT_LOG, ARGV, QMP_LOG, STDERR_LOG};
use super::memory::Memory;
use super::process::{Process, ProcessError};
use super::qmp::{Qmp, QmpError};
use super::status::{Asked, Status, follow, incident};
use super::transcript::Transcript;
use crate::accel::Deadlines;
use crate::guest::{Agent, Exec, Guest, GuestError};
use crate::lab::Lab;
use crate::poll::TimedOut;

/// Why a machine did not do what was awaited of it.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// QEMU could not be started.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A file or socket of the machine could not be made.
    #[error("failed to set up the machine's {what}")]
    SetUp {
        /// Which.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// QMP failed.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// A guest channel failed.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// QEMU ended.
    #[error("QEMU ended ({status}) while the lab waited for {what}: {words}")]
    Exited {
        /// What was awaited.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// The last that it wrote.
        words: String,
    },
    /// The host's console shows that it will not come up.
    #[error("the host's console shows `{line}` while the lab waited for {what}")]
    Fatal {
        /// What was awaited.
        what: String,
        /// The line.
        line: String,
    },
    /// The machine was reset, shut down or crashed, and nobody had asked for it.
    #[error("{incident} while the lab waited for {what}")]
    Incident {
        /// What was awaited.
        what: String,
        /// What happened.
        incident: String,
    },
    /// L0 could not do its part.
    #[error("{trouble} while the lab waited for {what}")]
    Lab {
        /// What was awaited.
        what: String,
        /// What went wrong.
        trouble: String,
    },
    /// A saved state could not be taken or given.
    #[error("{trouble} while the lab waited for {what}: {words}")]
    State {
        /// What was awaited.
        what: String,
        /// What went wrong.
        trouble: String,
        /// The last that QEMU wrote.
        words: String,
    },
    /// Nothing happened in time.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// The boot id is the one from before.
    #[error("the host answers, but its boot id is still {0}: it has not rebooted")]
    SameBoot(String),
}

/// How soon after a channel broke QEMU's end or its events are known, if they are the cause.
const CAUSE_COMES_WITHIN: Duration = Duration::from_secs(2);

/// A running machine. Dropping it kills QEMU.
#[derive(Debug)]
pub struct Machine {
    pub(super) process: Process,
    pub(super) qmp: Qmp,
    pub(super) agent: Agent,
    console: Console,
    pub(super) status: watch::Receiver<Status>,
    pub(super) asked: Arc<Asked>,
    waited: AtomicU64,
    pub(super) deadlines: Deadlines,
    pub(super) boot_id: String,
    pub(super) memory: Memory,
    pub(super) sockets: PathBuf,
    /// The block node behind each disk, in the order of [`disk_nodes`].
    pub(super) nodes: Vec<String>,
    /// How often the disks were frozen.
    pub(super) freezes: u32,
}

impl Machine {
    /// Starts QEMU with the CPUs stopped, connects every channel, has `prepare` do what is to be done
    /// before the power comes, lets it run, and waits until the host's guest agent answers and its boot is
    /// over.
    ///
    /// # Errors
    /// When QEMU cannot be started, or the host does not come up: the error says which of process,
    /// console, event or deadline it was.
    pub async fn boot(
        program: Command,
        lab: &Lab,
        place: &Placement,
        evidence: &Path,
        deadlines: Deadlines,
        prepare: impl AsyncFnOnce(&mut Machine) -> Result<(), MachineError>,
    ) -> Result<Self, Box<BootFailure>> {
        let console = Console::default();
        let booted = async {
            let mut machine =
                Self::connect(program, lab, place, evidence, deadlines, console.clone()).await?;
            prepare(&mut machine).await?;
            machine.resume().await?;
            machine.boot_id = machine.wait_until_up("the host's first boot", 0).await?;
            Ok(machine)
        };
        booted.await.map_err(|error| {
            Box::new(BootFailure {
                error,
                console: console.tail(),
            })
        })
    }

    /// Starts QEMU with the CPUs stopped and connects every channel.
    pub(super) async fn connect(
        mut program: Command,
        lab: &Lab,
        place: &Placement,
        evidence: &Path,
        deadlines: Deadlines,
        console: Console,
    ) -> Result<Self, MachineError> {
        let set_up = |what| move |source| MachineError::SetUp { what, source };
        let memory = Memory::new(u64::from(lab.memory_mib) << 20).map_err(set_up("RAM"))?;
        program.args(argv(lab, place, &memory.path()));
        logs::set_aside(evidence).map_err(set_up("record of an earlier machine"))?;
        std::fs::write(evidence.join(ARGV), shown(&program))
            .map_err(set_up("record of QEMU's arguments"))?;
        let qmp_log =
            Transcript::create(&evidence.join(QMP_LOG)).map_err(set_up("transcript of QMP"))?;
        let agent_log = Transcript::create(&evidence.join(AGENT_LOG))
            .map_err(set_up("transcript of the guest agent"))?;

        let process = Process::spawn(program, &evidence.join(STDERR_LOG))?;
        let what = "QEMU's monitor";
        let socket = place.qmp_socket();
        let connect = Qmp::connect(&socket, Some(qmp_log), deadlines.qmp);
        let qmp = tokio::select! {
            biased;
            status = process.wait() => return Err(exited(&process, status, what)),
            qmp = connect => qmp?,
        };
        console
            .connect(&place.console_socket())
            .await
            .map_err(set_up("connection to the console"))?;
        let agent = Agent::new(place.agent_socket(), Some(agent_log))
            .with_answer_limit(deadlines.agent_answer);
        let asked = Arc::new(Asked::default());
        let status = follow(qmp.events(), agent.clone(), Arc::clone(&asked));
        Ok(Machine {
            process,
            qmp,
            agent,
            console,
            status,
            asked,
            waited: AtomicU64::new(0),
            deadlines,
            boot_id: String::new(),
            memory,
            sockets: place.sockets.clone(),
            nodes: disk_nodes(lab),
            freezes: 0,
        })
    }

    /// Lets the CPUs run.
    pub(super) async fn resume(&self) -> Result<(), MachineError> {
        self.qmp.execute(qmp::cont {}, self.deadlines.qmp).await?;
        Ok(())
    }

    /// How long things may take on it.
    pub fn limits(&self) -> Deadlines {
        self.deadlines
    }

    /// The boot id that the host had when it came up.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// L1's guest agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// L1's console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// QEMU's process id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// How long guests were waited for so far.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    /// Waits for `work`, watching the machine: whichever comes first of QEMU's end, an event that
    /// nobody asked for, a fatal console line, the deadline, and the work's own end.
    ///
    /// # Errors
    /// The work's error, or what the watch saw.
    pub async fn watched<T, E>(
        &self,
        what: &str,
        limit: Duration,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, MachineError>
    where
        MachineError: From<E>,
    {
        match self.watched_boot(what, limit, work).await {
            // A host that was up has crashed.
            Err(MachineError::Fatal { what, line }) => Err(MachineError::Incident {
                what,
                incident: format!("the host's console showed `{line}`"),
            }),
            other => other,
        }
    }

    /// As [`Machine::watched`]; a fatal console line is a boot that failed.
    async fn watched_boot<T, E>(
        &self,
        what: &str,
        limit: Duration,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, MachineError>
    where
        MachineError: From<E>,
    {
        let start = Instant::now();
        let mut status = self.status.clone();
        let result = tokio::select! {
            biased;
            exit = self.process.wait() => Err(exited(&self.process, exit, what)),
            incident = incident(&mut status) => Err(incident.error(what)),
            line = self.console.fatal() => Err(fatal(what, line)),
            result = tokio::time::timeout(limit, work) => match result {
                Ok(result) => result.map_err(MachineError::from),
                Err(_) => Err(TimedOut { what: what.to_owned(), waited: limit }.into()),
            },
        };
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(nanos, Ordering::Relaxed);
        // An agent whose host was just reset fails first; what happened to the host says more.
        match result {
            Err(error @ MachineError::Guest(_)) => Err(self.cause_of(error, what).await),
            other => other,
        }
    }

    /// Reboots the host from inside, as a person would, and waits until it is up again.
    ///
    /// # Errors
    /// As [`Machine::watched`], and [`MachineError::SameBoot`].
    pub async fn reboot(&mut self) -> Result<(), MachineError> {
        let resets = self.status.borrow().resets;
        self.asked.off.store(true, Ordering::SeqCst);
        let mut status = self.status.clone();
        let agent = self.agent.clone();
        let limit = self.deadlines.shutdown;
        self.watched("the host's shutdown for its reboot", limit, async {
            let command = agent.exec(Exec::new("systemctl", ["reboot"], limit));
            let mut reset = std::pin::pin!(status.wait_for(|status| status.resets > resets));
            tokio::select! {
                biased;
                _ = &mut reset => return Ok(()),
                result = command => match result {
                    Ok(output) if !output.success() => return Err(GuestError::Failed {
                        guest: agent.name(),
                        command: "systemctl reboot".to_owned(),
                        exit: output.exit,
                        stdout: output.stdout_text(),
                        stderr: output.stderr_text(),
                    }),
                    // The agent is stopped by the reboot that it was asked for.
                    Ok(_) | Err(GuestError::Broken { .. } | GuestError::Timeout { .. }) => {}
                    Err(error) => return Err(error),
                },
            }
            // A closed channel is QEMU's end, which the watch reports.
            let _ = reset.await;
            Ok(())
        })
        .await?;
        // One reboot can be two resets: the kernel tries one way after the other.
        let up = self.up_after("the host's reboot", resets + 1).await;
        self.asked.off.store(false, Ordering::SeqCst);
        up
    }

    /// Waits until the host is up again, in another boot, after so many resets in all.
    pub(super) async fn up_after(&mut self, what: &str, resets: u32) -> Result<(), MachineError> {
        self.console.forget_fatal();
        let boot_id = self.wait_until_up(what, resets).await?;
        if boot_id == self.boot_id {
            return Err(MachineError::SameBoot(boot_id));
        }
        self.boot_id = boot_id;
        Ok(())
    }

    /// Says whether a reset or the machine's end is asked for.
    pub(super) fn expect_off(&self, expected: bool) {
        self.asked.off.store(expected, Ordering::SeqCst);
    }

    /// Shuts the host down from inside and waits until QEMU has ended.
    ///
    /// # Errors
    /// When it has not ended by the deadline.
    pub async fn power_off(self) -> Result<(), MachineError> {
        self.asked.off.store(true, Ordering::SeqCst);
        let limit = self.deadlines.shutdown;
        let request = self.agent.exec(Exec::new("systemctl", ["poweroff"], limit));
        let ended = tokio::time::timeout(limit, async {
            tokio::select! {
                biased;
                status = self.process.wait() => status,
                // Whatever becomes of the request, the process's end is what counts.
                _ = async { let _ = request.await; std::future::pending::<()>().await } => ExitStatus::default(),
            }
        })
        .await;
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(exited(&self.process, status, "the host's power off")),
            Err(_) => Err(TimedOut {
                what: "the host's power off".to_owned(),
                waited: limit,
            }
            .into()),
        }
    }

    /// From now on the host is a person's: resets and shutdowns are nobody's surprise.
    pub fn let_go(&self) {
        self.asked.off.store(true, Ordering::SeqCst);
    }

    /// Whether QEMU runs.
    pub fn is_alive(&self) -> bool {
        self.process.exited().is_none()
    }

    /// Waits for QEMU's end, and says how it ended.
    pub async fn ended(&self) -> ExitStatus {
        self.process.wait().await
    }

    /// Ends the machine at once.
    pub async fn kill(self) {
        self.process.kill().await;
    }

    async fn wait_until_up(&self, what: &str, resets: u32) -> Result<String, MachineError> {
        let mut status = self.status.clone();
        self.watched_boot(what, self.deadlines.boot, async {
            let open = |status: &Status| status.resets >= resets && status.agent_open;
            if status.wait_for(open).await.is_err() {
                // QEMU closed its monitor; the watch reports its end.
                std::future::pending::<()>().await;
            }
            self.agent.wait_ready(self.deadlines.boot).await?;
            let settled = Exec::settled(self.deadlines.boot);
            let output = self.agent.run(settled).await?;
            Ok::<_, MachineError>(output.stdout_text().trim().to_owned())
        })
        .await
    }

    /// A broken channel is a symptom: gives the process or the events a moment to name the cause.
    async fn cause_of(&self, error: MachineError, what: &str) -> MachineError {
        let MachineError::Guest(GuestError::Broken { .. } | GuestError::Timeout { .. }) = &error
        else {
            return error;
        };
        let mut status = self.status.clone();
        let cause = async {
            tokio::select! {
                biased;
                exit = self.process.wait() => exited(&self.process, exit, what),
                incident = incident(&mut status) => incident.error(what),
            }
        };
        tokio::time::timeout(CAUSE_COMES_WITHIN, cause)
            .await
            .unwrap_or(error)
    }
}

/// A boot that did not come up, with the last that the console showed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct BootFailure {
    /// Why.
    pub error: MachineError,
    /// The console's last lines.
    pub console: Vec<String>,
}

/// What Linux panics with where its clock did not tick in the first moments of a boot.
const NO_TICKS: &str = "timer doesn't work through";

/// A line that ends a boot. Linux waits for ticks of the emulated clock by counting L0's cycles; where L0 lets QEMU's own thread
/// wait for so long, there are none. Under KVM, Linux does not look.
fn fatal(what: &str, line: String) -> MachineError {
    let what = what.to_owned();
    if line.contains(NO_TICKS) {
        let trouble = format!(
            "this machine is too busy to emulate a clock: the host's kernel says `{line}`; run the scenario again with less \
             beside it, or with --jobs 1"
        );
        return MachineError::Lab { what, trouble };
    }
    MachineError::Fatal { what, line }
}

fn exited(process: &Process, status: ExitStatus, what: &str) -> MachineError {
    MachineError::Exited {
        what: what.to_owned(),
        status,
        words: process.last_words(),
    }
}

/// A command as one can paste it into a shell.
fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        text.push_str(if argument.starts_with('-') {
            " \\\n  "
        } else {
            " "
        });
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:+".contains(c);
        if argument.chars().all(plain) {
            text.push_str(&argument);
        } else {
            text.push_str(&format!("'{}'", argument.replace('\'', r"'\''")));
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_survives_a_shell() {
        let mut command = Command::new("qemu");
        command.args(["-name", "it's"]);
        assert_eq!(shown(&command), "qemu \\\n  -name 'it'\\''s'\n");
    }
    #[test]
    fn a_clock_that_this_machine_was_too_busy_to_emulate_says_nothing_of_the_host() {
        let line = |words: &str| format!("[    1.415160] Kernel panic - not syncing: {words}");
        let clock = line("timer doesn't work through Interrupt-remapped IO-APIC");
        let error = fatal("the host's reboot", clock);
        assert!(matches!(error, MachineError::Lab { .. }), "{error}");
        let error = fatal("the host's reboot", line("VFS: Unable to mount root fs"));
        assert!(matches!(error, MachineError::Fatal { .. }), "{error}");
    }
}
