//! One scenario's way through its lab.

use std::collections::BTreeMap;
use std::future::Future;
use std::process::Command;
use std::time::{Duration, Instant};

use images::DiskImage;

use super::failure::{Failure, StepError, chain};
use super::redact::Redactor;
use super::session::Session;
use super::{checks, nas, snapshot};
use crate::event::{EventKind, Verdict};
use crate::evidence::ScenarioFolder;
use crate::guest::{Exec, Exit, Guest, GuestError, Nested};
use crate::lab::Lab;
use crate::machine::{Disks, Machine, Placement};
use crate::probe::{self, Facts, Probe, ProbeError};
use crate::scenario::{Action, Expect, FailureKind, GuestName, Run, Scenario, Step, edit};

/// A scenario under way.
pub(super) struct Runner<'a> {
    session: &'a Session,
    scenario: &'a Scenario,
    folder: &'a ScenarioFolder,
    /// What the machine is by now: a step can change the hardware.
    lab: Lab,
    disks: Disks,
    machine: Option<Machine>,
    nas: Option<Nested>,
    /// Outputs that steps saved.
    saved: BTreeMap<String, String>,
    /// What has been read since the last step that changed something.
    facts: BTreeMap<Probe, Facts>,
}

impl<'a> Runner<'a> {
    /// Makes the lab's disks; the machine is started by the first step that needs it.
    pub(super) fn new(
        session: &'a Session,
        scenario: &'a Scenario,
        folder: &'a ScenarioFolder,
        host: &DiskImage,
    ) -> Result<Self, String> {
        let lab = scenario.lab.clone();
        let disks = Disks::create(&folder.disks(), &lab, session.images(), host)
            .map_err(|error| chain(&error))?;
        Ok(Runner {
            session,
            scenario,
            folder,
            lab,
            disks,
            machine: None,
            nas: None,
            saved: BTreeMap::new(),
            facts: BTreeMap::new(),
        })
    }

    /// Takes every step, then checks what must hold at the end.
    pub(super) async fn walk(&mut self) -> Verdict {
        let outcome = self.steps().await;
        let expected = self.scenario.failure.as_ref();
        match (outcome, expected) {
            (Ok(()), None) => Verdict::Held,
            (Err(StepError::SetUp(message)), _) => Verdict::SetUpFailed { message },
            (Err(StepError::Failed(failure)), Some(expected)) if failure.is(expected) => {
                Verdict::FailedAsExpected { failure }
            }
            (Err(StepError::Failed(mut failure)), Some(expected)) => {
                failure.expected = Some(format!(
                    "a failure of kind {}{} that says {}",
                    expected.kind,
                    expected
                        .check
                        .iter()
                        .map(|check| format!(" ({check})"))
                        .collect::<String>(),
                    expected.contains.join(", ")
                ));
                failure.seen.get_or_insert_with(|| failure.message.clone());
                Verdict::Failed { failure }
            }
            (Err(StepError::Failed(failure)), None) => Verdict::Failed { failure },
            (Ok(()), Some(expected)) => {
                let mut failure = Failure::new(
                    expected.kind,
                    "everything held, though this scenario is about a failure",
                );
                failure.step = self.scenario.steps.len() + 1;
                failure.title = "what must hold at the end".to_owned();
                failure.expected = Some(expected.contains.join(", "));
                Verdict::Failed {
                    failure: Box::new(failure),
                }
            }
        }
    }

    /// Secures what is only inside the machine, then ends it.
    pub(super) async fn end(mut self) {
        if self.nas.is_some() {
            // Evidence only; the verdict stands.
            let _ = self.keep_nas_console().await;
        }
        if let Some(machine) = self.machine.take() {
            machine.kill().await;
        }
    }

