//! How long things may take, per accelerator. A deadline is reached only when something is wrong,
//! so each is several times what a slow machine was seen to need.

use std::time::Duration;

/// The limits of everything that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From power on to the first answer of L1's guest agent.
    pub boot: Duration,
    /// From the request to power off to QEMU's end.
    pub shutdown: Duration,
    /// A command in a guest; the longest is `update-initramfs -u -k all`.
    pub command: Duration,
    /// From `qm start` to the first answer of L2's guest agent.
    pub nas_start: Duration,
    /// How long L2's console may stay silent until its guest agent answers.
    pub nas_silence: Duration,
    /// One answer of a guest agent.
    pub agent_answer: Duration,
    /// One answer of QEMU's monitor, and its greeting.
    pub qmp: Duration,
    /// RAM and devices on their way into or out of a checkpoint.
    pub state: Duration,
}

impl Deadlines {
    /// For KVM, on a machine that does other things too and may be a virtual one itself, as a hosted runner is: the NAS is
    /// the third guest inside another there.
    pub const KVM: Deadlines = Deadlines {
        boot: Duration::from_secs(120),
        shutdown: Duration::from_secs(120),
        command: Duration::from_secs(300),
        nas_start: Duration::from_secs(240),
        nas_silence: Duration::from_secs(100),
        agent_answer: Duration::from_secs(20),
        qmp: Duration::from_secs(20),
        state: Duration::from_secs(60),
    };

    /// For emulation: a CPU that is ten times slower, beside disks and timers that are not.
    pub const TCG: Deadlines = Deadlines::KVM.times(3);

    const fn times(self, factor: u32) -> Deadlines {
        Deadlines {
            boot: self.boot.saturating_mul(factor),
            shutdown: self.shutdown.saturating_mul(factor),
            command: self.command.saturating_mul(factor),
            nas_start: self.nas_start.saturating_mul(factor),
            nas_silence: self.nas_silence.saturating_mul(factor),
            agent_answer: self.agent_answer.saturating_mul(factor),
            qmp: self.qmp.saturating_mul(factor),
            state: self.state.saturating_mul(factor),
        }
    }
}
