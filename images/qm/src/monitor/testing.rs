//! Servers that play QEMU's sockets in tests.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

use crate::host::Host;

/// What the server does.
#[derive(Debug, Clone)]
pub enum Script {
    /// Speaks QMP; these answers, by command, with an event before each.
    Qmp(Vec<(&'static str, Value)>),
    /// Speaks the agent's protocol; these answers, by command.
    Agent(Vec<(&'static str, Value)>),
    /// As an agent, but first sends the answers to somebody else's command.
    StaleAgent(Box<Script>),
    /// Takes connections and stays silent.
    Stall,
    /// Takes connections and closes them.
    Close,
    /// Does not even take connections.
    NeverAccept,
}

/// A server for VM 100 under a root of its own.
pub struct Server {
    /// The host that it belongs to.
    pub host: Host,
    _root: tempfile::TempDir,
}

/// Serves VM 100's socket `extension`.
pub fn serve(extension: &str, script: Script) -> Server {
    let root = tempfile::tempdir().unwrap();
    let host = Host::under(root.path());
    serve_in(&host, extension, script, Arc::default());
    Server { host, _root: root }
}

/// The same on a host that exists.
pub fn serve_in(
    host: &Host,
    extension: &str,
    script: Script,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
) {
    fs::create_dir_all(&host.run).unwrap();
    let listener = UnixListener::bind(host.run_file(100, extension)).unwrap();
    thread::spawn(move || {
        if matches!(script, Script::NeverAccept) {
            thread::park();
        }
        let mut silent = Vec::new();
        for stream in listener.incoming().map_while(Result::ok) {
            match &script {
                Script::Stall => silent.push(stream),
                Script::Close | Script::NeverAccept => drop(stream),
                // One client at a time, as QEMU.
                script => drop(talk(&stream, script, &seen)),
            }
        }
    });
}

fn talk(stream: &UnixStream, script: &Script, seen: &Mutex<Vec<(String, Value)>>) -> Option<()> {
    let mut out = stream;
    let mut lines = BufReader::new(stream);
    if let Script::Qmp(_) = script {
        writeln!(
            out,
            "{}",
            json!({"QMP": {"version": {}, "capabilities": []}})
        )
        .ok()?;
    }
    if let Script::StaleAgent(_) = script {
        out.write_all(b"{\"return\": {\"pid\": 1}}\n\xff{\"return\": 77}\n{\"error\": {\"desc\": \"stale\"}}\n").ok()?;
    }
    let answers = match script {
        Script::StaleAgent(inner) => inner,
        script => script,
    };
    let (Script::Qmp(answers) | Script::Agent(answers)) = answers else {
        return None;
    };
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).ok()? > 0 {
        let start = line.iter().position(|byte| *byte != 0xff).unwrap_or(0);
        let request: Value = serde_json::from_slice(&line[start..]).ok()?;
        line.clear();
        let command = request["execute"].as_str()?.to_owned();
        if command == "guest-sync-delimited" {
            out.write_all(b"\xff").ok()?;
            writeln!(out, "{}", json!({"return": request["arguments"]["id"]})).ok()?;
            continue;
        }
        let count = {
            let mut seen = seen.lock().ok()?;
            seen.push((command.clone(), request["arguments"].clone()));
            seen.iter().filter(|(known, _)| *known == command).count()
        };
        // The n-th call of a command gets its n-th answer, later ones the last.
        let of_command: Vec<&Value> = answers
            .iter()
            .filter(|(known, _)| *known == command)
            .map(|(_, a)| a)
            .collect();
        let mut answer = match of_command.get(count - 1).or(of_command.last()) {
            Some(answer) => (*answer).clone(),
            None => json!({"return": {}}),
        };
        if let Script::Qmp(_) = script {
            writeln!(
                out,
                "{}",
                json!({"event": "SOMETHING_NEW", "timestamp": {"seconds": 1}})
            )
            .ok()?;
            answer["id"] = request["id"].clone();
        }
        writeln!(out, "{answer}").ok()?;
    }
    Some(())
}
