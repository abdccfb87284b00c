//! L1's guest agent, through the socket of its virtio-serial port.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qapi::{Command, qga};
use tokio::time::timeout;

use super::exec::{Exec, Exit, Guest, GuestError, Output};
use super::link::{Link, NAME};
use crate::accel::Deadlines;
use crate::machine::transcript::Transcript;
use crate::poll::{Pace, TimedOut, poll};

/// What a file is read and written by at a time. Bigger pieces are fewer round trips; the agent
/// reads its port byte by byte, so the gain ends soon.
const PIECE: usize = 192 * 1024;

/// The first attempt at a new connection is given up after this; later ones are given more time,
/// since a guest that boots under emulation can be slow without being dead.
const FIRST_ATTEMPT: Duration = Duration::from_millis(500);

/// What Proxmox VE gives QEMU and guest agents for an ordinary answer (qemu-server, QMPClient.pm).
const QM_ANSWER: Duration = Duration::from_secs(5);

/// Looked at a closed port again after this, in case the news of its opening got lost.
const TRUST_IN_PORT: Duration = Duration::from_secs(5);

/// The guest agent of L1. Clones use the same connection.
#[derive(Debug, Clone)]
pub struct Agent {
    link: Arc<Link>,
    answer: Duration,
}

impl Agent {
    /// An agent behind a socket. Nothing is connected until something is asked.
    ///
    /// Must be called within a Tokio runtime: a task that owns the connection is started.
    pub fn new(socket: PathBuf, transcript: Option<Transcript>) -> Self {
        Agent {
            link: Arc::new(Link::new(socket, transcript)),
            answer: Deadlines::TCG.agent_answer,
        }
    }

    /// The same agent with another limit for each of its answers; without this it is the one for
    /// the slowest accelerator. A command's own time is not part of it.
    pub fn with_answer_limit(self, answer: Duration) -> Self {
        Agent { answer, ..self }
    }

    /// How long the agent may take over one request.
    pub fn answer_limit(&self) -> Duration {
        self.answer
    }

    /// Whether the agent's last request got no answer in its time, so that the next one has little hope.
    pub fn is_silent(&self) -> bool {
        self.link.is_silent()
    }

    /// The assignment by which the Proxmox-like image's `qm` gives guests of its own as long for an answer as this
    /// agent has. A guest that loses a disk, or whose host has little CPU time, answers nothing for longer than `qm`
    /// waits by itself, and is not dead.
    pub fn qm_patience(&self) -> String {
        let scale = self.answer.div_duration_f64(QM_ANSWER).max(1.0);
        format!("QM_TIMEOUT_SCALE={scale}")
    }

    /// `qm` with [that patience](Self::qm_patience). Not for a wait that looks again by itself.
    pub fn patient_qm<I>(&self, words: I, limit: Duration) -> Exec
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let qm = [self.qm_patience(), "qm".to_owned()];
        Exec::new(
            "env",
            qm.into_iter().chain(words.into_iter().map(Into::into)),
            limit,
        )
    }

    /// Tells what QMP's `VSERPORT_CHANGE` said of the agent's port. When the guest closes it, a
    /// request under way fails at once instead of at its deadline, and [`Agent::wait_ready`] waits
    /// for the opening instead of trying.
    pub fn port_changed(&self, open: bool) {
        self.link.port_changed(open);
    }

    /// Asks whether the agent is there.
    ///
    /// # Errors
    /// As [`Guest::exec`].
    pub async fn ping(&self) -> Result<(), GuestError> {
        self.ask("guest-ping", qga::guest_ping {}).await.map(drop)
    }

    /// The kernel's boot id, another one after every boot.
    ///
    /// # Errors
    /// As [`Guest::read_file`].
    pub async fn boot_id(&self) -> Result<String, GuestError> {
        let text = self.read_file("/proc/sys/kernel/random/boot_id").await?;
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// Waits until the agent answers. Each attempt is a connection of its own: one made while the
    /// firmware runs is never answered.
    ///
    /// # Errors
    /// [`GuestError::Timeout`]; the transcript has the attempts.
    pub async fn wait_ready(&self, limit: Duration) -> Result<(), GuestError> {
        let end = Instant::now() + limit;
        let mut attempt = FIRST_ATTEMPT.min(self.answer);
        let mut port = self.link.port();
        // Owned by the closure: one that borrows from `self` cannot be proven `Send`.
        let agent = self.clone();
        let ready = async move || {
            let left = || end.saturating_duration_since(Instant::now());
            // Nothing to try while the guest is known not to listen.
            let open = port.wait_for(|port| port.open != Some(false));
            let _ = timeout(left().min(TRUST_IN_PORT), open).await;
            let limit = attempt.min(left());
            attempt = (attempt * 3 / 2).min(agent.answer);
            let pinged = agent
                .link
                .ask("guest-ping", qga::guest_ping {}, limit)
                .await;
            Ok::<_, TimedOut>(pinged.ok())
        };
        let waited = poll("the guest agent", limit, Pace::QUICK, ready).await;
        waited.map(drop).map_err(|_| GuestError::Timeout {
            guest: NAME,
            request: "its first request".to_owned(),
            limit,
        })
    }

    async fn ask<C: Command>(&self, what: &str, command: C) -> Result<C::Ok, GuestError> {
        self.link.ask(what, command, self.answer).await
    }

    async fn open(&self, path: &str, mode: &str) -> Result<OpenFile<'_>, GuestError> {
        let command = qga::guest_file_open {
            path: path.to_owned(),
            mode: Some(mode.to_owned()),
        };
        let handle = self
            .ask(&format!("guest-file-open {path}"), command)
            .await?;
        Ok(OpenFile {
            agent: self,
            handle,
            usable: true,
        })
    }
}

