//! What `qm` does with a VM: start it, stop it, look at it, talk to its guest.

mod facts;
mod guest;
mod guests;
mod migrate;
mod process;
mod start;
mod state;
mod status;
mod stop;
mod update;

pub use guest::{AGENT_COMMANDS, ExecOptions, agent_command, exec, exec_status};
pub use guests::{start_all, stop_all};
pub use migrate::{MigrateOptions, migrate};
pub use process::running;
pub use start::{StartOptions, show_command, start, wait_stopped};
pub use state::{reset, resume, suspend};
pub use status::{ListEntry, list, print_list, status, status_verbose};
pub use stop::{StopOptions, reboot, shutdown, stop};
pub use update::{Update, update};

use crate::{
    argv::CommandError,
    config::{ConfigError, LockError, Section},
    monitor::MonitorError,
    pci::PciError,
};

/// Why a command failed. The texts are Proxmox's.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// About the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// About its lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// About QEMU's command line.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// About passed-through devices.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// About QMP or the agent.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// A rule in Proxmox's words.
    #[error("{0}")]
    Rule(String),
}

impl RunError {
    pub(crate) fn rule(text: impl Into<String>) -> Self {
        Self::Rule(text.into())
    }
}

/// Refuses a VM that a backup or the like has locked.
fn check_lock(config: &Section, skip: bool) -> Result<(), RunError> {
    match config.get("lock") {
        Some(lock) if !skip => Err(RunError::Rule(format!("VM is locked ({lock})"))),
        _ => Ok(()),
    }
}
