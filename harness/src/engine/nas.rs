//! VM 100 on the Proxmox-like host: the configuration it begins with, its start, its console.

use std::time::Duration;

use super::Failure;
use super::failure::StepError;
use crate::accel::Deadlines;
use crate::guest::{Agent, Exec, Guest, GuestError, Nested};
use crate::machine::{Console, Machine, MachineError};
use crate::poll::{Pace, TimedOut, poll};
use crate::scenario::{FailureKind, Vmid};

/// The VM that every lab's host has.
pub(super) const NAS: Vmid = 100;

/// The configuration file that the VM has before the procedure: a q35 machine with one virtual
/// disk to boot from and a guest agent, no controller yet.
///
/// One core: with two, one of a dozen starts under emulation hung early in the guest's boot with
/// both of its CPUs asleep, as if one had missed the other's interrupt. It costs some eight seconds
/// a start. Little memory, because VFIO pins all of it before the VM runs.
pub(super) const CONFIG: &str = "\
agent: 1
args: -chardev file,id=console,path=/run/nas-console.log,append=on -device isa-serial,chardev=console
balloon: 0
boot: order=scsi0
cores: 1
cpu: host
machine: q35
memory: 1024
name: truenas
ostype: l26
scsi0: /dev/disk/by-id/virtio-nas-system
scsihw: virtio-scsi-pci
vga: none
";

/// Where the host keeps what the VM writes to its serial console.
pub(super) const CONSOLE_LOG: &str = "/run/nas-console.log";

/// The path of a VM's configuration file.
pub(super) fn config_path(vm: Vmid) -> String {
    format!("/etc/pve/qemu-server/{vm}.conf")
}

/// Starts the VM and waits until its guest agent answers and its boot is over.
pub(super) async fn start(
    machine: &Machine,
    vm: Vmid,
    deadlines: Deadlines,
) -> Result<Nested, StepError> {
    let pve = machine.agent();
    let start = Exec::new(
        "qm",
        ["start".to_owned(), vm.to_string()],
        deadlines.command,
    );
    machine
        .watched(&format!("qm start {vm}"), deadlines.command, pve.run(start))
        .await
        .map_err(refused)?;
    up(machine, vm, deadlines).await
}

/// Waits until a VM that was started answers and its boot is over.
pub(super) async fn up(
    machine: &Machine,
    vm: Vmid,
    deadlines: Deadlines,
) -> Result<Nested, StepError> {
    let pve = machine.agent();
    let nas = Nested::new(pve.clone(), vm);
    let up = format!("VM {vm} to come up");
    let result = machine
        .watched(&up, deadlines.nas_start, answers(pve, vm, &up, deadlines))
        .await?;
    if let Some(failure) = result {
        return Err(failure.into());
    }
    let settled = nas.run(Exec::settled(deadlines.nas_start));
    machine.watched(&up, deadlines.nas_start, settled).await?;
    Ok(nas)
}

/// Asks the VM's agent until it answers. The console is looked at between two attempts, so that a
/// guest that will never come up is not waited for.
async fn answers(
    pve: &Agent,
    vm: Vmid,
    what: &str,
    deadlines: Deadlines,
) -> Result<Option<Failure>, WaitError> {
    poll(what, deadlines.nas_start, Pace::QUICK, async || {
        let ping = Exec::new(
            "qm",
            [
                "guest".to_owned(),
                "cmd".to_owned(),
                vm.to_string(),
                "ping".to_owned(),
            ],
            deadlines.command,
        );
        let answer = pve.exec(ping).await?;
        if answer.success() {
            return Ok(Some(None));
        }
        if let Some(line) = fatal_line(pve).await {
            let message = format!("the console of VM {vm} shows `{line}`");
            return Ok(Some(Some(Failure::new(FailureKind::Crash, message))));
        }
        let words = answer.stderr_text();
        if words.contains("not running") && !words.contains("agent") {
            let message = format!("VM {vm} ended before it came up: {}", words.trim());
            return Ok(Some(Some(Failure::new(FailureKind::Crash, message))));
        }
        Ok(None)
    })
    .await
}

/// The VM's console so far.
pub(super) async fn console(pve: &Agent) -> Option<Vec<u8>> {
    pve.read_file(CONSOLE_LOG).await.ok()
}

/// The line of the VM's console after which nothing good can come, if there is one.
pub(super) async fn fatal_line(pve: &Agent) -> Option<String> {
    let console = Console::default();
    console.feed(&console_bytes(pve).await);
    tokio::time::timeout(Duration::ZERO, console.fatal())
        .await
        .ok()
}

async fn console_bytes(pve: &Agent) -> Vec<u8> {
    console(pve).await.unwrap_or_default()
}

/// What a refused `qm start` is: the failure that many scenarios are about.
fn refused(error: MachineError) -> StepError {
    match error {
        MachineError::Guest(GuestError::Failed {
            command,
            exit,
            stderr,
            stdout,
            ..
        }) => {
            let words = if stderr.trim().is_empty() {
                stdout
            } else {
                stderr
            };
            let message = format!("`{command}` ended with {exit}: {}", words.trim());
            Failure::new(FailureKind::Start, message).into()
        }
        other => other.into(),
    }
}

/// What can end the wait for a VM.
#[derive(Debug, thiserror::Error)]
enum WaitError {
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
}

impl From<WaitError> for MachineError {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Guest(error) => error.into(),
            WaitError::TimedOut(error) => error.into(),
        }
    }
}
