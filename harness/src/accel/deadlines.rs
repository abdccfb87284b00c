//! How long things may take, per accelerator. A deadline is reached only when something is wrong,
//! so each is several times what a slow machine was seen to need.

use std::time::Duration;

/// The limits of everything that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From power on to the first answer of L1's guest agent.
    pub boot: Duration,
    /// From the request to reboot to the agent's answer with another boot id.
    pub reboot: Duration,
    /// From the request to power off to QEMU's end.
    pub shutdown: Duration,
    /// A command in a guest, when nothing longer is known of it.
    pub command: Duration,
    /// `update-initramfs -u -k all`, and whatever else calls it.
    pub update_initramfs: Duration,
    /// From `qm start` to the first answer of L2's guest agent.
    pub nas_start: Duration,
    /// From `qm shutdown` to a VM that is stopped.
    pub nas_stop: Duration,
    /// One answer of a guest agent.
    pub agent_answer: Duration,
    /// One answer of QEMU's monitor, and its greeting.
    pub qmp: Duration,
    /// From the end of a guest to the end of its QEMU.
    pub process_end: Duration,
}

impl Deadlines {
    /// For KVM, on a machine that does other things too.
    pub const KVM: Deadlines = Deadlines {
        boot: Duration::from_secs(60),
        reboot: Duration::from_secs(90),
        shutdown: Duration::from_secs(60),
        command: Duration::from_secs(60),
        update_initramfs: Duration::from_secs(120),
        nas_start: Duration::from_secs(120),
        nas_stop: Duration::from_secs(60),
        agent_answer: Duration::from_secs(10),
        qmp: Duration::from_secs(10),
        process_end: Duration::from_secs(5),
    };

    /// For emulation: a CPU that is ten times slower, beside disks and timers that are not.
    pub const TCG: Deadlines = Deadlines::KVM.times(6);

    const fn times(self, factor: u32) -> Deadlines {
        Deadlines {
            boot: self.boot.saturating_mul(factor),
            reboot: self.reboot.saturating_mul(factor),
            shutdown: self.shutdown.saturating_mul(factor),
            command: self.command.saturating_mul(factor),
            update_initramfs: self.update_initramfs.saturating_mul(factor),
            nas_start: self.nas_start.saturating_mul(factor),
            nas_stop: self.nas_stop.saturating_mul(factor),
            agent_answer: self.agent_answer.saturating_mul(factor),
            qmp: self.qmp.saturating_mul(factor),
            // Not the guest's work, and no accelerator slows it down.
            process_end: self.process_end,
        }
    }
}
