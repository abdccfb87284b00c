//! Taking checkpoints on a scenario's way, and going on from them.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::failure::{StepError, chain};
use super::nas;
use super::run::Runner;
use crate::checkpoint::{
    self, Checkpoint, FileMeta, Frozen, FrozenDisk, LayerRef, Meta, Nas, StoreError,
};
use crate::event::EventKind;
use crate::guest::{self, Agent, Exec, Guest, GuestError, Nested};
use crate::machine::{Console, Disks, Machine, MachineError, Saved};
use crate::plan::{Bays, Move, NodeId, first_lab};
use crate::scenario::{FailureKind, Vmid};

/// Prints a kernel's boot id, without a process of its own.
const BOOT_ID: &str = "read -r id </proc/sys/kernel/random/boot_id && echo \"$id\"";

/// The file of what QEMU saves beside RAM.
const DEVICES: &str = "devices.zst";

/// What steps before a checkpoint have read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EarlierFacts {
    /// It has to be on record, for it is judged.
    Judged,
    /// Nobody asks for it.
    Unneeded,
}

/// Why there is no checkpoint; the scenario goes on without.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("QEMU cannot save this machine while it runs: {0}")]
    Blocked(String),
    #[error("a VM runs that no step has waited for, and it cannot be suspended before it is up")]
    Stranger,
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Lab(String),
    #[error("the machine does not go on after it was stopped for a checkpoint: {0}")]
    Standing(MachineError),
    #[error("{0}")]
    Unfit(String),
}

impl Trouble {
    /// Whether it is the checkpoint's own, so that the next run would meet it again; the rest is of this machine at
    /// this hour.
    fn is_of_the_checkpoint(&self) -> bool {
        match self {
            Trouble::Unfit(_) | Trouble::Store(_) => true,
            Trouble::Machine(error) => !matches!(
                error,
                MachineError::Process(_)
                    | MachineError::SetUp { .. }
                    | MachineError::Exited { .. }
                    | MachineError::Lab { .. }
                    | MachineError::TimedOut(_)
                    | MachineError::Qmp(_)
            ),
            Trouble::Blocked(_) | Trouble::Stranger | Trouble::Lab(_) | Trouble::Standing(_) => {
                false
            }
        }
    }
}

impl From<StepError> for Trouble {
    fn from(error: StepError) -> Self {
        Trouble::Lab(match error {
            StepError::Failed(failure) => failure.message,
            StepError::SetUp(message) => message,
        })
    }
}

