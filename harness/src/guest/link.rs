//! The connection to L1's guest agent and the task that owns it.
//!
//! QEMU's chardev serves one client at a time, and what one client left unread the next one gets.
//! So: one task, one connection, one request at a time; every new connection begins with
//! `guest-sync-delimited`, which throws away whatever is older; a request that is not answered in
//! time costs the connection, and the next request makes a new one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use qapi::{Command, Execute, qga};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::exec::GuestError;
use crate::machine::transcript::Transcript;
use crate::machine::wire::Wire;

/// The name of the guest that the agent runs in, for errors.
pub(super) const NAME: &str = "pve";

/// What goes before and after a synchronisation: it can stand in no JSON text.
const SENTINEL: u8 = 0xff;

/// The guest's end of the agent's port, as QMP's `VSERPORT_CHANGE` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Port {
    /// Nothing was said of it yet, or the last that was said.
    pub(super) open: Option<bool>,
    /// How often it was closed. A connection made before a closing is of no use after it.
    closings: u64,
}

/// A caller's end.
#[derive(Debug)]
pub(super) struct Link {
    requests: mpsc::UnboundedSender<Request>,
    port: watch::Sender<Port>,
    silent: Arc<AtomicBool>,
    next_id: AtomicU64,
}

#[derive(Debug)]
struct Request {
    id: u64,
    what: String,
    line: String,
    limit: Duration,
    /// Without one, nobody waits for the answer, and the request is served all the same.
    reply: Option<oneshot::Sender<Result<Value, GuestError>>>,
}

impl Link {
    pub(super) fn new(socket: PathBuf, transcript: Option<Transcript>) -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        let (port, seen) = watch::channel(Port::default());
        let silent = Arc::new(AtomicBool::new(false));
        let owner = Owner {
            socket,
            transcript,
            port: seen,
            silent: Arc::clone(&silent),
            wire: None,
        };
        tokio::spawn(owner.serve(inbox));
        Link {
            requests,
            port,
            silent,
            // Not from 1: an answer to an earlier process's request must not look like one of ours.
            next_id: AtomicU64::new(random()),
        }
    }

    pub(super) fn port_changed(&self, open: bool) {
        self.port.send_modify(|port| {
            // Said again, it is no news: only a closing counts.
            port.closings += u64::from(!open && port.open != Some(false));
            port.open = Some(open);
        });
    }

    /// Whether the last request that was served got no answer in its time.
    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    pub(super) fn port(&self) -> watch::Receiver<Port> {
        self.port.subscribe()
    }

    /// Asks the agent and waits for its answer; `what` names the request in errors.
    pub(super) async fn ask<C: Command>(
        &self,
        what: &str,
        command: C,
        limit: Duration,
    ) -> Result<C::Ok, GuestError> {
        let (reply, answer) = oneshot::channel();
        let gone = |message: &str| GuestError::Broken {
            guest: NAME,
            request: what.to_owned(),
            message: message.to_owned(),
        };
        self.enqueue(what, command, limit, Some(reply));
        let value = answer
            .await
            .map_err(|_| gone("its task has ended with the run"))??;
        serde_json::from_value(value)
            .map_err(|error| gone(&format!("the answer cannot be read: {error}")))
    }

    /// Asks the agent without waiting, for cleaning up where nobody can wait.
    pub(super) fn tell<C: Command>(&self, what: &str, command: C, limit: Duration) {
        self.enqueue(what, command, limit, None);
    }

    fn enqueue<C: Command>(
        &self,
        what: &str,
        command: C,
        limit: Duration,
        reply: Option<oneshot::Sender<Result<Value, GuestError>>>,
    ) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        // The qapi types hold strings, numbers and base64 only: they always serialize. If one did
        // not, the reply is dropped here and its caller is told so.
        if let Ok(line) = serde_json::to_string(&Execute::with_id(command, id)) {
            let request = Request {
                id,
                what: what.to_owned(),
                line,
                limit,
                reply,
            };
            // As above: a closed queue drops the reply.
            let _ = self.requests.send(request);
        }
    }
}

/// What ended a request without an answer of the agent.
enum Trouble {
    /// The agent's own error; the connection is as good as before.
    Refused(String),
    /// The connection is of no use any more.
    Broken(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Broken(error.to_string())
    }
}

struct Owner {
    socket: PathBuf,
    transcript: Option<Transcript>,
    port: watch::Receiver<Port>,
    silent: Arc<AtomicBool>,
    /// The connection, and how often the port had been closed when it was made.
    wire: Option<(Wire, u64)>,
}

