//! QMP and the guest agent, each over its unix socket. QEMU serves one client at a time on each, so connections are
//! short, and every wait has an end (qemu-server, QMPClient.pm).

mod agent;
mod channel;
mod qmp;
#[cfg(test)]
pub(crate) mod testing;

pub use agent::{Agent, AgentAnswer};
pub use qmp::Qmp;

use std::time::Duration;

/// How long an ordinary command may take.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(5);
/// How long the agent may take to answer a ping.
pub const PING_LIMIT: Duration = Duration::from_secs(3);

/// A command that failed, in Proxmox's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("VM {vmid} qmp command '{command}' failed - {reason}")]
pub struct MonitorError {
    /// The VM.
    pub vmid: u32,
    /// The command.
    pub command: String,
    /// Why it failed.
    pub reason: String,
}

/// How long a command may take.
pub fn limit_of(command: &str) -> Duration {
    let minutes = |count: u64| Duration::from_secs(count * 60);
    match command {
        "guest-fsfreeze-freeze" => minutes(60),
        "guest-fsfreeze-thaw" => minutes(3),
        "guest-fstrim" | "guest-shutdown" => minutes(10),
        "guest-ping" => PING_LIMIT,
        _ => COMMAND_LIMIT,
    }
}
