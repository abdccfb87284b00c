//! QMP, QEMU's control channel. No other module speaks it.
//!
//! One task owns the connection. Callers hand it a request and wait for the reply; a caller that
//! goes away does the connection no harm. A request that is not answered in time ends the
//! connection: QEMU answers in order, so nothing behind it would be answered either. Events are
//! data: one that nobody knows is passed on like any other.

mod event;
mod task;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qapi::{Command, Execute};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;

pub use self::event::{QmpEvent, QmpSignal};
use self::task::{Request, negotiate, own};
use super::transcript::Transcript;
use super::wire::Wire;
use crate::poll::{Pace, TimedOut, poll};

/// Events that a slow reader may be behind before it loses the oldest.
const EVENTS_KEPT: usize = 4096;

/// Why QMP did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// There is no socket, or nobody listens.
    #[error(transparent)]
    NotThere(#[from] TimedOut),
    /// Something answered, but not as QEMU does; or another client holds the socket.
    #[error("no QMP at {}: {message}", socket.display())]
    Negotiation {
        /// The socket.
        socket: PathBuf,
        /// What was seen.
        message: String,
    },
    /// QEMU said no.
    #[error("QEMU refused {command}: {message}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's error class, such as `GenericError`.
        class: String,
        /// QEMU's own words.
        message: String,
    },
    /// No answer in time. The connection is closed with it.
    #[error("QEMU did not answer {command} within {:.1} s", limit.as_secs_f64())]
    Timeout {
        /// The command.
        command: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The connection is gone, most often because QEMU is.
    #[error("the QMP connection is closed ({reason}), so {command} was not done")]
    Closed {
        /// The command.
        command: String,
        /// What ended it.
        reason: String,
    },
    /// The answer is not of the shape that the command has.
    #[error("QEMU's answer to {command} cannot be read")]
    Answer {
        /// The command.
        command: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// A connection to QEMU's monitor. Clones use the same connection; it closes with the last one.
#[derive(Debug, Clone)]
pub struct Qmp {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    requests: mpsc::UnboundedSender<Request>,
    next_id: AtomicU64,
    events: broadcast::WeakSender<QmpEvent>,
    /// Made before the first event could come, and given to the first who asks.
    first: Mutex<Option<broadcast::Receiver<QmpEvent>>>,
    closed: Arc<Mutex<Option<String>>>,
}

impl Qmp {
    /// Connects and negotiates, waiting for the socket to appear.
    ///
    /// # Errors
    /// [`QmpError::NotThere`] or [`QmpError::Negotiation`].
    pub async fn connect(
        socket: &Path,
        transcript: Option<Transcript>,
        limit: Duration,
    ) -> Result<Qmp, QmpError> {
        let what = format!("the QMP socket {}", socket.display());
        let mut wire = poll(&what, limit, Pace::QUICK, async || {
            Ok::<_, QmpError>(Wire::connect(socket, transcript.clone()).await.ok())
        })
        .await?;
        let failed = |message: String| QmpError::Negotiation {
            socket: socket.to_owned(),
            message,
        };
        match timeout(limit, negotiate(&mut wire)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => {
                return Err(failed(
                    "no greeting; does another client hold it?".to_owned(),
                ));
            }
        }
        let (requests, inbox) = mpsc::unbounded_channel();
        let (events, first) = broadcast::channel(EVENTS_KEPT);
        let closed = Arc::new(Mutex::new(None));
        let shared = Shared {
            requests,
            next_id: AtomicU64::new(1),
            events: events.downgrade(),
            first: Mutex::new(Some(first)),
            closed: closed.clone(),
        };
        tokio::spawn(own(wire, inbox, events, closed));
        Ok(Qmp {
            shared: Arc::new(shared),
        })
    }

    /// Runs a command. The time runs from when QEMU is given it: commands run one after another.
    ///
    /// # Errors
    /// [`QmpError::Refused`] leaves the connection as it was; `Timeout` and `Closed` end it.
    pub async fn execute<C: Command>(
        &self,
        command: C,
        limit: Duration,
    ) -> Result<C::Ok, QmpError> {
        let id = self.next_id();
        let line = serde_json::to_string(&Execute::with_id(command, id));
        let answer = self.request(id, C::NAME, line, limit).await?;
        serde_json::from_value(answer).map_err(|source| QmpError::Answer {
            command: C::NAME.to_owned(),
            source,
        })
    }

    /// Runs a command that the `qapi` crate does not know, or whose answer has values that it does
    /// not know.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn execute_untyped(
        &self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        let id = self.next_id();
        let line = serde_json::json!({ "execute": command, "arguments": arguments, "id": id });
        self.request(id, command, Ok(line.to_string()), limit).await
    }

    /// What happens in QEMU from now on; for the first who asks, from the connection's beginning.
    /// The stream ends when the connection does, and outlives no event: a reader that is thousands
    /// behind loses the oldest and is told so.
    pub fn events(&self) -> broadcast::Receiver<QmpEvent> {
        let mut first = lock(&self.shared.first);
        first
            .take()
            .unwrap_or_else(|| match self.shared.events.upgrade() {
                Some(events) => events.subscribe(),
                // The connection is gone: a stream that has ended.
                None => broadcast::channel(1).1,
            })
    }

    /// Whether the connection has ended, and why.
    pub fn closed(&self) -> Option<String> {
        lock(&self.shared.closed).clone()
    }

    fn next_id(&self) -> u64 {
        self.shared.next_id.fetch_add(1, Ordering::Relaxed)
    }

    async fn request(
        &self,
        id: u64,
        command: &str,
        line: serde_json::Result<String>,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        let line = line.map_err(|source| QmpError::Answer {
            command: command.to_owned(),
            source,
        })?;
        let (reply, answer) = oneshot::channel();
        let request = Request {
            id,
            command: command.to_owned(),
            line,
            limit,
            reply,
        };
        let closed = || QmpError::Closed {
            command: command.to_owned(),
            reason: self.closed().unwrap_or_else(|| "it ended".to_owned()),
        };
        self.shared.requests.send(request).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
