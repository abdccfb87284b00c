//! The guest agent. A connection's first command is preceded by `guest-sync-delimited`, so that
//! answers to somebody else's abandoned command are never taken for one's own; after it, answers
//! come in order.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{MonitorError, channel::Channel};
use crate::host::Host;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The agent's answer: a value, or the description of its error. `None` where a command that may do so closed the
/// connection instead.
pub type AgentAnswer = Option<Result<Value, String>>;

/// A connection to a VM's agent.
#[derive(Debug)]
pub struct Agent {
    channel: Channel,
    vmid: u32,
    in_step: bool,
}

impl Agent {
    /// Connects for a command.
    pub fn connect(
        host: &Host,
        vmid: u32,
        command: &str,
        limit: Duration,
    ) -> Result<Self, MonitorError> {
        let path = host.run_file(vmid, "qga");
        match Channel::connect(&path, &format!("VM {vmid} qga"), host.limit(limit)) {
            Ok(channel) => Ok(Self {
                channel,
                vmid,
                in_step: false,
            }),
            Err(reason) => Err(MonitorError {
                vmid,
                command: command.to_owned(),
                reason,
            }),
        }
    }

    /// Runs one command. A connection on which this fails must not be used again.
    pub fn call(
        &mut self,
        host: &Host,
        command: &str,
        arguments: &Value,
        limit: Duration,
    ) -> Result<AgentAnswer, MonitorError> {
        let deadline = Instant::now() + host.limit(limit);
        match self.exchange(command, arguments, deadline) {
            // The guest goes down or sleeps before it can answer.
            Err(reason) if reason == "client closed connection" && may_close(command) => Ok(None),
            Err(reason) => Err(MonitorError {
                vmid: self.vmid,
                command: command.to_owned(),
                reason,
            }),
            Ok(answer) => Ok(Some(answer)),
        }
    }

    fn exchange(
        &mut self,
        command: &str,
        arguments: &Value,
        deadline: Instant,
    ) -> Result<Result<Value, String>, String> {
        let request = match arguments.as_object() {
            Some(arguments) if arguments.is_empty() => json!({"execute": command}),
            _ => json!({"execute": command, "arguments": arguments}),
        };
        if self.in_step {
            self.channel
                .send(format!("{request}\n").as_bytes(), deadline)?;
        } else {
            self.synchronise(&request, deadline)?;
            self.in_step = true;
        }
        let mut answer = self.message(deadline)?;
        if let Some(error) = answer.get("error") {
            let description = error
                .get("desc")
                .and_then(Value::as_str)
                .unwrap_or("unknown error");
            return Ok(Err(description.to_owned()));
        }
        Ok(Ok(answer
            .get_mut("return")
            .map(Value::take)
            .unwrap_or_default()))
    }

    /// Sends the first command behind a mark, and reads up to the mark's echo.
    fn synchronise(&mut self, request: &Value, deadline: Instant) -> Result<(), String> {
        let id =
            u64::from(std::process::id()) * 1_000_000 + NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let sync = json!({"execute": "guest-sync-delimited", "arguments": {"id": id}});
        // The leading byte is none of JSON: it ends whatever half a command the agent may still hold.
        let mut data = vec![0xff];
        data.extend_from_slice(format!("{sync}\n{request}\n").as_bytes());
        self.channel.send(&data, deadline)?;
        loop {
            self.channel.until(0xff, deadline)?;
            let echoed = self.message(deadline)?;
            if echoed.get("return").and_then(Value::as_u64) == Some(id) {
                return Ok(());
            }
        }
    }

    fn message(&mut self, deadline: Instant) -> Result<Value, String> {
        let line = self.channel.until(b'\n', deadline)?;
        serde_json::from_slice(&line).map_err(|error| format!("answer is no JSON - {error}"))
    }
}

fn may_close(command: &str) -> bool {
    matches!(
        command,
        "guest-shutdown" | "guest-suspend-ram" | "guest-suspend-disk" | "guest-suspend-hybrid"
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Script, serve};
    use super::*;

    const SHORT: Duration = Duration::from_millis(80);

    fn check(script: Script, command: &str, expected: Result<AgentAnswer, &str>) {
        let server = serve("qga", script);
        let mut agent = Agent::connect(&server.host, 100, command, SHORT).unwrap();
        let answer = agent.call(&server.host, command, &json!({}), SHORT);
        assert_eq!(
            answer.map_err(|error| error.to_string()),
            expected.map_err(str::to_owned)
        );
    }

    #[test]
    fn answers_and_errors() {
        let script = Script::Agent(vec![
            ("guest-ping", json!({"return": {}})),
            (
                "guest-exec",
                json!({"error": {"class": "GenericError", "desc": "no such program"}}),
            ),
        ]);
        check(script.clone(), "guest-ping", Ok(Some(Ok(json!({})))));
        check(
            script.clone(),
            "guest-exec",
            Ok(Some(Err("no such program".to_owned()))),
        );
        check(
            Script::StaleAgent(Box::new(script)),
            "guest-ping",
            Ok(Some(Ok(json!({})))),
        );
    }

    #[test]
    fn silence_and_hang_ups() {
        check(
            Script::Stall,
            "guest-ping",
            Err("VM 100 qmp command 'guest-ping' failed - got timeout"),
        );
        check(
            Script::Close,
            "guest-ping",
            Err("VM 100 qmp command 'guest-ping' failed - client closed connection"),
        );
        check(Script::Close, "guest-shutdown", Ok(None));
    }
}