impl Runner<'_> {
    /// Goes on from the deepest checkpoint of these states, the first ones of the way. Gives how many
    /// moves it holds; none means that the scenario begins with its first step.
    pub(super) async fn begin(
        &mut self,
        nodes: &[NodeId],
        facts: EarlierFacts,
    ) -> Result<usize, StepError> {
        let Some(store) = self.session.ground.store() else {
            return Ok(0);
        };
        for depth in (1..=nodes.len()).rev() {
            let key = self.key(nodes[depth - 1]);
            if self.parts_measurements(nodes[depth - 1]) {
                continue;
            }
            let Some(checkpoint) = store.find(&key) else {
                continue;
            };
            if checkpoint.meta.measured.len() != self.measurements_among(&nodes[..depth]) {
                // It is from before measurements were kept.
                store.discard(checkpoint);
                continue;
            }
            if facts == EarlierFacts::Judged && !self.knows_all_before(&nodes[..depth - 1]).await {
                continue;
            }
            let start = Instant::now();
            let name = checkpoint.name().to_owned();
            match self.go_on_from(&checkpoint, &nodes[..depth]).await {
                Ok(()) => {
                    self.spent = checkpoint.meta.seconds;
                    self.frozen_at = self.spent;
                    self.stands_at = Some(name.clone());
                    let steps = self.steps_done(depth);
                    self.session.events().emit(EventKind::Restored {
                        scenario: self.scenario.name.clone(),
                        checkpoint: name,
                        taken: checkpoint.meta.taken,
                        steps,
                        worth: checkpoint.meta.seconds,
                        seconds: start.elapsed().as_secs_f64(),
                    });
                    self.pins.push(checkpoint);
                    self.tell_what_was_measured();
                    return Ok(depth);
                }
                Err(trouble) => {
                    self.start_over().await;
                    self.session.events().emit(EventKind::CheckpointUnusable {
                        scenario: self.scenario.name.clone(),
                        checkpoint: name,
                        reason: chain(&trouble),
                    });
                    if trouble.is_of_the_checkpoint() {
                        store.discard(checkpoint);
                    }
                }
            }
        }
        Ok(0)
    }

    /// Takes a checkpoint of the state that was just reached, unless there is one.
    ///
    /// # Errors
    /// When the machine stands still after it. Without a checkpoint, the scenario goes on.
    pub(super) async fn checkpoint_now(&mut self, node: NodeId) -> Result<(), StepError> {
        let Some(store) = self.session.ground.store() else {
            return Ok(());
        };
        // Nobody would go on from there.
        if self.parts_measurements(node) {
            return Ok(());
        }
        let key = self.key(node);
        if let Some(there) = store.find(&key) {
            // Another way led here before, and this one only had to read facts.
            self.pins.push(there);
            self.frozen_at = self.spent;
            return Ok(());
        }
        if self.unsavable || self.faulty || !self.session.ground.takes_checkpoints() {
            return Ok(());
        }
        let start = Instant::now();
        match self.freeze(node).await {
            Ok(checkpoint) => {
                let bytes = checkpoint.meta.files.values().map(|file| file.bytes).sum();
                self.session.events().emit(EventKind::CheckpointTaken {
                    scenario: self.scenario.name.clone(),
                    checkpoint: checkpoint.name().to_owned(),
                    seconds: start.elapsed().as_secs_f64(),
                    bytes,
                });
                self.stands_at = Some(checkpoint.name().to_owned());
                self.pins.push(checkpoint);
                self.frozen_at = self.spent;
            }
            Err(trouble @ Trouble::Standing(_)) => return Err(StepError::SetUp(chain(&trouble))),
            Err(trouble) => {
                // What QEMU cannot save now it cannot save a step later.
                self.unsavable = matches!(
                    trouble,
                    Trouble::Blocked(_) | Trouble::Machine(MachineError::State { .. })
                );
                self.session.events().emit(EventKind::NoCheckpoint {
                    scenario: self.scenario.name.clone(),
                    reason: chain(&trouble),
                });
            }
        }
        Ok(())
    }

    async fn freeze(&mut self, node: NodeId) -> Result<Checkpoint, Trouble> {
        let store = self
            .session
            .ground
            .store()
            .ok_or_else(|| Trouble::Lab("no store".to_owned()))?;
        if let Some(machine) = &self.machine
            && let Some(reason) = machine.unsavable().await?
        {
            return Err(Trouble::Blocked(reason));
        }
        if let (Some(machine), None) = (&self.machine, &self.nas)
            && runs_a_vm(machine).await?
        {
            return Err(Trouble::Stranger);
        }
        let key = self.key(node);
        let draft = store.begin(&key)?;
        let blanks = self.session.blanks();
        let disks = self.disks_mut()?;
        let overlays = disks
            .overlays(disks.all(), blanks)
            .map_err(|error| Trouble::Lab(chain(&error)))?;
        let mut files = BTreeMap::new();
        let mut frozen = None;
        let mut console = Vec::new();
        let nas = self.nas.as_ref().map(|nas| Nas {
            vmid: nas.vm,
            boot_id: Some(nas.boot_id.clone()),
        });
        let mut boot_id = None;
        if let (Some(machine), Some(disks)) = (&mut self.machine, &mut self.disks) {
            let vmid = nas.as_ref().map(|nas| nas.vmid);
            let (devices, ram) =
                freeze_machine(machine, disks, overlays, vmid, draft.path()).await?;
            frozen = Some(Frozen {
                devices: DEVICES.to_owned(),
                ram: ram.keys().cloned().collect(),
            });
            files.extend(ram);
            files.insert(DEVICES.to_owned(), devices);
            console = machine.console().tail();
            boot_id = Some(machine.boot_id().to_owned());
        } else {
            self.disks_mut()?.froze(overlays);
        }

        let mut disks = Vec::new();
        let chains = self.disks()?.chains.clone();
        let mut stored = self.stored.clone();
        for (number, chain) in chains.iter().enumerate() {
            let mut layers = Vec::new();
            for (depth, path) in chain.layers.iter().enumerate() {
                let layer = match stored.get(path) {
                    Some(layer) => layer.clone(),
                    None => {
                        let file = format!("disk{number}-{depth}.qcow2");
                        files.insert(file.clone(), draft.adopt(path, &file)?);
                        let folder = draft.name().to_owned();
                        let layer = LayerRef { folder, file };
                        stored.insert(path.clone(), layer.clone());
                        layer
                    }
                };
                layers.push(layer);
            }
            let bytes = chain.bytes;
            disks.push(FrozenDisk { bytes, layers });
        }
        let meta = Meta {
            key,
            taken: jiff::Timestamp::now(),
            seconds: self.spent,
            boot_id,
            nas,
            saved: self.saved.clone(),
            measured: self.measured.clone(),
            disks,
            frozen,
            files,
            console,
        };
        let checkpoint = store.finish(draft, &meta)?;
        self.stored = stored;
        Ok(checkpoint)
    }

    async fn go_on_from(
        &mut self,
        checkpoint: &Checkpoint,
        nodes: &[NodeId],
    ) -> Result<(), Trouble> {
        let store = self
            .session
            .ground
            .store()
            .ok_or_else(|| Trouble::Lab("no store".to_owned()))?;
        store.check(checkpoint)?;
        self.take_labs_of(nodes);
        let images = self.session.ground.disk_images(first_lab(self.scenario));
        let images = images.into_iter().map(|image| Some(image.path));
        let bases = images.chain(std::iter::repeat(None));
        let meta = &checkpoint.meta;
        let mut frozen = Vec::new();
        for (disk, base) in meta.disks.iter().zip(bases) {
            let paths: Vec<_> = disk
                .layers
                .iter()
                .map(|layer| checkpoint.layer(layer))
                .collect();
            let layers = paths.iter().cloned().zip(disk.layers.iter().cloned());
            self.stored.extend(layers);
            frozen.push((base, paths, disk.bytes));
        }
        let disks = Disks::over(&self.folder.disks(), frozen, self.session.blanks())
            .map_err(|error| Trouble::Lab(chain(&error)))?;
        self.disks = Some(disks);
        self.saved = meta.saved.clone();
        self.measured = meta.measured.clone();
        self.keep("pve-console-before.log", &meta.console.join("\n"))?;
        let (Some(parts), Some(boot_id)) = (&meta.frozen, &meta.boot_id) else {
            return Ok(());
        };
        let listed = |name: &String| {
            let unlisted = || Trouble::Unfit(format!("its file `{name}` is not listed"));
            meta.files.get(name).cloned().ok_or_else(unlisted)
        };
        let expected = listed(&parts.devices)?;
        let devices = checkpoint.file(&parts.devices);
        let mut ram = BTreeMap::new();
        for name in &parts.ram {
            ram.insert(name.clone(), listed(name)?);
        }
        let folder = checkpoint.folder();
        let place = self.placement(true)?;
        let deadlines = self.session.ground.deadlines();
        let mut machine = Machine::restore(
            self.session.ground.qemu(),
            &self.lab,
            &place,
            self.folder.path(),
            deadlines,
            Console::after(&meta.console),
            Saved {
                ram: move |file: &File| checkpoint::load_ram(file, &folder, &ram),
                devices: move |stream| checkpoint::load_devices(&devices, &expected, stream),
            },
        )
        .await?;
        machine.adopt(boot_id);
        machine.go_on().await?;
        let pve = machine.agent().clone();
        let awake = awake(&machine, meta.nas.as_ref().map(|nas| nas.vmid)).await;
        self.machine = Some(machine);
        let (found, nas_boot) = awake?;
        if let (Some(nas), Some(found)) = (&meta.nas, nas_boot) {
            let boot_id = nas.boot_id.clone().unwrap_or_else(|| found.clone());
            // It was reset before it was frozen. Where that is not what the scenario is about, the next machine shows whether
            // it is so again.
            if boot_id != found && !self.is_about(FailureKind::Crash) {
                return Err(Trouble::Unfit(format!(
                    "the NAS is in the boot {found}, and the one that came up was {boot_id}"
                )));
            }
            self.nas = Some(nas::Running {
                vm: nas.vmid,
                guest: Nested::new(pve, nas.vmid),
                boot_id,
            });
        }
        if found != *boot_id {
            return Err(Trouble::Unfit(format!(
                "the host says that it is in the boot {found}, and was frozen in {boot_id}"
            )));
        }
        Ok(())
    }

    fn is_about(&self, kind: FailureKind) -> bool {
        let failure = self.scenario.failure.as_ref();
        failure.is_some_and(|failure| failure.kind == kind)
    }

    /// Whether the facts that steps before the last of these states look at are on record.
    async fn knows_all_before(&self, passed: &[NodeId]) -> bool {
        let Some(records) = self.session.ground.records() else {
            return false;
        };
        for leg in &self.route().legs {
            if leg.looks
                && passed.contains(&leg.at)
                && !self.is_recorded(leg, &records.get(&self.key(leg.at))).await
            {
                return false;
            }
        }
        true
    }

    /// Notes which machine the last of these states has.
    fn take_labs_of(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            if let Move::PowerOn { lab, bays } = &self.plan.nodes()[*node].arrival {
                self.lab = (**lab).clone();
                if *bays == Bays::BySerial {
                    self.judged = self.lab.clone();
                }
            }
        }
    }
}

