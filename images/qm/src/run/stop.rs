//! `qm stop`, `qm shutdown` and `qm reboot` (qemu-server, `_do_vm_stop`). Passed-through devices are not given back.

use std::{fs, time::Duration};

use serde_json::json;

use super::{
    RunError, check_lock,
    process::running,
    start::{StartOptions, start, wait_stopped},
};
use crate::{
    argv::agent_type,
    config::{self, ConfigLock, VmConfig},
    host::Host,
    kernel::{End, Kernel},
    monitor::{Agent, MonitorError, PING_LIMIT, Qmp, limit_of},
    pci,
};

/// How a VM is stopped.
#[derive(Debug, Clone, Copy, Default)]
pub struct StopOptions {
    /// Seconds to wait before force, or giving up.
    pub timeout: Option<u64>,
    /// Stop in spite of the configuration's `lock`.
    pub skip_lock: bool,
    /// For a shutdown: end QEMU if the guest does not go down.
    pub force: bool,
}

const STOP_LIMIT: Duration = Duration::from_secs(60);
const TERM_LIMIT: Duration = Duration::from_secs(10);
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Ends QEMU: by QMP, then by SIGTERM, then by SIGKILL.
pub fn stop(
    host: &Host,
    kernel: &dyn Kernel,
    vmid: u32,
    options: StopOptions,
    warn: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    end(
        host,
        kernel,
        vmid,
        StopOptions {
            force: true,
            ..options
        },
        false,
        warn,
    )
}

/// Asks the guest to go down: by its agent, else by ACPI.
pub fn shutdown(
    host: &Host,
    kernel: &dyn Kernel,
    vmid: u32,
    options: StopOptions,
    warn: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    config::load(host, vmid, &mut |_| {})?;
    if running(host, vmid).is_some() && is_paused(host, vmid)? {
        if !options.force {
            return Err(RunError::rule("VM is paused - cannot shutdown"));
        }
        warn("VM is paused - stop instead of shutdown");
        return stop(host, kernel, vmid, options, warn);
    }
    end(host, kernel, vmid, options, true, warn)
}

/// Shuts the guest down and starts it anew, with what of its configuration waits for that. On a real host this program
/// returns between the two, and a daemon does the second.
pub fn reboot(
    host: &Host,
    kernel: &dyn Kernel,
    vmid: u32,
    timeout: Option<u64>,
    warn: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    config::load(host, vmid, &mut |_| {})?;
    if running(host, vmid).is_none() {
        return Err(RunError::Rule(format!("VM {vmid} not running")));
    }
    let options = StopOptions {
        timeout,
        ..StopOptions::default()
    };
    shutdown(host, kernel, vmid, options, warn)?;
    start(host, kernel, vmid, StartOptions::default(), warn)
}

fn is_paused(host: &Host, vmid: u32) -> Result<bool, RunError> {
    let status = Qmp::run(host, vmid, "query-status", json!({}))?;
    Ok(matches!(
        status["status"].as_str(),
        Some("paused" | "suspended" | "prelaunch")
    ))
}

fn end(
    host: &Host,
    kernel: &dyn Kernel,
    vmid: u32,
    options: StopOptions,
    gently: bool,
    warn: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    config::load(host, vmid, &mut |_| {})?;
    let _lock = ConfigLock::take(host, vmid)?;
    let config = config::load(host, vmid, warn)?;
    let Some(pid) = running(host, vmid) else {
        return Ok(());
    };
    check_lock(&config.main, options.skip_lock)?;

    let own = config.main.startup("down").filter(|_| gently);
    let limit = options.timeout.or(own);
    let limit = limit.map_or(STOP_LIMIT, Duration::from_secs);
    let asked = if gently {
        power_down(host, vmid, &config, warn)
    } else {
        quit(host, vmid)
    };
    match asked {
        Ok(()) if wait_stopped(host, vmid, limit) => return clean_up(host, vmid, config, warn),
        Ok(()) if !options.force => {
            return Err(RunError::rule("VM quit/powerdown failed - got timeout"));
        }
        Ok(()) => warn("VM still running - terminating now with SIGTERM"),
        Err(_) if running(host, vmid).is_none() => {
            warn("Unexpected: VM shutdown command failed, but VM not running anymore..");
            return clean_up(host, vmid, config, warn);
        }
        Err(error) if !options.force => {
            warn(&error.to_string());
            return Err(RunError::rule("VM quit/powerdown failed"));
        }
        Err(error) => {
            warn(&error.to_string());
            warn("VM quit/powerdown failed - terminating now with SIGTERM");
        }
    }
    kernel.end(pid, End::Terminate);
    if !wait_stopped(host, vmid, TERM_LIMIT) {
        warn("VM still running - terminating now with SIGKILL");
        kernel.end(pid, End::Kill);
        wait_stopped(host, vmid, KILL_LIMIT);
    }
    clean_up(host, vmid, config, warn)
}

fn quit(host: &Host, vmid: u32) -> Result<(), MonitorError> {
    match Qmp::run(host, vmid, "quit", json!({})) {
        // QEMU may be gone before its answer is.
        Err(error) if error.reason == "client closed connection" => Ok(()),
        other => other.map(drop),
    }
}

fn power_down(
    host: &Host,
    vmid: u32,
    config: &VmConfig,
    warn: &mut dyn FnMut(&str),
) -> Result<(), MonitorError> {
    if agent_type(&config.main).ok().flatten().is_some() {
        match ping(host, vmid) {
            Ok(mut agent) => {
                let command = "guest-shutdown";
                return agent
                    .call(host, command, &json!({}), limit_of(command))
                    .map(drop);
            }
            Err(error) => warn(&format!("QEMU Guest Agent is not running - {error}")),
        }
    }
    Qmp::run(host, vmid, "system_powerdown", json!({})).map(drop)
}

/// A connection to an agent that has answered.
pub(super) fn ping(host: &Host, vmid: u32) -> Result<Agent, MonitorError> {
    let command = "guest-ping";
    let mut agent = Agent::connect(host, vmid, command, PING_LIMIT)?;
    agent.call(host, command, &json!({}), PING_LIMIT)?;
    Ok(agent)
}

fn clean_up(
    host: &Host,
    vmid: u32,
    mut config: VmConfig,
    warn: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    for extension in ["mon", "qmp", "pid", "vnc", "qga"] {
        // QEMU removes most of them itself.
        let _ = fs::remove_file(host.run_file(vmid, extension));
    }
    let _ = fs::remove_dir(
        host.sysfs
            .join(format!("fs/cgroup/qemu.slice/{vmid}.scope")),
    );
    if let Err(error) = pci::release(host, vmid) {
        warn(&error.to_string());
    }
    if config.apply_pending() {
        config::write(host, vmid, &config)?;
    }
    Ok(())
}
