//! VM 100 on the Proxmox-like host: the configuration it begins with, its start, its console.

use std::time::{Duration, Instant};

use super::Failure;
use super::failure::{PANIC, StepError};
use super::silence::{self, Silence};
use crate::accel::Deadlines;
use crate::guest::{Agent, Exec, Guest, GuestError, Nested, Output};
use crate::machine::{Console, Machine, MachineError};
use crate::poll::{Pace, TimedOut, poll};
use crate::scenario::{FailureKind, Vmid};

/// The VM that every lab's host has.
pub(super) const NAS: Vmid = 100;

/// The configuration file that the VM has before the procedure: a q35 machine with one virtual
/// disk to boot from and a guest agent, no controller yet.
///
/// One core: with two, a start under emulation takes as long, and the drivers after it longer. Little
/// memory, because VFIO pins all of it before the VM runs: each GiB costs three seconds of a start.
///
/// Its doors are ports beside the guest agent's, on the bus that `agent: 1` makes.
pub(crate) const CONFIG: &str = "\
agent: 1
args: -chardev file,id=console,path=/run/nas-console.log,append=on -device isa-serial,chardev=console \
-chardev socket,id=door0,path=/run/nas-door.0,server=on,wait=off \
-device virtserialport,bus=qga0.0,chardev=door0,name=lab.door.0 \
-chardev socket,id=door1,path=/run/nas-door.1,server=on,wait=off \
-device virtserialport,bus=qga0.0,chardev=door1,name=lab.door.1
balloon: 0
boot: order=scsi0
cores: 1
cpu: host
machine: q35
memory: 640
name: truenas
ostype: l26
scsi0: /dev/disk/by-id/virtio-nas-system
scsihw: virtio-scsi-pci
tablet: 0
vga: none
";

/// How often the console is looked at while a command runs in the VM: most commands have ended before the first look.
const CONSOLE_PACE: Pace = Pace {
    first: Duration::from_secs(3),
    longest: Duration::from_secs(10),
};

/// Where the host keeps what the VM writes to its serial console.
pub(super) const CONSOLE_LOG: &str = "/run/nas-console.log";

/// The path of a VM's configuration file.
pub(super) fn config_path(vm: Vmid) -> String {
    format!("/etc/pve/qemu-server/{vm}.conf")
}

/// A VM whose guest is up.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) vm: Vmid,
    pub(super) guest: Nested,
    /// The guest's boot. With another one it was reset meanwhile.
    pub(super) boot_id: String,
}

/// Starts the VM and waits until its guest agent answers and its boot is over. Gives what `qm` complained of.
pub(super) async fn start(
    machine: &Machine,
    vm: Vmid,
    deadlines: Deadlines,
) -> Result<(Running, String), StepError> {
    let pve = machine.agent();
    // What an earlier start has left on the console is no sign of this one.
    let before = console(pve).await.map_or(0, |shown| shown.len());
    let start = Exec::new(
        "qm",
        ["start".to_owned(), vm.to_string()],
        deadlines.command,
    );
    let started = machine
        .watched(&format!("qm start {vm}"), deadlines.command, pve.run(start))
        .await
        .map_err(refused)?;
    let nas = up(machine, vm, before, deadlines).await?;
    Ok((nas, started.stderr_text()))
}

/// Waits until a VM that was started answers and its boot is over. Its console had `before` bytes when it was
/// started.
pub(super) async fn up(
    machine: &Machine,
    vm: Vmid,
    before: usize,
    deadlines: Deadlines,
) -> Result<Running, StepError> {
    let pve = machine.agent();
    let guest = Nested::new(pve.clone(), vm);
    let up = format!("VM {vm} to come up");
    let result = machine
        .watched(
            &up,
            deadlines.nas_start,
            answers(pve, vm, before, &up, deadlines),
        )
        .await?;
    if let Some(failure) = result {
        return Err(failure.into());
    }
    let settled = guest.run(Exec::settled(deadlines.nas_start));
    let output = machine.watched(&up, deadlines.nas_start, settled).await?;
    let boot_id = output.stdout_text().trim().to_owned();
    Ok(Running { vm, guest, boot_id })
}