/// Sets the clocks of guests that slept, resumes L2, and gives the boot ids of the host and of L2. One command,
/// for each is a process start under emulation.
async fn awake(machine: &Machine, nas: Option<Vmid>) -> Result<(String, Option<String>), Trouble> {
    let now = jiff::Timestamp::now();
    let set = format!(
        "date -u -s @{}.{:03} >/dev/null",
        now.as_second(),
        now.subsec_millisecond()
    );
    let mut script = format!("{set} || exit\n");
    if let Some(vmid) = nas {
        let patience = machine.agent().qm_patience();
        script.push_str(&format!(
            "export {patience}\n\
             qm resume {vmid} && qm guest exec {vmid} -- sh -c '{set} && {BOOT_ID}' || exit\n"
        ));
    }
    script.push_str(BOOT_ID);
    let limit = machine.limits().command;
    let run = machine.agent().run(Exec::shell(&script, limit));
    let output = machine.watched("the guests to go on", limit, run).await?;
    let said = output.stdout_text();
    let Some((report, host)) = said.trim().rsplit_once('\n').filter(|_| nas.is_some()) else {
        return Ok((said.trim().to_owned(), None));
    };
    match guest::reported(report) {
        Ok(Some(inner)) if inner.success() => {
            Ok((host.to_owned(), Some(inner.stdout_text().trim().to_owned())))
        }
        _ => Err(Trouble::Unfit(format!(
            "the NAS does not say in which boot it is: {}",
            report.trim()
        ))),
    }
}

