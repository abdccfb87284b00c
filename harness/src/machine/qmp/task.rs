//! The task that owns a QMP connection.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qapi::Execute;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;

use super::{QmpError, QmpEvent, lock};
use crate::machine::wire::Wire;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) command: String,
    pub(super) line: String,
    pub(super) limit: Duration,
    pub(super) reply: oneshot::Sender<Result<Value, QmpError>>,
}

pub(super) async fn negotiate(wire: &mut Wire) -> io::Result<()> {
    let hung_up = || io::Error::other("it hung up during the greeting");
    let greeting = wire.line().await?.ok_or_else(hung_up)?;
    let value: Value = serde_json::from_slice(&greeting)?;
    if value.get("QMP").is_none() {
        return Err(io::Error::other("the greeting is not QMP's"));
    }
    let command = qapi::qmp::qmp_capabilities { enable: None };
    let line = serde_json::to_string(&Execute::with_id(command, 0u64))?;
    wire.send(b"", &line).await?;
    let answer = wire.line().await?.ok_or_else(hung_up)?;
    let value: Value = serde_json::from_slice(&answer)?;
    match value.get("error") {
        Some(error) => Err(io::Error::other(error.to_string())),
        None => Ok(()),
    }
}

/// What one line from QEMU is.
enum Line {
    Event(QmpEvent),
    Answer {
        id: Option<u64>,
        result: Result<Value, RefusalBody>,
    },
    Other,
}

#[derive(Deserialize)]
struct RefusalBody {
    class: String,
    desc: String,
}

fn parse(line: &[u8]) -> serde_json::Result<Line> {
    let mut value: Value = serde_json::from_slice(line)?;
    if let Some(name) = value["event"].as_str() {
        let stamp = |key: &str| value["timestamp"][key].as_f64().unwrap_or(0.0);
        return Ok(Line::Event(QmpEvent {
            name: name.to_owned(),
            seconds: stamp("seconds") + stamp("microseconds") / 1e6,
            data: value["data"].clone(),
        }));
    }
    let id = value["id"].as_u64();
    let result = if let Some(error) = value.get("error") {
        Err(RefusalBody::deserialize(error)?)
    } else if value.get("return").is_some() {
        Ok(value["return"].take())
    } else {
        return Ok(Line::Other);
    };
    Ok(Line::Answer { id, result })
}

/// The connection's task: serves requests one by one and passes events on, until the callers or
/// QEMU are gone or an answer fails to come.
pub(super) async fn own(
    mut wire: Wire,
    mut inbox: mpsc::UnboundedReceiver<Request>,
    events: broadcast::Sender<QmpEvent>,
    closed: Arc<Mutex<Option<String>>>,
) {
    let reason = serve(&mut wire, &mut inbox, &events).await;
    wire.note(&reason);
    *lock(&closed) = Some(reason);
    // Dropping the inbox answers whoever still waits, and `events` ends the streams.
}

async fn serve(
    wire: &mut Wire,
    inbox: &mut mpsc::UnboundedReceiver<Request>,
    events: &broadcast::Sender<QmpEvent>,
) -> String {
    loop {
        let request = tokio::select! {
            request = inbox.recv() => match request {
                Some(request) => request,
                None => return "nobody uses it any more".to_owned(),
            },
            line = wire.line() => {
                match receive(line, events) {
                    Ok(_) => continue,
                    Err(reason) => return reason,
                }
            }
        };
        if request.reply.is_closed() {
            continue;
        }
        let served = timeout(request.limit, answer(wire, &request, events)).await;
        let (command, limit) = (request.command, request.limit);
        let (result, end) = match served {
            Ok(Ok(Ok(value))) => (Ok(value), None),
            Ok(Ok(Err(RefusalBody { class, desc }))) => {
                let message = desc;
                (
                    Err(QmpError::Refused {
                        command,
                        class,
                        message,
                    }),
                    None,
                )
            }
            Ok(Err(reason)) => {
                let error = QmpError::Closed {
                    command,
                    reason: reason.clone(),
                };
                (Err(error), Some(reason))
            }
            Err(_) => {
                let reason = format!("{command} was not answered in time");
                (Err(QmpError::Timeout { command, limit }), Some(reason))
            }
        };
        // The caller may have gone away; the answer is then of no use to anybody.
        let _ = request.reply.send(result);
        if let Some(reason) = end {
            return reason;
        }
    }
}

async fn answer(
    wire: &mut Wire,
    request: &Request,
    events: &broadcast::Sender<QmpEvent>,
) -> Result<Result<Value, RefusalBody>, String> {
    wire.send(b"", &request.line)
        .await
        .map_err(|error| format!("cannot write to QEMU: {error}"))?;
    loop {
        if let Some((Some(id), result)) = receive(wire.line().await, events)?
            && id == request.id
        {
            return Ok(result);
        }
    }
}

type Answer = (Option<u64>, Result<Value, RefusalBody>);

/// Takes in one line: an event goes to whoever listens, an answer is given back.
fn receive(
    line: io::Result<Option<Vec<u8>>>,
    events: &broadcast::Sender<QmpEvent>,
) -> Result<Option<Answer>, String> {
    let line = match line {
        Ok(Some(line)) => line,
        Ok(None) => return Err("QEMU hung up".to_owned()),
        Err(error) => return Err(format!("cannot read from QEMU: {error}")),
    };
    match parse(&line) {
        Ok(Line::Event(event)) => {
            // Without listeners an event is of no interest.
            let _ = events.send(event);
            Ok(None)
        }
        Ok(Line::Answer { id, result }) => Ok(Some((id, result))),
        Ok(Line::Other) => Ok(None),
        Err(error) => Err(format!("QEMU sent what is not JSON: {error}")),
    }
}
