//! QEMU's own monitor.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{MonitorError, channel::Channel, limit_of};
use crate::host::Host;

/// A QMP session. One command at a time; events are passed over.
#[derive(Debug)]
pub struct Qmp {
    channel: Channel,
    vmid: u32,
    patience: f64,
    next_id: u64,
}

impl Qmp {
    /// Runs one command in a session of its own.
    pub fn run(
        host: &Host,
        vmid: u32,
        command: &str,
        arguments: Value,
    ) -> Result<Value, MonitorError> {
        Self::run_within(host, vmid, command, arguments, limit_of(command))
    }

    /// The same with a limit of its own.
    pub fn run_within(
        host: &Host,
        vmid: u32,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, MonitorError> {
        let deadline = Instant::now() + host.limit(limit);
        Self::open_for(host, vmid, command, deadline)?.answer(command, arguments, deadline)
    }

    /// Opens a session.
    pub fn open(host: &Host, vmid: u32) -> Result<Self, MonitorError> {
        let command = "qmp_capabilities";
        Self::open_for(
            host,
            vmid,
            command,
            Instant::now() + host.limit(limit_of(command)),
        )
    }

    /// Runs one more command.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, MonitorError> {
        self.answer(
            command,
            arguments,
            Instant::now() + limit_of(command).mul_f64(self.patience),
        )
    }

    fn open_for(
        host: &Host,
        vmid: u32,
        command: &str,
        deadline: Instant,
    ) -> Result<Self, MonitorError> {
        let failed = |reason: String| MonitorError {
            vmid,
            command: command.to_owned(),
            reason,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let path = host.run_file(vmid, "qmp");
        let channel = Channel::connect(&path, &format!("VM {vmid} qmp"), left).map_err(failed)?;
        let mut qmp = Self {
            channel,
            vmid,
            patience: host.patience,
            next_id: 1,
        };
        qmp.exchange("qmp_capabilities", json!({}), deadline)
            .map_err(failed)?;
        Ok(qmp)
    }

    fn answer(
        &mut self,
        command: &str,
        arguments: Value,
        deadline: Instant,
    ) -> Result<Value, MonitorError> {
        let vmid = self.vmid;
        self.exchange(command, arguments, deadline)
            .map_err(|reason| MonitorError {
                vmid,
                command: command.to_owned(),
                reason,
            })
    }

    fn exchange(
        &mut self,
        command: &str,
        arguments: Value,
        deadline: Instant,
    ) -> Result<Value, String> {
        let id = format!("{}:{}", std::process::id(), self.next_id);
        self.next_id += 1;
        let request = json!({"execute": command, "arguments": arguments, "id": id});
        self.channel
            .send(format!("{request}\n").as_bytes(), deadline)?;
        loop {
            let line = self.channel.until(b'\n', deadline)?;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let mut message: Value = serde_json::from_slice(&line)
                .map_err(|error| format!("answer is no JSON - {error}"))?;
            // The greeting and events, known or not, are not what is waited for.
            if message.get("id").and_then(Value::as_str) != Some(id.as_str()) {
                continue;
            }
            if let Some(error) = message.get("error") {
                let description = error
                    .get("desc")
                    .and_then(Value::as_str)
                    .unwrap_or("unknown error");
                return Err(description.trim_end().to_owned());
            }
            return Ok(message
                .get_mut("return")
                .map(Value::take)
                .unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Script, serve};
    use super::*;

    #[test]
    fn answers_between_events() {
        let server = serve(
            "qmp",
            Script::Qmp(vec![
                ("query-status", json!({"return": {"status": "paused"}})),
                (
                    "stop",
                    json!({"error": {"class": "GenericError", "desc": "not now\n"}}),
                ),
            ]),
        );
        let status = Qmp::run(&server.host, 100, "query-status", json!({})).unwrap();
        assert_eq!(status["status"], "paused");
        let mut qmp = Qmp::open(&server.host, 100).unwrap();
        assert!(qmp.execute("query-status", json!({})).is_ok());
        let error = qmp.execute("stop", json!({})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "VM 100 qmp command 'stop' failed - not now"
        );
    }

    #[test]
    fn stalls_and_closed_sockets_end() {
        let short = Duration::from_millis(60);
        let server = serve("qmp", Script::Stall);
        let error = Qmp::run_within(&server.host, 100, "stop", json!({}), short).unwrap_err();
        assert_eq!(
            error.to_string(),
            "VM 100 qmp command 'stop' failed - got timeout"
        );
        let server = serve("qmp", Script::Close);
        let error = Qmp::run(&server.host, 100, "stop", json!({})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "VM 100 qmp command 'stop' failed - client closed connection"
        );

        std::fs::remove_file(server.host.run_file(100, "qmp")).unwrap();
        let error = Qmp::run(&server.host, 100, "cont", json!({})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "VM 100 qmp command 'cont' failed - unable to connect to VM 100 qmp socket - No such file or directory"
        );
    }

    #[test]
    fn a_busy_socket_is_given_up_in_time() {
        let server = serve("qmp", Script::NeverAccept);
        let short = Duration::from_millis(60);
        // Whether the queue takes the connection or not, the deadline holds.
        for _ in 0..3 {
            let start = Instant::now();
            assert!(Qmp::run_within(&server.host, 100, "stop", json!({}), short).is_err());
            assert!(start.elapsed() < Duration::from_secs(5));
        }
    }
}
