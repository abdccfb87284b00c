//! Moves and actions: what a scenario does to its lab.

use std::process::Command;
use std::time::Instant;

use super::failure::{Failure, StepError, chain};
use super::nas;
use super::run::Runner;
use crate::guest::{Exec, Exit, Guest, GuestError, Nested};
use crate::lab::Lab;
use crate::machine::{CONSOLE_LOG, CutDisk, Machine, Placement};
use crate::plan::{Bays, Move};
use crate::scenario::{Action, FailureKind, GuestName, Run, edit};

impl Runner<'_> {
    /// Changes the lab's state.
    pub(super) async fn make(&mut self, one: &Move) -> Result<(), StepError> {
        if let Move::Act(action) = one {
            self.remember(action).await;
        }
        self.facts.clear();
        self.stands_at = None;
        match one {
            Move::PowerOn { lab, bays } => self.power_on(lab, *bays, &[]).await,
            Move::PowerOff => {
                self.nas = None;
                match self.machine.take() {
                    Some(machine) => Ok(machine.power_off().await?),
                    None => Ok(()),
                }
            }
            Move::Act(action) => self.act(action).await,
        }
    }

    /// Switches the machine on. What a power cut left on disks takes the place of what is on them.
    pub(super) async fn power_on(
        &mut self,
        lab: &Lab,
        bays: Bays,
        cut: &[CutDisk],
    ) -> Result<(), StepError> {
        match bays {
            Bays::New => self.disks = Some(self.fresh_disks(lab)?),
            Bays::Kept => {}
            Bays::BySerial => {
                let blanks = self.session.blanks();
                let old = self.lab.clone();
                let disks = self.disks_mut()?;
                disks
                    .move_to(&old, lab, blanks)
                    .map_err(|error| StepError::SetUp(chain(&error)))?;
                self.judged = lab.clone();
            }
        }
        self.lab = lab.clone();
        self.faulty = false;
        let place = self.placement(false)?;
        let session = self.session;
        let program: Command = session.ground.qemu();
        let boot = Machine::boot(
            program,
            &self.lab,
            &place,
            self.folder.path(),
            session.ground.deadlines(),
            async |machine| {
                for disk in cut {
                    machine.insert_cut(disk).await?;
                }
                Ok(())
            },
        );
        let start = Instant::now();
        self.machine = Some(boot.await?);
        self.phase("the host is up", start);
        if bays == Bays::New {
            self.write(&nas::config_path(nas::NAS), nas::CONFIG).await?;
        }
        Ok(())
    }

    pub(super) fn placement(&self, incoming: bool) -> Result<Placement, StepError> {
        let session = self.session;
        Ok(Placement {
            accelerator: session.ground.choice().accelerator,
            cpu: session.ground.cpu().to_owned(),
            data_dirs: session.ground.qemu_data_dirs(),
            sockets: self.folder.sockets().to_owned(),
            console_log: self.folder.path().join(CONSOLE_LOG),
            disks: self.disks()?.chains.clone(),
            incoming,
        })
    }

    async fn act(&mut self, action: &Action) -> Result<(), StepError> {
        match action {
            Action::Set { file, key, value } => {
                self.edit(file, |content| edit::set_key(content, key, value))
                    .await
            }
            Action::Append { file, lines } => {
                self.edit(file, |content| edit::append_lines(content, lines))
                    .await
            }
            Action::Write { file, content } => self.write(file, content).await,
            Action::VmConfig { vm, line } => {
                let file = nas::config_path(*vm);
                self.edit(&file, |content| edit::set_vm_line(content, line))
                    .await
            }
            Action::Run(run) => self.run(run).await,
            Action::Reboot => self.reboot().await,
            Action::Start(vm) => {
                let deadlines = self.session.ground.deadlines();
                let start = Instant::now();
                let (nas, words) = nas::start(self.running()?, *vm, deadlines).await?;
                self.nas = Some(nas);
                if let Some(observed) = &mut self.observed {
                    observed.start_words = words;
                }
                self.phase("the NAS is up", start);
                Ok(())
            }
            Action::Stop(vm) => {
                let vm = vm.to_string();
                let limit = self.session.ground.deadlines().shutdown;
                let machine = self.running()?;
                // By itself, qm gives a guest one minute.
                let seconds = limit.as_secs().to_string();
                let words = ["shutdown", &vm, "--timeout", &seconds];
                let stop = machine
                    .agent()
                    .run(machine.agent().patient_qm(words, limit));
                machine
                    .watched(&format!("qm shutdown {vm}"), limit, stop)
                    .await?;
                self.nas = None;
                Ok(())
            }
            Action::PowerCut
            | Action::Reset
            | Action::Panic(_)
            | Action::Unplug(_)
            | Action::DiskError(_)
            | Action::DiskLost(_)
            | Action::NvmeWarning(_)
            | Action::ReallocatedSectors(_)
            | Action::WaitFor(_)
            | Action::CutDuring(_) => self.fault(action).await,
            Action::PowerCuts(cuts) => self.power_cuts(cuts).await,
            Action::Measure(measure) => self.measure(measure).await,
            // They are planned as moves of their own, and what only looks is no move.
            Action::SwapSerials(_)
            | Action::Rewire(_)
            | Action::Probe { .. }
            | Action::Expect(_) => Err(StepError::SetUp(format!(
                "`{}` was planned as what it is not",
                action.title()
            ))),
        }
    }

    async fn reboot(&mut self) -> Result<(), StepError> {
        self.nas = None;
        let start = Instant::now();
        if let Some(machine) = &mut self.machine {
            machine.reboot().await?;
        }
        self.phase("the host is up again", start);
        Ok(())
    }

    async fn edit(&self, file: &str, change: impl Fn(&str) -> String) -> Result<(), StepError> {
        let machine = self.running()?;
        let limit = self.session.ground.deadlines().command;
        let pve = machine.agent();
        let read = async {
            match pve.read_file(file).await {
                // A file that is not there yet is an empty one.
                Err(GuestError::Refused { message, .. }) if message.contains("No such file") => {
                    Ok(Vec::new())
                }
                other => other,
            }
        };
        let content = machine
            .watched(&format!("reading {file}"), limit, read)
            .await?;
        let content = String::from_utf8(content).map_err(|_| {
            Failure::new(FailureKind::Command, format!("{file} on pve is not text"))
        })?;
        let content = change(&content);
        self.write(file, &content).await
    }

    async fn write(&self, file: &str, content: &str) -> Result<(), StepError> {
        let machine = self.running()?;
        let limit = self.session.ground.deadlines().command;
        let write = machine.agent().write_file(file, content.as_bytes());
        Ok(machine
            .watched(&format!("writing {file}"), limit, write)
            .await?)
    }

    async fn run(&mut self, run: &Run) -> Result<(), StepError> {
        let limit = self.session.ground.deadlines().command;
        let exec = Exec::shell(&run.command, limit);
        let machine = self.running()?;
        let output = match run.on {
            GuestName::Pve => {
                machine
                    .watched(&run.command, limit, machine.agent().exec(exec))
                    .await?
            }
            GuestName::Nas => {
                let work = nas::exec(machine.agent(), self.nas()?, exec);
                machine.watched(&run.command, limit, work).await?
            }
        };
        if output.exit != Exit::Code(run.exit) {
            let message = format!(
                "`{}` in {} ended with {} in place of exit code {}: {}",
                run.command,
                run.on,
                output.exit,
                run.exit,
                last_lines(&[output.stdout_text(), output.stderr_text()].concat(), 12)
            );
            return Err(Failure::new(FailureKind::Command, message).into());
        }
        let text = output.stdout_text();
        if let Some(name) = &run.same_as {
            let before = self.saved.get(name).map_or("", String::as_str);
            if *before != text || text.trim().is_empty() {
                let mut failure = Failure::new(
                    FailureKind::Output,
                    format!("`{}` does not give what was saved as {name}", run.command),
                );
                failure.expected = Some(before.to_owned());
                failure.seen = Some(text);
                return Err(failure.into());
            }
        }
        if let Some(name) = &run.save {
            self.saved.insert(name.clone(), text);
        }
        Ok(())
    }

    pub(super) fn nas(&self) -> Result<&Nested, StepError> {
        match &self.nas {
            Some(nas) => Ok(&nas.guest),
            None => Err(Failure::new(
                FailureKind::Command,
                "the NAS guest is not running: a `start` step has to come first",
            )
            .into()),
        }
    }
}

pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
