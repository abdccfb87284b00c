//! `qm start` and `qm showcmd` (qemu-server, `vm_start_nolock` and `vm_commandline`).

use std::{
    convert::Infallible,
    fs,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use serde_json::json;

use super::{RunError, check_lock, facts, process::running};
use crate::{
    argv::{self, Facts},
    config::{self, ConfigLock, Section},
    host::Host,
    kernel::Kernel,
    monitor::Qmp,
    pci::{self, Holder, HostPci, Sysfs},
    poll,
    text::shell_quote,
};

/// How a VM is started.
#[derive(Debug, Clone, Copy, Default)]
pub struct StartOptions {
    /// How long QEMU may take to come up, instead of what the configuration suggests.
    pub timeout: Option<u64>,
    /// Start in spite of the configuration's `lock`.
    pub skip_lock: bool,
}

/// Starts a VM. Devices that it passes through are bound to vfio-pci first and stay there whatever follows.
pub fn start(
    host: &Host,
    kernel: &dyn Kernel,
    vmid: u32,
    options: StartOptions,
    warn: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    // A VM that does not exist is no reason to leave a lock file behind.
    if !host.config_file(vmid).exists() {
        config::load(host, vmid, &mut |_| {})?;
    }
    let _lock = ConfigLock::take(host, vmid)?;
    let mut config = config::load(host, vmid, warn)?;
    if config.main.is("template") == Some(true) {
        return Err(RunError::rule("you can't start a vm if it's a template"));
    }
    check_lock(&config.main, options.skip_lock)?;
    if running(host, vmid).is_some() {
        return Err(RunError::Rule(format!("VM {vmid} already running")));
    }
    if config.apply_pending() {
        config::write(host, vmid, &config)?;
    }
    let config = config.main;
    fs::create_dir_all(&host.run).map_err(|error| {
        RunError::Rule(format!("can't create '{}' - {error}", host.run.display()))
    })?;
    facts::require_kvm(host, kernel, &config)?;
    let limit = options.timeout.map_or_else(
        || start_limit(&config),
        |seconds| Ok(Duration::from_secs(seconds)),
    )?;

    let started = launch(host, kernel, vmid, &config, limit, warn);
    if started.is_err()
        && let Err(error) = pci::release(host, vmid)
    {
        warn(&error.to_string());
    }
    started
}

fn launch(
    host: &Host,
    kernel: &dyn Kernel,
    vmid: u32,
    config: &Section,
    limit: Duration,
    warn: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    let sysfs = Sysfs::new(&host.sysfs);
    let runs = |other: u32| running(host, other);
    let parsed = pci::parse_all(host, &sysfs, config, argv::is_q35(config), warn)?;
    let chosen = pci::choose(parsed, &mut |devices| {
        let ids: Vec<String> = devices.iter().map(|device| device.id.clone()).collect();
        pci::reserve(host, vmid, &ids, Holder::Time(10), &runs, &mut |_| {}).is_ok()
    })?;
    let facts = facts::gather(host, vmid, config, chosen)?;
    let command = argv::command(host, vmid, config, &facts)?;
    facts::prepare_ovmf(host, &facts)?;
    let ids = reserved_ids(&facts.hostpci);
    pci::reserve(host, vmid, &ids, Holder::Time(limit.as_secs()), &runs, warn)?;
    for hostpci in facts
        .hostpci
        .iter()
        .filter(|hostpci| hostpci.mdev.is_none())
    {
        for device in hostpci.devices() {
            pci::prepare(&sysfs, kernel, hostpci, &device.id, warn)?;
        }
    }
    run_qemu(host, &command, limit)
        .map_err(|reason| RunError::Rule(format!("start failed: {reason}")))?;
    after_start(host, vmid, config, &ids, warn)
}

fn reserved_ids(hostpci: &[HostPci]) -> Vec<String> {
    let devices = hostpci
        .iter()
        .filter(|hostpci| hostpci.mdev.is_none())
        .flat_map(HostPci::devices);
    devices.map(|device| device.id.clone()).collect()
}

/// QEMU's process is now known: the reservations follow it, and it leaves the control group of whoever called.
fn after_start(
    host: &Host,
    vmid: u32,
    config: &Section,
    ids: &[String],
    warn: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    if let Some(pid) = running(host, vmid) {
        if let Err(error) = pci::reserve(
            host,
            vmid,
            ids,
            Holder::Process(pid),
            &|other| running(host, other),
            warn,
        ) {
            warn(&error.to_string());
        }
        if let Err(error) = own_scope(host, vmid, pid) {
            warn(&format!(
                "can't move VM {vmid} to a control group of its own - {error}"
            ));
        }
    }
    if let Some(balloon) = config.number("balloon").filter(|size| *size > 0) {
        Qmp::run(host, vmid, "balloon", json!({"value": balloon << 20}))?;
    }
    Ok(())
}

/// The command that would start a VM, as one line for a shell.
pub fn show_command(
    host: &Host,
    vmid: u32,
    snapshot: Option<&str>,
    warn: &mut dyn FnMut(&str),
) -> Result<String, RunError> {
    let config = config::load(host, vmid, warn)?;
    let section = match snapshot {
        None => &config.main,
        Some(name) => config
            .snapshots
            .get(name)
            .ok_or_else(|| RunError::Rule(format!("snapshot '{name}' does not exist")))?,
    };
    let facts: Facts = {
        let parsed = pci::parse_all(
            host,
            &Sysfs::new(&host.sysfs),
            section,
            argv::is_q35(section),
            warn,
        )?;
        facts::gather(host, vmid, section, pci::choose(parsed, &mut |_| true)?)?
    };
    let command = argv::command(host, vmid, section, &facts)?;
    Ok(command
        .iter()
        .map(|word| shell_quote(word))
        .collect::<Vec<_>>()
        .join(" "))
}

/// How long QEMU may take: 30 s, a second for each GiB of a large VM, four times that with passthrough, since all of the
/// guest's memory is pinned then (Helpers.pm, `config_aware_timeout`).
fn start_limit(config: &Section) -> Result<Duration, RunError> {
    let memory = argv::memory(config)?;
    let mut seconds = if memory > 30_720 { memory / 1024 } else { 30 };
    let numbered = |stem: &str| {
        config
            .settings
            .keys()
            .filter(|key| is_numbered(key, stem))
            .count() as u64
    };
    if numbered("hostpci") > 0 {
        seconds *= 4;
    }
    if config.get("hugepages").is_some() {
        seconds = seconds.max(150);
    }
    Ok(Duration::from_secs(seconds + 5 * numbered("net")))
}

fn is_numbered(key: &str, stem: &str) -> bool {
    key.strip_prefix(stem)
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Runs QEMU until it has gone to the background.
fn run_qemu(host: &Host, command: &[String], limit: Duration) -> Result<(), String> {
    let (program, arguments) = command.split_first().ok_or("no command")?;
    // Sockets and pid file are root's alone.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .spawn();
    rustix::process::umask(before);
    let mut child = spawned.map_err(|error| {
        format!(
            "command '{program}' failed: {}",
            crate::text::errno_text(&error)
        )
    })?;
    let ended = poll::until::<ExitStatus, std::io::Error>(host.limit(limit), || child.try_wait());
    match ended {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => match status.code() {
            Some(code) => Err(format!("QEMU exited with code {code}")),
            None => Err(format!("QEMU was ended by {status}")),
        },
        Ok(None) => {
            // Both may fail only when the process is gone already.
            let _ = child.kill();
            let _ = child.wait();
            let line: Vec<String> = command.iter().map(|word| shell_quote(word)).collect();
            Err(format!("command '{}' failed: got timeout", line.join(" ")))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Moves QEMU to `qemu.slice/<VMID>.scope`, so that it outlives the service that ran `qm`.
fn own_scope(host: &Host, vmid: u32, pid: u32) -> std::io::Result<()> {
    let root = host.sysfs.join("fs/cgroup");
    if !root.join("cgroup.procs").exists() {
        return Ok(());
    }
    let scope = root.join(format!("qemu.slice/{vmid}.scope"));
    fs::create_dir_all(&scope)?;
    fs::write(scope.join("cgroup.procs"), pid.to_string())
}

/// Waits until a VM has stopped; says whether it has.
pub fn wait_stopped(host: &Host, vmid: u32, limit: Duration) -> bool {
    let gone = poll::until::<(), Infallible>(host.limit(limit), || {
        Ok(running(host, vmid).is_none().then_some(()))
    });
    matches!(gone, Ok(Some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passthrough_makes_patient() {
        let limit = |text: &str| {
            start_limit(&config::parse(100, text).0.main)
                .unwrap()
                .as_secs()
        };
        assert_eq!(limit("memory: 2048\n"), 30);
        assert_eq!(limit("memory: 2048\nhostpci0: 00:1f.2\n"), 120);
        assert_eq!(
            limit("memory: 65536\nhostpci0: 00:1f.2\nnet0: virtio\n"),
            261
        );
    }
}