/// Asks the VM's agent until it answers. The console is looked at between two attempts, so that a
/// guest that will never come up, or that hangs, is not waited for.
async fn answers(
    pve: &Agent,
    vm: Vmid,
    before: usize,
    what: &str,
    deadlines: Deadlines,
) -> Result<Option<Failure>, WaitError> {
    let mut silence = Silence::new(Instant::now());
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
        let shown = console(pve).await.unwrap_or_default();
        let length = shown.len();
        let console = Console::default();
        console.feed(shown.get(before..).unwrap_or(&shown));
        if let Some(line) = fatal_line(&console).await {
            let message = format!("the console of VM {vm} shows `{line}`");
            return Ok(Some(Some(Failure::new(FailureKind::Crash, message))));
        }
        let words = answer.stderr_text();
        if words.contains("not running") && !words.contains("agent") {
            let message = format!("VM {vm} ended before it came up: {}", words.trim());
            return Ok(Some(Some(Failure::new(FailureKind::Crash, message))));
        }
        let silent = silence.lasts(length, Instant::now());
        if silent >= deadlines.nas_silence {
            let processor = silence::processor(pve, vm, deadlines.command).await;
            let message = silence::hangs(vm, silent, &console.tail(), &processor);
            return Ok(Some(Some(Failure::new(FailureKind::Timeout, message))));
        }
        Ok(None)
    })
    .await
}

/// Runs a command in the VM. It is given up when the console shows that the VM's kernel has ended, which its agent cannot
/// tell: `qm` would go on waiting for it.
pub(super) async fn exec(pve: &Agent, guest: &Nested, exec: Exec) -> Result<Output, GuestError> {
    let (request, limit) = (exec.command_line(), exec.limit);
    let mut begun = false;
    let panics = poll("the VM's panic", limit, CONSOLE_PACE, async || {
        if !std::mem::replace(&mut begun, true) {
            return Ok(None);
        }
        let shown = console(pve).await.unwrap_or_default();
        let shown = String::from_utf8_lossy(&shown);
        Ok::<_, TimedOut>(panicked(&shown).then_some(()))
    });
    tokio::select! {
        biased;
        done = guest.exec(exec) => done,
        Ok(()) = panics => Err(GuestError::Broken {
            guest: guest.name(),
            request,
            message: "its kernel has panicked".to_owned(),
        }),
    }
}

/// Whether the kernel of the last boot has panicked.
fn panicked(shown: &str) -> bool {
    since_last_boot(shown).contains(PANIC)
}

/// The VM's console so far.
pub(super) async fn console(pve: &Agent) -> Option<Vec<u8>> {
    pve.read_file(CONSOLE_LOG).await.ok()
}

/// The line of a VM's console after which nothing good can come, if there is one.
pub(super) async fn last_line(pve: &Agent) -> Option<String> {
    let shown = Console::default();
    shown.feed(&console(pve).await.unwrap_or_default());
    fatal_line(&shown).await
}

async fn fatal_line(console: &Console) -> Option<String> {
    tokio::time::timeout(Duration::ZERO, console.fatal())
        .await
        .ok()
}

/// What a console shows of the last boot. A kernel counts its time from zero, so an earlier time than the one before
/// is another kernel's. A kernel that is reset does not end its line, which the next one then goes on with.
pub(super) fn since_last_boot(shown: &str) -> &str {
    let (mut start, mut at, mut before) = (0, 0, 0.0);
    for line in shown.split_inclusive('\n') {
        let times = line
            .match_indices('[')
            .filter_map(|(offset, _)| Some((offset, kernel_time(&line[offset + 1..])?)));
        for (count, (offset, time)) in times.enumerate() {
            if time < before {
                // The firmware's words may come before the first.
                start = if count == 0 { at } else { at + offset };
            }
            before = time;
        }
        at += line.len();
    }
    &shown[start..]
}

/// The time in `   12.345678] text`, which is what printk puts before a line.
fn kernel_time(after_bracket: &str) -> Option<f64> {
    let (time, _) = after_bracket.split_once(']')?;
    let (_, microseconds) = time.split_once('.')?;
    let time = time.trim_start().parse().ok();
    time.filter(|_| microseconds.len() == 6)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_read_from_its_last_boot_on() {
        let first = "[   74.021285] Kernel panic\n";
        let second = "[    4.761285] one [x] [0]\r\nword\n[    4.771285] two [1.5]\n";
        let both = format!("{first}\u{1b}[!p{second}");
        let cut = "[   74.031285] Kernel Offset: 0xbff";
        for (shown, expected) in [
            ("", ""),
            (first, first),
            (second, second),
            (&format!("{first}{second}"), second),
            (&format!("{first}{second}{second}"), second),
            (both.as_str(), &both[first.len()..]),
            (&format!("{first}{cut}{second}"), second),
        ] {
            assert_eq!(since_last_boot(shown), expected, "{shown}");
        }
    }

    #[test]
    fn a_panic_is_one_of_the_last_boot() {
        let panic = "[   74.021285] Kernel panic - not syncing: sysrq triggered crash\n";
        let boot = "[    4.761285] one\n";
        assert!(panicked(&format!("{boot}{panic}")));
        assert!(!panicked(&format!("{boot}{panic}{boot}")));
        assert!(!panicked(""));
    }
}
