//! A fake guest agent that works, and that a test can make misbehave.

use std::collections::HashMap;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::fake::{Act, Call, Server};

/// An agent that synchronises, pings, holds files and runs commands; `quirk` goes first and may do
/// otherwise.
pub fn guest(mut quirk: impl FnMut(&Call) -> Option<Vec<Act>> + Send + 'static) -> Server {
    let mut guest = FakeGuest::default();
    Server::start(None, move |call| match quirk(call) {
        Some(acts) => acts,
        None => guest.answer(call),
    })
}

/// The answer to a synchronisation, sentinel and all.
pub fn synced(call: &Call) -> Act {
    let mut bytes = vec![0xff];
    bytes.extend(format!("{}\n", json!({"return": call.args["id"]})).into_bytes());
    Act::Raw(bytes)
}

/// What a finished command says of itself.
pub fn finished(exitcode: i32, stdout: &str, stderr: &str) -> Value {
    let mut status = json!({"exited": true, "exitcode": exitcode});
    for (key, text) in [("out-data", stdout), ("err-data", stderr)] {
        if !text.is_empty() {
            status[key] = BASE64_STANDARD.encode(text).into();
        }
    }
    status
}

#[derive(Default)]
struct FakeGuest {
    files: HashMap<String, Vec<u8>>,
    open: HashMap<i64, (String, usize)>,
    commands: HashMap<i64, (u32, Value)>,
    next: i64,
}

impl FakeGuest {
    fn answer(&mut self, call: &Call) -> Vec<Act> {
        let text = |key: &str| call.args[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| call.args[key].as_i64().unwrap_or_default();
        self.next += 1;
        let answer = match call.name.as_str() {
            "guest-sync-delimited" => return vec![synced(call)],
            "guest-ping" => json!({}),
            "guest-file-open" => {
                let path = text("path");
                if text("mode") == "w" {
                    self.files.insert(path.clone(), Vec::new());
                } else if !self.files.contains_key(&path) {
                    return vec![Act::Refuse(
                        "failed to open file: No such file or directory",
                    )];
                }
                self.open.insert(self.next, (path, 0));
                json!(self.next)
            }
            "guest-file-read" => {
                let (path, at) = self.open.get_mut(&number("handle")).unwrap();
                let content = &self.files[path.as_str()][*at..];
                let piece = &content[..content.len().min(number("count") as usize)];
                *at += piece.len();
                let eof = piece.len() < number("count") as usize;
                json!({"count": piece.len(), "eof": eof, "buf-b64": BASE64_STANDARD.encode(piece)})
            }
            "guest-file-write" => {
                let (path, _) = &self.open[&number("handle")];
                let bytes = BASE64_STANDARD.decode(text("buf-b64")).unwrap();
                self.files.get_mut(path).unwrap().extend(&bytes);
                json!({"count": bytes.len(), "eof": false})
            }
            "guest-file-close" => {
                self.open.remove(&number("handle")).expect("closed once");
                json!({})
            }
            "guest-exec" => {
                let status = match text("path").as_str() {
                    "killed" => json!({"exited": true, "signal": 9}),
                    "endless" => json!({"exited": false}),
                    "chatty" => json!({"exited": true, "exitcode": 0, "out-truncated": true}),
                    "echo" => finished(0, &call.args["arg"].to_string(), ""),
                    "cat" => json!({"exited": true, "exitcode": 0, "out-data": text("input-data")}),
                    _ => finished(3, "some", "out of cheese"),
                };
                self.commands.insert(self.next, (2, status));
                json!({"pid": self.next})
            }
            "guest-exec-status" => {
                let (looks, status) = self.commands.get_mut(&number("pid")).unwrap();
                *looks = looks.saturating_sub(1);
                if *looks > 0 {
                    json!({"exited": false})
                } else {
                    status.clone()
                }
            }
            other => panic!("the fake agent does not know {other}"),
        };
        vec![Act::Return(answer)]
    }
}