    async fn steps(&mut self) -> Result<(), StepError> {
        for (index, step) in self.scenario.steps.iter().enumerate() {
            self.step(index + 1, &step.title, Some(step)).await?;
        }
        if self.scenario.checks_at_the_end() {
            let number = self.scenario.steps.len() + 1;
            self.step(number, "what must hold at the end", None).await?;
        }
        Ok(())
    }

    /// Takes one step, or the closing expectations where there is none.
    async fn step(
        &mut self,
        number: usize,
        title: &str,
        step: Option<&Step>,
    ) -> Result<(), StepError> {
        let scenario = self.scenario.name.clone();
        let digest = match step {
            Some(step) => step.action.digest(),
            None => format!("closing-{scenario}"),
        };
        let start = Instant::now();
        let waited_before = self.waited();
        self.session.events().emit(EventKind::StepStarted {
            scenario: scenario.clone(),
            step: number,
            title: title.to_owned(),
            last: self.session.timings().last(&digest),
        });
        let result = match step {
            Some(step) => self.perform(number, &step.action).await,
            None => self.expect(&self.scenario.expect).await,
        };
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                self.session.timings().note(digest, seconds);
                self.session.events().emit(EventKind::StepFinished {
                    scenario,
                    step: number,
                    seconds,
                    guest_seconds: self.waited() - waited_before,
                });
                Ok(())
            }
            Err(StepError::Failed(mut failure)) => {
                failure.step = number;
                failure.title = title.to_owned();
                if let Some(machine) = &self.machine {
                    failure.console = machine.console().tail();
                }
                failure.nas_console = self.keep_nas_console().await.unwrap_or_default();
                Err(StepError::Failed(failure))
            }
            Err(other) => Err(other),
        }
    }

    fn waited(&self) -> f64 {
        self.machine
            .as_ref()
            .map_or(0.0, |machine| machine.waited().as_secs_f64())
    }

    async fn perform(&mut self, number: usize, action: &Action) -> Result<(), StepError> {
        if !matches!(action, Action::Probe { .. } | Action::Expect(_)) {
            self.facts.clear();
        }
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
                self.boot().await?;
                let deadlines = self.session.deadlines();
                let start = Instant::now();
                self.nas = Some(nas::start(self.running()?, *vm, deadlines).await?);
                self.phase("the NAS is up", start);
                Ok(())
            }
            Action::Stop(vm) => {
                let vm = vm.to_string();
                let limit = self.session.deadlines().shutdown;
                self.on_pve(
                    &format!("qm shutdown {vm}"),
                    Exec::new("qm", ["shutdown", &vm], limit),
                )
                .await?;
                self.nas = None;
                Ok(())
            }
            Action::SwapSerials(pair) => self.swap_serials(pair).await,
            Action::Probe { name, probes } => self.probe(number, name, probes).await,
            Action::Expect(expect) => self.expect(expect).await,
        }
    }

    async fn boot(&mut self) -> Result<(), StepError> {
        if self.machine.is_some() {
            return Ok(());
        }
        let session = self.session;
        let place = Placement {
            accelerator: session.choice().accelerator,
            cpu: session.cpu().to_owned(),
            data_dirs: session.qemu_data_dirs(),
            sockets: self.folder.sockets().to_owned(),
            console_log: self.folder.path().join("pve-console.log"),
            root_disk: self.disks.root.clone(),
            nas_disk: self.disks.nas.clone(),
            data_disks: self.disks.data.clone(),
        };
        let program: Command = session.qemu();
        let deadlines = session.deadlines();
        let boot = Machine::boot(program, &self.lab, &place, self.folder.path(), deadlines);
        let start = Instant::now();
        let (machine, _) = boot.await?;
        self.machine = Some(machine);
        self.phase("the host is up", start);
        self.write_file(&nas::config_path(nas::NAS), nas::CONFIG)
            .await
    }

    fn running(&self) -> Result<&Machine, StepError> {
        // Every caller boots first.
        self.machine
            .as_ref()
            .ok_or_else(|| StepError::SetUp("the machine is off".to_owned()))
    }

    fn phase(&self, phase: &str, start: Instant) {
        self.session.events().emit(EventKind::Phase {
            scenario: self.scenario.name.clone(),
            phase: phase.to_owned(),
            seconds: start.elapsed().as_secs_f64(),
        });
    }

    async fn reboot(&mut self) -> Result<(), StepError> {
        self.boot().await?;
        self.nas = None;
        let start = Instant::now();
        if let Some(machine) = &mut self.machine {
            machine.reboot().await?;
        }
        self.phase("the host is up again", start);
        Ok(())
    }

    async fn swap_serials(&mut self, pair: &[String; 2]) -> Result<(), StepError> {
        if let Some(machine) = self.machine.take() {
            self.nas = None;
            machine.power_off().await?;
        }
        for disk in self
            .lab
            .controllers
            .iter_mut()
            .flat_map(|one| &mut one.disks)
        {
            if let Some(at) = pair.iter().position(|serial| *serial == disk.serial) {
                disk.serial.clone_from(&pair[1 - at]);
            }
        }
        Ok(())
    }

    async fn edit(&mut self, file: &str, change: impl Fn(&str) -> String) -> Result<(), StepError> {
        self.boot().await?;
        let machine = self.running()?;
        let limit = self.session.deadlines().command;
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

    async fn write(&mut self, file: &str, content: &str) -> Result<(), StepError> {
        self.boot().await?;
        self.write_file(file, content).await
    }

    /// Writes a file on the host, which is up.
    async fn write_file(&self, file: &str, content: &str) -> Result<(), StepError> {
        let machine = self.running()?;
        let limit = self.session.deadlines().command;
        let write = machine.agent().write_file(file, content.as_bytes());
        Ok(machine
            .watched(&format!("writing {file}"), limit, write)
            .await?)
    }

    async fn on_pve(&mut self, what: &str, exec: Exec) -> Result<String, StepError> {
        self.boot().await?;
        let machine = self.running()?;
        let limit = exec.limit;
        Ok(machine
            .watched(what, limit, machine.agent().run(exec))
            .await?
            .stdout_text())
    }

    async fn run(&mut self, run: &Run) -> Result<(), StepError> {
        self.boot().await?;
        let limit = self.session.deadlines().command;
        let exec = Exec::shell(&run.command, limit);
        let machine = self.running()?;
        let output = match run.on {
            GuestName::Pve => {
                machine
                    .watched(&run.command, limit, machine.agent().exec(exec))
                    .await?
            }
            GuestName::Nas => {
                let nas = self.nas()?;
                machine.watched(&run.command, limit, nas.exec(exec)).await?
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

    fn nas(&self) -> Result<&Nested, StepError> {
        self.nas.as_ref().ok_or_else(|| {
            Failure::new(
                FailureKind::Command,
                "the NAS guest is not running: a `start` step has to come first",
            )
            .into()
        })
    }

    async fn probe(
        &mut self,
        number: usize,
        name: &str,
        probes: &[Probe],
    ) -> Result<(), StepError> {
        let folder = self.session.snapshots();
        for probe in probes {
            self.read(number, name, *probe).await?;
            let facts = &self.facts[probe];
            let text = Redactor::new(&self.scenario.lab)
                .snapshot_text(facts)
                .map_err(|error| {
                    Failure::new(
                        FailureKind::Snapshot,
                        format!(
                            "the facts of `{probe}` cannot be held against a snapshot: {}",
                            chain(&error)
                        ),
                    )
                })?;
            self.keep(
                &format!("{}.snapshot.json", fact_file(number, name, *probe)),
                &text,
            )?;
            let snapshot = format!("{}__{name}__{probe}", self.scenario.name);
            let about = format!("{}: {probe}, {name}", self.scenario.name);
            snapshot::compare(&folder, &snapshot, &about, &text)
                .map_err(|message| Failure::new(FailureKind::Snapshot, message))?;
        }
        Ok(())
    }

    /// Reads facts, unless nothing has changed since they were read.
    async fn read(&mut self, number: usize, name: &str, probe: Probe) -> Result<(), StepError> {
        if self.facts.contains_key(&probe) {
            return Ok(());
        }
        self.boot().await?;
        let machine = self.running()?;
        let limit = self.session.deadlines().command;
        let nas = if probe.guest() == GuestName::Nas {
            Some(self.nas()?)
        } else {
            None
        };
        let file = fact_file(number, name, probe);
        let read = probe::read(probe, machine.agent(), nas, limit);
        let what = format!("the probe `{probe}`");
        let reading = self.understood(&what, limit, &file, read).await?;
        self.keep(&format!("{file}.raw.txt"), &reading.raw)?;
        let json = serde_json::to_string_pretty(&reading.facts)
            .map_err(|error| StepError::SetUp(chain(&error)))?;
        self.keep(&format!("{file}.json"), &json)?;
        self.facts.insert(probe, reading.facts);
        Ok(())
    }

    fn keep(&self, name: &str, content: &str) -> Result<(), StepError> {
        self.folder
            .write(name, content)
            .map_err(|error| StepError::SetUp(chain(&error)))
    }

    async fn expect(&mut self, expect: &Expect) -> Result<(), StepError> {
        let number = self.scenario.steps.len() + 1;
        for probe in checks::needs(expect) {
            self.read(number, "expect", probe).await?;
        }
        let loop_output = if checks::needs_loop(expect) {
            Some(self.write_up_loop().await?)
        } else {
            None
        };
        for held in checks::judge(
            expect,
            &self.scenario.lab,
            &self.facts,
            loop_output.as_deref(),
        )? {
            self.session.events().emit(EventKind::CheckHeld {
                scenario: self.scenario.name.clone(),
                check: held.check.to_owned(),
                seen: held.seen,
            });
        }
        Ok(())
    }

    async fn write_up_loop(&mut self) -> Result<String, StepError> {
        self.boot().await?;
        let what = "the write-up's loop over the IOMMU groups";
        let limit = self.session.deadlines().command;
        let pve = self.running()?.agent();
        let run = probe::listing::run_write_up_loop(pve, limit);
        self.understood(what, limit, "loop", run).await
    }

    /// Waits for a probe. An answer that makes no sense is kept, and is a failure of its own, apart
    /// from a guest that does not answer.
    async fn understood<T>(
        &self,
        what: &str,
        limit: Duration,
        file: &str,
        probe: impl Future<Output = Result<T, ProbeError>>,
    ) -> Result<T, StepError> {
        let answer = self
            .running()?
            .watched(what, limit, async {
                match probe.await {
                    Ok(facts) => Ok(Ok(facts)),
                    Err(ProbeError::Guest { source, .. }) => Err(source),
                    Err(error) => Ok(Err(error)),
                }
            })
            .await?;
        match answer {
            Ok(facts) => Ok(facts),
            Err(error) => {
                if let ProbeError::Parse { raw, .. } = &error {
                    self.keep(&format!("{file}.raw.txt"), raw)?;
                }
                let message = format!("the answer to {what} makes no sense: {}", chain(&error));
                Err(Failure::new(FailureKind::Command, message).into())
            }
        }
    }

    async fn keep_nas_console(&self) -> Option<Vec<String>> {
        let machine = self.machine.as_ref()?;
        let limit = self.session.deadlines().agent_answer;
        let bytes = tokio::time::timeout(limit, nas::console(machine.agent()))
            .await
            .ok()??;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.keep("nas-console.log", &text).ok()?;
        Some(last_lines(&text, 40).lines().map(str::to_owned).collect())
    }
}

fn fact_file(number: usize, name: &str, probe: Probe) -> String {
    format!("facts/{number:02}-{name}-{probe}")
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
