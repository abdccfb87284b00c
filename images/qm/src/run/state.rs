//! `qm suspend`, `resume` and `reset` (qemu-server, RunState.pm).

use std::time::Duration;

use serde_json::json;

use super::{RunError, check_lock, process::running};
use crate::{
    config::{self, ConfigLock},
    host::Host,
    monitor::Qmp,
};

/// A VM may take this long to answer after a migration or a restore.
const RESUME_LIMIT: Duration = Duration::from_secs(60);

fn locked(
    host: &Host,
    vmid: u32,
    skip_lock: bool,
    warn: &mut dyn FnMut(&str),
) -> Result<ConfigLock, RunError> {
    config::load(host, vmid, &mut |_| {})?;
    let lock = ConfigLock::take(host, vmid)?;
    let config = config::load(host, vmid, warn)?;
    check_lock(&config.main, skip_lock)?;
    if running(host, vmid).is_none() {
        return Err(RunError::Rule(format!("VM {vmid} not running")));
    }
    Ok(lock)
}

/// Stops the VM's processors.
pub fn suspend(
    host: &Host,
    vmid: u32,
    skip_lock: bool,
    warn: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    let _lock = locked(host, vmid, skip_lock, warn)?;
    Qmp::run(host, vmid, "stop", json!({}))?;
    Ok(())
}

/// Lets them go on, wakes a sleeping guest, or resets one that has gone down.
pub fn resume(
    host: &Host,
    vmid: u32,
    skip_lock: bool,
    warn: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    let _lock = locked(host, vmid, skip_lock, warn)?;
    let status = Qmp::run_within(host, vmid, "query-status", json!({}), RESUME_LIMIT)?;
    let command = match status["status"].as_str() {
        Some("running") => return Ok(()),
        Some("suspended") => "system_wakeup",
        Some("shutdown") => {
            Qmp::run(host, vmid, "system_reset", json!({}))?;
            "cont"
        }
        _ => "cont",
    };
    Qmp::run(host, vmid, command, json!({}))?;
    Ok(())
}

/// Presses the reset button.
pub fn reset(
    host: &Host,
    vmid: u32,
    skip_lock: bool,
    warn: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    let _lock = locked(host, vmid, skip_lock, warn)?;
    Qmp::run(host, vmid, "system_reset", json!({}))?;
    Ok(())
}