impl Owner {
    async fn serve(mut self, mut inbox: mpsc::UnboundedReceiver<Request>) {
        while let Some(request) = inbox.recv().await {
            let Request {
                id,
                what,
                line,
                limit,
                reply,
            } = request;
            if reply.as_ref().is_some_and(oneshot::Sender::is_closed) {
                continue;
            }
            let served = timeout(limit, self.answer(id, &line)).await;
            self.silent.store(served.is_err(), Ordering::Relaxed);
            let guest = NAME;
            let result = match served {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(Trouble::Refused(message))) => Err(GuestError::Refused {
                    guest,
                    request: what,
                    message,
                }),
                Ok(Err(Trouble::Broken(message))) => {
                    self.drop_wire(&message);
                    Err(GuestError::Broken {
                        guest,
                        request: what,
                        message,
                    })
                }
                Err(_) => {
                    self.drop_wire("no answer in time");
                    Err(GuestError::Timeout {
                        guest,
                        request: what,
                        limit,
                    })
                }
            };
            if let Some(reply) = reply {
                // Whoever asked may be gone.
                let _ = reply.send(result);
            }
        }
    }

    fn drop_wire(&mut self, why: &str) {
        if let Some((wire, _)) = self.wire.take() {
            wire.note(&format!("connection given up: {why}"));
        }
    }

    async fn answer(&mut self, id: u64, line: &str) -> Result<Value, Trouble> {
        let closings = self.port.borrow().closings;
        // Anything that came in between two requests belongs to neither.
        let usable = |(wire, made): &(Wire, u64)| *made == closings && wire.is_quiet();
        if !self.wire.as_ref().is_some_and(usable) {
            self.drop_wire("it is not as the last answer left it");
        }
        let mut port = self.port.clone();
        let hung_up = port.wait_for(|port| port.closings != closings);
        tokio::select! {
            result = exchange(&mut self.wire, &self.socket, &self.transcript, closings, id, line) => result,
            // An error here says that no news can come any more, not that the port was closed.
            Ok(_) = hung_up => Err(Trouble::Broken("the guest closed the agent's port".to_owned())),
        }
    }
}

async fn exchange(
    slot: &mut Option<(Wire, u64)>,
    socket: &Path,
    transcript: &Option<Transcript>,
    closings: u64,
    id: u64,
    line: &str,
) -> Result<Value, Trouble> {
    let wire = match slot {
        Some((wire, _)) => wire,
        None => {
            let wire = synchronise(socket, transcript.clone()).await?;
            &mut slot.insert((wire, closings)).0
        }
    };
    wire.send(b"", line).await?;
    loop {
        let line = next(wire).await?;
        let mut value: Value = serde_json::from_slice(&line).map_err(|error| {
            Trouble::Broken(format!("the agent sent what is not JSON: {error}"))
        })?;
        let error = value
            .get("error")
            .map(|error| match error["desc"].as_str() {
                Some(text) => text.to_owned(),
                None => error.to_string(),
            });
        if value["id"].as_u64() != Some(id) {
            if let (Some(text), None) = (error, value.get("id")) {
                return Err(Trouble::Broken(format!(
                    "the agent could not read it: {text}"
                )));
            }
            // An answer to another request, or a second one to an earlier: of no interest.
            continue;
        }
        if let Some(text) = error {
            return Err(Trouble::Refused(text));
        }
        return match value.get_mut("return") {
            Some(answer) => Ok(answer.take()),
            None => Err(Trouble::Broken(
                "the agent's answer has no content".to_owned(),
            )),
        };
    }
}

async fn synchronise(socket: &Path, transcript: Option<Transcript>) -> Result<Wire, Trouble> {
    let mut wire = Wire::connect(socket, transcript)
        .await
        .map_err(|error| Trouble::Broken(format!("cannot connect: {error}")))?;
    // The agent's integers are signed, and JSON readers are safest below 2^53.
    let id = i64::try_from(random()).map_err(|error| Trouble::Broken(error.to_string()))?;
    let command = qga::guest_sync_delimited { id };
    let line = serde_json::to_string(&Execute::<_, u64>::with_command(command))
        .map_err(|error| Trouble::Broken(error.to_string()))?;
    // The sentinel in front makes the agent's reader forget a request that was cut short.
    wire.send(&[SENTINEL], &line).await?;
    loop {
        let line = next(&mut wire).await?;
        let Some(at) = line.iter().rposition(|byte| *byte == SENTINEL) else {
            continue;
        };
        let answer = serde_json::from_slice::<Value>(&line[at + 1..]);
        // Another id answers an earlier connection's synchronisation.
        if answer.is_ok_and(|value| value["return"].as_i64() == Some(id)) {
            return Ok(wire);
        }
    }
}

async fn next(wire: &mut Wire) -> Result<Vec<u8>, Trouble> {
    wire.line()
        .await?
        .ok_or_else(|| Trouble::Broken("the agent's socket was closed".to_owned()))
}

/// A number that no earlier connection is likely to have used, below 2^52.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) >> 12
}
