//! Faults: what befalls the lab's machine while it runs.

use std::ops::Range;

use super::act::last_lines;
use super::failure::{Failure, StepError, chain};
use super::nas;
use super::run::Runner;
use crate::event::EventKind;
use crate::guest::{Exec, Exit, Guest};
use crate::lab::PciAddress;
use crate::machine::{BLOCK, Bay, CutDisk, MachineError, bay, pluggable, spread};
use crate::plan::Bays;
use crate::poll::{Pace, poll};
use crate::scenario::{
    Access, Action, Awaited, CutDuring, DiskError, FailureKind, NvmeWarning, Vmid,
};

/// What an error spares at a disk's beginning and end, in bytes: the partition table, ZFS's labels, and
/// the room that ZFS leaves for a boot loader.
const LABELS: u64 = 16 << 20;

/// The exit code by which a command that was to be cut short says that it has ended.
const ENDED: i32 = 75;

impl Runner<'_> {
    pub(super) async fn fault(&mut self, action: &Action) -> Result<(), StepError> {
        match action {
            Action::PowerCut => self.cut_power(&[]).await,
            Action::Reset => {
                self.nas = None;
                match &mut self.machine {
                    Some(machine) => Ok(machine.reset().await?),
                    None => Ok(()),
                }
            }
            Action::Panic(vm) => self.panic(*vm).await,
            Action::Unplug(address) => self.unplug(*address).await,
            Action::DiskError(error) => self.disk_error(error).await,
            Action::DiskLost(serial) => {
                let bay = self.bay(serial)?;
                self.fail_disk(&bay, None, &[]).await
            }
            Action::NvmeWarning(warning) => self.nvme_warning(warning).await,
            Action::ReallocatedSectors(sectors) => {
                self.faulty = true;
                Ok(self.running()?.reallocate(*sectors)?)
            }
            Action::WaitFor(awaited) => self.wait_for(*awaited).await,
            Action::CutDuring(cut) => self.cut_during(cut).await,
            other => Err(StepError::SetUp(format!("`{}` is no fault", other.title()))),
        }
    }

    /// The machine loses its power, and gets it back at once. The disks have what they had acknowledged, or
    /// what is given here.
    pub(super) async fn cut_power(&mut self, left: &[CutDisk]) -> Result<(), StepError> {
        self.nas = None;
        if let Some(machine) = self.machine.take() {
            machine.kill().await;
        }
        let lab = self.lab.clone();
        self.power_on(&lab, Bays::Kept, left).await
    }

    async fn cut_during(&mut self, cut: &CutDuring) -> Result<(), StepError> {
        let machine = self.running()?;
        let limit = self.session.ground.deadlines().command;
        let pve = machine.agent();
        // In a session of its own, with nothing of the agent's: the agent waits for neither its end nor
        // its output.
        let begin = format!(
            "rm -f {MARK}; setsid -f sh -c '( eval \"$1\" ); echo $? >{MARK}' sh \"$1\" </dev/null >/run/cut-during.log 2>&1",
            MARK = "/run/cut-during.ended"
        );
        let begin = Exec::new("/bin/sh", ["-c", &begin, "sh", &cut.command], limit);
        machine.watched(&cut.command, limit, pve.run(begin)).await?;
        // A new name is in memory only until the journal is written, up to five seconds later.
        let what = format!("{} to be there", cut.when_exists);
        let look = format!(
            "ls -d -- {} 2>/dev/null && sync && exit 0; [ ! -e /run/cut-during.ended ] || exit {ENDED}; exit 1",
            cut.when_exists
        );
        let moment = async || match pve.exec(Exec::shell(&look, limit)).await?.exit {
            Exit::Code(0) => Ok(Some(true)),
            Exit::Code(ENDED) => Ok(Some(false)),
            _ => Ok(None),
        };
        let wait = poll::<_, MachineError, _>(&what, limit, Pace::QUICK, moment);
        if !machine.watched(&what, limit, wait).await? {
            let log = pve
                .read_file("/run/cut-during.log")
                .await
                .unwrap_or_default();
            let message = format!(
                "`{}` ended before {} was there: {}",
                cut.command,
                cut.when_exists,
                last_lines(&String::from_utf8_lossy(&log), 12)
            );
            return Err(Failure::new(FailureKind::Command, message).into());
        }
        self.cut_power(&[]).await
    }

    async fn panic(&mut self, vm: Vmid) -> Result<(), StepError> {
        let machine = self.running()?;
        let limit = self.session.ground.deadlines().nas_start;
        let pve = machine.agent();
        let crash = "echo c >/proc/sysrq-trigger";
        let vm_word = vm.to_string();
        // The guest is gone before it could say how this went.
        let words = [
            "guest",
            "exec",
            &vm_word,
            "--synchronous",
            "0",
            "--",
            "sh",
            "-c",
            crash,
        ];
        let exec = pve.exec(pve.patient_qm(words, limit));
        machine.watched("the crash of the NAS", limit, exec).await?;
        let what = format!("the console of VM {vm} to show a panic");
        let shown = poll::<_, MachineError, _>(&what, limit, Pace::SLOW, async || {
            Ok(nas::last_line(pve).await)
        });
        let line = machine.watched(&what, limit, shown).await?;
        self.note("nas.panic", line);
        self.keep_nas_console().await;
        self.nas = None;
        Ok(())
    }

    async fn unplug(&mut self, address: PciAddress) -> Result<(), StepError> {
        let device = pluggable(&self.lab, address);
        let device = device.ok_or_else(|| StepError::SetUp(format!("no card at {address}")))?;
        self.faulty = true;
        Ok(self.running()?.unplug(&device).await?)
    }

    async fn disk_error(&mut self, error: &DiskError) -> Result<(), StepError> {
        let bay = self.bay(&error.serial)?;
        if self.running()?.is_faulty(&bay) {
            let message = format!(
                "the disk {} has a fault already, and can have one",
                error.serial
            );
            return Err(Failure::new(FailureKind::Command, message).into());
        }
        // The others may have faults, which a new file over them would undo.
        self.freeze_layers(bay.number..bay.number + 1).await?;
        let disk = &self.disks()?.chains[bay.number];
        let blanks = self.session.blanks();
        let written = blanks
            .written(disk)
            .map_err(|error| StepError::SetUp(chain(&error)))?;
        let within = LABELS..disk.bytes.saturating_sub(LABELS);
        let blocks = spread(&written, within, BLOCK, error.blocks.into());
        if blocks.is_empty() {
            let message = format!("nothing was written to the disk {} yet", error.serial);
            return Err(Failure::new(FailureKind::Command, message).into());
        }
        let access = match error.on {
            Access::Read => "read",
            Access::Write => "write",
        };
        self.fail_disk(&bay, Some(access), &blocks).await
    }

    async fn fail_disk(
        &mut self,
        bay: &Bay,
        access: Option<&str>,
        offsets: &[u64],
    ) -> Result<(), StepError> {
        self.faulty = true;
        match &mut self.machine {
            Some(machine) => Ok(machine.fail_disk(bay, access, offsets).await?),
            None => Ok(()),
        }
    }

    async fn nvme_warning(&mut self, warning: &NvmeWarning) -> Result<(), StepError> {
        let bay = self.bay(&warning.serial)?;
        let bits = warning
            .warnings
            .iter()
            .fold(0, |bits, one| bits | one.bit());
        self.faulty = true;
        Ok(self.running()?.warn(&bay, bits).await?)
    }

    async fn wait_for(&mut self, awaited: Awaited) -> Result<(), StepError> {
        match awaited {
            Awaited::WatchdogReset => {
                self.nas = None;
                match &mut self.machine {
                    Some(machine) => Ok(machine.watchdog_reset().await?),
                    None => Ok(()),
                }
            }
            Awaited::Nas => {
                let deadlines = self.session.ground.deadlines();
                let nas = nas::up(self.running()?, nas::NAS, 0, deadlines).await?;
                self.nas = Some(nas);
                Ok(())
            }
        }
    }

    /// Where a disk of the lab is.
    pub(super) fn bay(&self, serial: &str) -> Result<Bay, StepError> {
        bay(&self.lab, serial)
            .ok_or_else(|| StepError::SetUp(format!("the machine has no disk {serial}")))
    }

    /// Tells of something that was seen.
    pub(super) fn note(&self, check: &str, seen: String) {
        self.session.events().emit(EventKind::CheckHeld {
            scenario: self.scenario.name.clone(),
            check: check.to_owned(),
            seen,
        });
    }

    /// Freezes what is on these disks by now: they are written to new files from here on.
    pub(super) async fn freeze_layers(&mut self, numbers: Range<usize>) -> Result<(), StepError> {
        let blanks = self.session.blanks();
        let overlays = self
            .disks_mut()?
            .overlays(numbers, blanks)
            .map_err(|error| StepError::SetUp(chain(&error)))?;
        let mut frozen = Ok(());
        if let Some(machine) = &mut self.machine {
            machine.pause().await?;
            frozen = machine.freeze_disks(&overlays).await;
        }
        // From here on QEMU writes to the new files, whatever comes next.
        if frozen.is_ok() {
            self.disks_mut()?.froze(overlays);
        }
        if let Some(machine) = &self.machine {
            machine.go_on().await?;
        }
        Ok(frozen?)
    }
}
