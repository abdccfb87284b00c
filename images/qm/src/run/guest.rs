//! `qm guest cmd` and `qm guest exec` (qemu-server: Agent.pm, API2/Qemu/Agent.pm, CLI/qm.pm).
//!
//! Output of a guest's program is printed as Proxmox does it: every byte becomes the character of that number, so that
//! bytes above 0x7f are encoded a second time. It is ugly and loses nothing.

use std::{
    io::Read,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use super::{RunError, process::running, stop::ping};
use crate::{
    config,
    host::Host,
    monitor::{Agent, COMMAND_LIMIT, limit_of},
    poll,
    text::{base64_decode, base64_encode},
};

/// The commands that `qm guest cmd` knows.
pub const AGENT_COMMANDS: &[&str] = &[
    "fsfreeze-freeze",
    "fsfreeze-status",
    "fsfreeze-thaw",
    "fstrim",
    "get-fsinfo",
    "get-host-name",
    "get-memory-block-info",
    "get-memory-blocks",
    "get-osinfo",
    "get-time",
    "get-timezone",
    "get-users",
    "get-vcpus",
    "info",
    "network-get-interfaces",
    "ping",
    "shutdown",
    "suspend-disk",
    "suspend-hybrid",
    "suspend-ram",
];

/// QEMU serves one client of the agent at a time; a long `exec` lets others in after this time.
const HOLD: Duration = Duration::from_secs(1);
/// How much a guest's program can be given to read.
const INPUT_LIMIT: usize = 1 << 20;

/// How `qm guest exec` runs.
#[derive(Debug, Clone)]
pub struct ExecOptions {
    /// Wait for the end, or for the timeout.
    pub synchronous: bool,
    /// Seconds to wait; 0 is for ever.
    pub timeout: u64,
    /// Hand this program's input on.
    pub pass_stdin: bool,
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// A connection to the agent of a VM that has one and runs.
fn available(host: &Host, vmid: u32, warn: &mut dyn FnMut(&str)) -> Result<Agent, RunError> {
    let config = config::load(host, vmid, warn)?;
    if config.main.get("agent").is_none() {
        return Err(RunError::rule("No QEMU guest agent configured"));
    }
    if running(host, vmid).is_none() {
        return Err(RunError::Rule(format!("VM {vmid} is not running")));
    }
    ping(host, vmid).map_err(|_| RunError::rule("QEMU guest agent is not running"))
}

fn call(
    host: &Host,
    agent: &mut Agent,
    command: &str,
    arguments: &Value,
) -> Result<Option<Value>, RunError> {
    match agent.call(host, command, arguments, limit_of(command))? {
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(description)) => Err(RunError::Rule(format!("Agent error: {description}"))),
        None => Ok(None),
    }
}

/// `qm guest cmd`: the agent's answer.
pub fn agent_command(
    host: &Host,
    vmid: u32,
    command: &str,
    warn: &mut dyn FnMut(&str),
) -> Result<Option<Value>, RunError> {
    let mut agent = available(host, vmid, warn)?;
    call(host, &mut agent, &format!("guest-{command}"), &json!({}))
}

/// `qm guest exec`: the result, or just the process if it is not waited for.
pub fn exec(
    host: &Host,
    vmid: u32,
    options: &ExecOptions,
    input: &mut dyn Read,
    warn: &mut dyn FnMut(&str),
) -> Result<Value, RunError> {
    let mut arguments = Map::from_iter([("capture-output".to_owned(), json!(true))]);
    if options.pass_stdin {
        arguments.insert(
            "input-data".to_owned(),
            json!(base64_encode(&read_input(input)?)),
        );
    }
    match options.command.split_first() {
        Some((path, rest)) => {
            arguments.insert("path".to_owned(), json!(path));
            arguments.insert("arg".to_owned(), json!(rest));
        }
        None if options.pass_stdin => {}
        None => return Err(RunError::rule("command or input-data (or both) required")),
    }
    let mut agent = available(host, vmid, warn)?;
    let held = Instant::now();
    let started =
        call(host, &mut agent, "guest-exec", &Value::Object(arguments))?.unwrap_or_default();
    if !options.synchronous {
        return Ok(started);
    }
    let pid = &started["pid"];
    let limit = if options.timeout == 0 {
        Duration::MAX
    } else {
        Duration::from_secs(options.timeout)
    };
    let mut connection = Connection {
        agent: Some(agent),
        since: held,
    };
    let ended = poll::until(limit, || {
        let status = connection.status(host, vmid, pid)?;
        Ok::<_, RunError>((status["exited"] == json!(1)).then_some(status))
    })?;
    Ok(ended.unwrap_or_else(|| {
        warn("timeout reached, returning pid");
        started.clone()
    }))
}

/// `qm guest exec-status`.
pub fn exec_status(
    host: &Host,
    vmid: u32,
    pid: u64,
    warn: &mut dyn FnMut(&str),
) -> Result<Value, RunError> {
    let agent = available(host, vmid, warn)?;
    Connection {
        agent: Some(agent),
        since: Instant::now(),
    }
    .status(host, vmid, &json!(pid))
}

struct Connection {
    agent: Option<Agent>,
    since: Instant,
}

impl Connection {
    fn status(&mut self, host: &Host, vmid: u32, pid: &Value) -> Result<Value, RunError> {
        let command = "guest-exec-status";
        if self.since.elapsed() > HOLD {
            self.agent = None;
        }
        let agent = match &mut self.agent {
            Some(agent) => agent,
            empty => {
                self.since = Instant::now();
                // Whoever was let in may keep it as long in turn.
                empty.insert(Agent::connect(host, vmid, command, COMMAND_LIMIT)?)
            }
        };
        Ok(readable(
            call(host, agent, command, &json!({"pid": pid}))?.unwrap_or_default(),
        ))
    }
}

/// Base64 decoded, booleans as 0 and 1.
fn readable(mut status: Value) -> Value {
    for (key, value) in status.as_object_mut().into_iter().flatten() {
        match (key.as_str(), &value) {
            ("out-data" | "err-data", Value::String(coded)) => {
                *value = Value::String(base64_decode(coded).into_iter().map(char::from).collect());
            }
            (_, Value::Bool(flag)) => *value = json!(u8::from(*flag)),
            _ => {}
        }
    }
    status
}

fn read_input(input: &mut dyn Read) -> Result<Vec<u8>, RunError> {
    let mut data = Vec::new();
    input
        .take(INPUT_LIMIT as u64 + 1)
        .read_to_end(&mut data)
        .map_err(|error| RunError::Rule(format!("can't read STDIN - {error}")))?;
    if data.len() > INPUT_LIMIT {
        return Err(RunError::rule(
            "'input-data' (STDIN) is limited to 1 MiB, aborting",
        ));
    }
    Ok(data)
}