/// A file that is open in the guest, closed again whatever happens to the caller.
struct OpenFile<'a> {
    agent: &'a Agent,
    handle: i64,
    /// Whether the agent can still be asked to close it.
    usable: bool,
}

impl OpenFile<'_> {
    async fn ask<C: Command>(&mut self, what: &str, command: C) -> Result<C::Ok, GuestError> {
        let result = self.agent.ask(what, command).await;
        // An agent that went away closed its files; one that does not answer will not close them.
        let refused = matches!(result, Err(GuestError::Refused { .. }));
        self.usable = result.is_ok() || refused;
        result
    }

    async fn close(mut self, path: &str) -> Result<(), GuestError> {
        let handle = self.handle;
        let what = format!("guest-file-close {path}");
        self.ask(&what, qga::guest_file_close { handle }).await?;
        self.usable = false;
        Ok(())
    }
}

impl Drop for OpenFile<'_> {
    fn drop(&mut self) {
        if self.usable {
            let command = qga::guest_file_close {
                handle: self.handle,
            };
            let agent = self.agent;
            agent.link.tell("guest-file-close", command, agent.answer);
        }
    }
}

/// What a command left behind, from the agent's last word on it.
fn output(request: &str, status: qga::GuestExecStatus) -> Result<Output, GuestError> {
    let refused = |message: &str| GuestError::Refused {
        guest: NAME,
        request: request.to_owned(),
        message: message.to_owned(),
    };
    if status.out_truncated == Some(true) || status.err_truncated == Some(true) {
        return Err(refused("its output was cut short: the agent keeps 16 MiB"));
    }
    let exit = match (status.signal, status.exitcode) {
        (Some(signal), _) => i32::try_from(signal).map(Exit::Signal),
        (None, Some(code)) => i32::try_from(code).map(Exit::Code),
        (None, None) => return Err(refused("it ended with neither exit code nor signal")),
    };
    Ok(Output {
        exit: exit.map_err(|_| refused("its exit code is out of range"))?,
        stdout: status.out_data.unwrap_or_default(),
        stderr: status.err_data.unwrap_or_default(),
    })
}

/// What ends the wait for a command.
enum Ended {
    Late,
    Trouble(GuestError),
}

impl From<TimedOut> for Ended {
    fn from(_: TimedOut) -> Self {
        Ended::Late
    }
}

impl Guest for Agent {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn exec(&self, exec: Exec) -> Result<Output, GuestError> {
        let request = exec.command_line();
        let limit = exec.limit;
        let command = qga::guest_exec {
            path: exec.program,
            arg: Some(exec.args),
            env: None,
            input_data: exec.input,
            capture_output: Some(qga::GuestExecCaptureOutput::flag(true)),
        };
        let pid = self.ask(&request, command).await?.pid;
        // Owned by the closure, as above.
        let (agent, what) = (self.clone(), request.clone());
        let status = async move || {
            let status = agent.ask(&what, qga::guest_exec_status { pid }).await;
            match status {
                Ok(status) => Ok(status.exited.then_some(status)),
                Err(error) => Err(Ended::Trouble(error)),
            }
        };
        match poll(&request, limit, Pace::QUICK, status).await {
            Ok(status) => output(&request, status),
            Err(Ended::Trouble(error)) => Err(error),
            Err(Ended::Late) => Err(GuestError::Timeout {
                guest: NAME,
                request,
                limit,
            }),
        }
    }

    async fn read_file(&self, path: &str) -> Result<Vec<u8>, GuestError> {
        let mut file = self.open(path, "r").await?;
        let mut content = Vec::new();
        loop {
            let command = qga::guest_file_read {
                handle: file.handle,
                count: Some(PIECE as i64),
            };
            let piece = file
                .ask(&format!("guest-file-read {path}"), command)
                .await?;
            content.extend_from_slice(&piece.buf_b64);
            if piece.eof || piece.buf_b64.is_empty() {
                break;
            }
        }
        file.close(path).await?;
        Ok(content)
    }

    async fn write_file(&self, path: &str, content: &[u8]) -> Result<(), GuestError> {
        let mut file = self.open(path, "w").await?;
        let mut rest = content;
        while !rest.is_empty() {
            let piece = &rest[..rest.len().min(PIECE)];
            let command = qga::guest_file_write {
                handle: file.handle,
                buf_b64: piece.to_vec(),
                count: None,
            };
            let what = format!("guest-file-write {path}");
            let written = file.ask(&what, command).await?.count;
            let written = usize::try_from(written).unwrap_or(0);
            if written == 0 || written > piece.len() {
                return Err(GuestError::Refused {
                    guest: NAME,
                    request: what,
                    message: format!("{written} of {} bytes written", piece.len()),
                });
            }
            rest = &rest[written..];
        }
        file.close(path).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_guest_s_guest_has_as_long_for_an_answer_as_its_host() {
        let line = |answer| {
            let agent = Agent::new(PathBuf::from("/nonexistent"), None);
            let agent = agent.with_answer_limit(Duration::from_secs(answer));
            agent.patient_qm(["list"], Duration::ZERO).command_line()
        };
        assert_eq!(line(60), "env QM_TIMEOUT_SCALE=12 qm list");
        // Never less than Proxmox VE gives.
        assert_eq!(line(1), "env QM_TIMEOUT_SCALE=1 qm list");
    }
}
