//! A server on a Unix socket that takes one client at a time, as a QEMU chardev does, and plays the
//! part that a test writes for it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Long enough for any answer that comes at all.
pub const PLENTY: Duration = Duration::from_secs(5);
/// Short enough to wait for in vain.
pub const SHORT: Duration = Duration::from_millis(60);

/// One request as the server got it.
#[derive(Debug, Clone)]
pub struct Call {
    /// Which connection it came over, from 1.
    pub connection: usize,
    pub name: String,
    pub args: Value,
    pub id: Value,
}

/// What the server does about a request.
#[derive(Debug)]
pub enum Act {
    /// Answers with this value.
    Return(Value),
    /// Refuses in these words.
    Refuse(&'static str),
    /// Sends these bytes as they are.
    Raw(Vec<u8>),
    /// Lets time pass.
    Wait(Duration),
    /// Ends the connection.
    HangUp,
}

/// A line to send.
pub fn line(value: Value) -> Act {
    Act::Raw(format!("{value}\r\n").into_bytes())
}

pub struct Server {
    pub socket: PathBuf,
    calls: Arc<Mutex<Vec<Call>>>,
    _folder: TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Serves; `greeting` is sent to whoever connects.
    pub fn start<P>(greeting: Option<Value>, play: P) -> Self
    where
        P: FnMut(&Call) -> Vec<Act> + Send + 'static,
    {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(listener, greeting, play, Arc::clone(&calls)));
        Server {
            socket,
            calls,
            _folder: folder,
            task,
        }
    }

    /// The names of all requests so far.
    pub fn names(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.name).collect()
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<P>(
    listener: UnixListener,
    greeting: Option<Value>,
    mut play: P,
    calls: Arc<Mutex<Vec<Call>>>,
) where
    P: FnMut(&Call) -> Vec<Act> + Send,
{
    for connection in 1.. {
        let (mut client, _) = listener.accept().await.unwrap();
        if let Some(greeting) = &greeting {
            let _ = client.write_all(format!("{greeting}\r\n").as_bytes()).await;
        }
        let mut ahead = Vec::new();
        while let Some(request) = next_line(&mut client, &mut ahead).await {
            let Ok(request) = serde_json::from_slice::<Value>(&request) else {
                continue;
            };
            let call = Call {
                connection,
                name: request["execute"].as_str().unwrap_or_default().to_owned(),
                args: request["arguments"].clone(),
                id: request["id"].clone(),
            };
            calls.lock().unwrap().push(call.clone());
            if !perform(&mut client, &call, play(&call)).await {
                break;
            }
        }
    }
}

/// Does what the part says; false when the connection is over.
async fn perform(client: &mut UnixStream, call: &Call, acts: Vec<Act>) -> bool {
    for act in acts {
        let bytes = match act {
            Act::Return(value) => {
                format!("{}\r\n", json!({"return": value, "id": call.id})).into_bytes()
            }
            Act::Refuse(words) => {
                let error = json!({"class": "GenericError", "desc": words});
                format!("{}\r\n", json!({"error": error, "id": call.id})).into_bytes()
            }
            Act::Raw(bytes) => bytes,
            Act::Wait(time) => {
                tokio::time::sleep(time).await;
                continue;
            }
            Act::HangUp => return false,
        };
        if client.write_all(&bytes).await.is_err() {
            return false;
        }
    }
    true
}

/// The next line without sentinels; the bytes before a sentinel are thrown away, as the agent does.
async fn next_line(client: &mut UnixStream, ahead: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = ahead.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = ahead.drain(..=end).collect();
            let start = line.iter().rposition(|byte| *byte == 0xff);
            return Some(line[start.map_or(0, |at| at + 1)..].to_vec());
        }
        if client.read_buf(ahead).await.ok()? == 0 {
            return None;
        }
    }
}