/// Freezes the disks of a machine that runs, and saves its devices and RAM into a folder while it and its NAS stand
/// still.
async fn freeze_machine(
    machine: &mut Machine,
    disks: &mut Disks,
    overlays: BTreeMap<usize, PathBuf>,
    nas: Option<Vmid>,
    folder: &Path,
) -> Result<(FileMeta, BTreeMap<String, FileMeta>), Trouble> {
    let (devices, folder) = (folder.join(DEVICES), folder.to_owned());
    let limit = machine.limits().command;
    let saved = async {
        if let Some(vmid) = nas {
            qm(machine.agent(), "suspend", vmid, limit).await?;
        }
        machine.pause().await?;
        machine.freeze_disks(&overlays).await?;
        // From here on QEMU writes to the new files, whatever comes next.
        disks.froze(overlays);
        machine
            .save(
                move |stream| checkpoint::save_devices(stream, &devices),
                move |ram| checkpoint::save_ram(ram, &folder),
            )
            .await
    };
    let saved = saved.await;
    // Whatever became of it, the scenario goes on; also where a suspension was reported to have failed.
    machine.go_on().await.map_err(Trouble::Standing)?;
    if let Some(vmid) = nas {
        match qm(machine.agent(), "resume", vmid, limit).await {
            // One that had ended before was not suspended either; that it did is for the scenario to find.
            Err(MachineError::Guest(GuestError::Failed { stderr, .. }))
                if stderr.contains("not running") => {}
            resumed => resumed.map_err(Trouble::Standing)?,
        }
    }
    Ok(saved?)
}

async fn qm(pve: &Agent, verb: &str, vmid: Vmid, limit: Duration) -> Result<(), MachineError> {
    pve.run(pve.patient_qm([verb, &vmid.to_string()], limit))
        .await?;
    Ok(())
}

/// Whether the host runs a VM. One that is not suspended makes a checkpoint that now and then cannot be gone
/// on from.
async fn runs_a_vm(machine: &Machine) -> Result<bool, MachineError> {
    let limit = machine.limits().command;
    let list = machine.agent().exec(Exec::new("qm", ["list"], limit));
    let output = machine.watched("the list of VMs", limit, list).await?;
    Ok(output
        .stdout_text()
        .lines()
        .any(|line| line.split_whitespace().any(|word| word == "running")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::TimedOut;

    #[test]
    fn a_checkpoint_is_thrown_away_for_what_is_wrong_with_it_and_not_with_this_machine() {
        let late = MachineError::TimedOut(TimedOut {
            what: "the guests to go on".to_owned(),
            waited: Duration::from_secs(60),
        });
        assert!(!Trouble::from(late).is_of_the_checkpoint());
        assert!(!Trouble::Lab("no space left".to_owned()).is_of_the_checkpoint());
        let refused = MachineError::State {
            what: "the RAM to be loaded".to_owned(),
            trouble: "QEMU refused it".to_owned(),
            words: String::new(),
        };
        assert!(Trouble::from(refused).is_of_the_checkpoint());
        let damaged = StoreError::Damaged {
            file: "ram-0.zst".to_owned(),
            reason: "it is short".to_owned(),
        };
        assert!(Trouble::from(damaged).is_of_the_checkpoint());
    }
}
