//! One scenario's way through its lab.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::failure::{Failure, StepError, chain};
use super::findings::Memory;
use super::freeze::EarlierFacts;
use super::look::Source;
use super::nas;
use super::observe::Observed;
use super::session::Session;
use super::snapshot;
use crate::checkpoint::{Checkpoint, LayerRef};
use crate::event::{EventKind, Measurement, Verdict};
use crate::evidence::ScenarioFolder;
use crate::host;
use crate::lab::Lab;
use crate::machine::{Disks, Machine};
use crate::plan::{Key, NodeId, Plan, Route, RouteLeg};
use crate::probe::{Facts, Probe};
use crate::scenario::{Action, FailureKind, Scenario};

/// A disk with less than this left, in bytes, has refused something by now.
const FULL: u64 = 16 << 20;

/// Where the facts of a state are from that a step looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// From the guests.
    Live,
    /// The guests are in it, and have said all of it already.
    Known,
    /// The guests have been in it before; it is all on record.
    Past,
}

/// A scenario under way.
pub(super) struct Runner<'a> {
    pub(super) session: &'a Session,
    pub(super) scenario: &'a Scenario,
    pub(super) folder: &'a ScenarioFolder,
    pub(super) plan: Arc<Plan>,
    /// The number of the scenario's way in the plan.
    route: usize,
    /// What the machine is by now.
    pub(super) lab: Lab,
    /// The lab that facts are held against: the one whose labels the scenario's author reads.
    pub(super) judged: Lab,
    pub(super) disks: Option<Disks>,
    /// Layers that are in the store, by where this run has them.
    pub(super) stored: BTreeMap<PathBuf, LayerRef>,
    pub(super) machine: Option<Machine>,
    pub(super) nas: Option<nas::Running>,
    /// Outputs that steps saved.
    pub(super) saved: BTreeMap<String, String>,
    /// What steps measured.
    pub(super) measured: Vec<Measurement>,
    /// What has been read since the last step that changed something.
    pub(super) facts: BTreeMap<Probe, Facts>,
    /// What findings may be derived from when nobody can be asked any more.
    pub(super) memory: Memory,
    /// What the way to the present state took, in seconds.
    pub(super) spent: f64,
    /// [`Runner::spent`] at the last checkpoint.
    pub(super) frozen_at: f64,
    /// Whether QEMU has said that this machine cannot be saved while it runs.
    pub(super) unsavable: bool,
    /// Whether a fault is in the machine that a checkpoint does not hold.
    pub(super) faulty: bool,
    /// What it shows, where somebody wants to know that and expects nothing.
    pub(super) observed: Option<Observed>,
    /// The name of the checkpoint at which the machine stands, until it moves on.
    pub(super) stands_at: Option<String>,
    /// Under which key to look for the facts of the state in which a step failed.
    pub(super) failed_at: Option<Key>,
    /// Snapshots that are not there yet.
    pub(super) unaccepted: Vec<PathBuf>,
    /// Checkpoints that this run's disks are built on.
    pub(super) pins: Vec<Checkpoint>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(
        session: &'a Session,
        scenario: &'a Scenario,
        folder: &'a ScenarioFolder,
        plan: Arc<Plan>,
        route: usize,
    ) -> Self {
        Runner {
            session,
            scenario,
            folder,
            plan,
            route,
            lab: scenario.lab.clone(),
            judged: scenario.lab.clone(),
            disks: None,
            stored: BTreeMap::new(),
            machine: None,
            nas: None,
            saved: BTreeMap::new(),
            measured: Vec::new(),
            facts: BTreeMap::new(),
            memory: Memory::default(),
            spent: 0.0,
            frozen_at: 0.0,
            unsavable: false,
            faulty: false,
            observed: None,
            stands_at: None,
            failed_at: None,
            unaccepted: Vec::new(),
            pins: Vec::new(),
        }
    }

    /// Takes every step, then checks what must hold at the end. Nothing holds whose facts nobody has accepted.
    pub(super) async fn walk(&mut self) -> Verdict {
        let verdict = self.verdict().await;
        if !verdict.held() || self.unaccepted.is_empty() {
            return verdict;
        }
        let message = snapshot::missing(&self.unaccepted);
        let mut failure = Box::new(Failure::new(FailureKind::Snapshot, message));
        failure.step = self.scenario.steps.len() + 1;
        failure.title = "hold the facts against their snapshots".to_owned();
        Verdict::Failed { failure }
    }

    async fn verdict(&mut self) -> Verdict {
        let outcome = match self.travel().await {
            Err(StepError::Failed(failure)) => Err(StepError::Failed(self.explain(failure).await)),
            other => other,
        };
        if self.observed.is_some() {
            return match outcome {
                Ok(()) => Verdict::Measured { failure: None },
                Err(StepError::Failed(failure)) => Verdict::Measured {
                    failure: Some(failure),
                },
                Err(StepError::SetUp(message)) => Verdict::SetUpFailed { message },
            };
        }
        let expected = self.scenario.failure.as_ref();
        match (outcome, expected) {
            (Ok(()), None) => Verdict::Held,
            (Err(StepError::SetUp(message)), _) => Verdict::SetUpFailed { message },
            (Err(StepError::Failed(failure)), Some(expected)) if failure.is(expected) => {
                Verdict::FailedAsExpected { failure }
            }
            (Err(StepError::Failed(mut failure)), Some(expected)) => {
                let expected = format!(
                    "a failure of kind {}{} that says {}",
                    expected.kind,
                    expected
                        .check
                        .iter()
                        .map(|check| format!(" ({check})"))
                        .collect::<String>(),
                    expected.contains.join(", ")
                );
                // The right failure with other findings says what it expected.
                if failure.check.as_deref() != Some("findings") {
                    failure.expected = Some(expected);
                }
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

    async fn travel(&mut self) -> Result<(), StepError> {
        let nodes: Vec<NodeId> = self.route().nodes().collect();
        let mut first = &nodes[..self.may_begin_within(&nodes)];
        while let Some(node) = self.travel_from(first).await? {
            self.start_over().await;
            let reached = first.iter().position(|one| *one == node);
            first = &first[..reached.map_or(0, |at| at + 1)];
        }
        Ok(())
    }

    /// Goes on from the deepest checkpoint of these states, and all the rest of the way. Gives a state before that
    /// checkpoint in which something does not hold by what is on record. That proves nothing: the state has to be looked at.
    async fn travel_from(&mut self, first: &[NodeId]) -> Result<Option<NodeId>, StepError> {
        let done = self.begin(first, EarlierFacts::Judged).await?;
        self.session.progress().note(&self.scenario.name, done);
        let plan = Arc::clone(&self.plan);
        let mut passed = 0;
        for leg in &plan.routes()[self.route].legs {
            let to_do: Vec<NodeId> = leg
                .nodes
                .iter()
                .enumerate()
                .filter(|(index, _)| passed + index >= done)
                .map(|(_, node)| *node)
                .collect();
            passed += leg.nodes.len();
            if to_do.is_empty() && !leg.looks {
                // It is in the checkpoint.
                continue;
            }
            let sight = match passed >= done {
                true if to_do.is_empty() && self.is_known_here(leg).await => Sight::Known,
                true => Sight::Live,
                false => Sight::Past,
            };
            match self.step(leg, &to_do, sight).await {
                Err(StepError::Failed(_)) if sight == Sight::Past => return Ok(Some(leg.at)),
                result => result?,
            }
            if let Some(node) = to_do.last() {
                self.checkpoint(*node).await?;
            }
            self.session
                .progress()
                .note(&self.scenario.name, passed.max(done));
        }
        Ok(None)
    }

    /// Whether all that a step looks at was said by this very machine at the checkpoint that it went on from. The end of
    /// a scenario is looked at all the same: every run asks its guests something.
    async fn is_known_here(&self, leg: &RouteLeg) -> bool {
        let more_comes = self.legs_after(leg.at).any(|leg| !leg.nodes.is_empty());
        let records = self.session.ground.records();
        match records.zip(self.stands_at.as_deref()) {
            Some((records, checkpoint)) if more_comes && self.goes_by_records() => {
                let recording = records.get(&self.key(leg.at)).at(checkpoint);
                self.is_recorded(leg, &recording).await
            }
            _ => false,
        }
    }

    /// Takes one step.
    pub(super) async fn step(
        &mut self,
        leg: &RouteLeg,
        moves: &[NodeId],
        sight: Sight,
    ) -> Result<(), StepError> {
        let scenario = self.scenario.name.clone();
        let title = self.title(leg.step).to_owned();
        let digest = self.digest(leg);
        let start = Instant::now();
        let waited_before = self.waited();
        self.session.events().emit(EventKind::StepStarted {
            scenario: scenario.clone(),
            step: leg.step,
            title: title.clone(),
            last: self.session.ground.timings().last(&digest),
        });
        let result = self.take(leg, moves, sight).await;
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(sight) => {
                self.session.ground.timings().note(digest, seconds);
                self.session.events().emit(EventKind::StepFinished {
                    scenario,
                    step: leg.step,
                    seconds,
                    guest_seconds: self.waited() - waited_before,
                    recorded: sight != Sight::Live,
                });
                Ok(())
            }
            Err(StepError::Failed(mut failure)) => {
                if let Some(error) = self.disk_is_full() {
                    return Err(error);
                }
                failure.step = leg.step;
                failure.title = title;
                if let Some(machine) = &self.machine {
                    failure.console = machine.console().tail();
                }
                failure.nas_console = self.keep_nas_console().await.unwrap_or_default();
                if !failure.name_panic() {
                    if matches!(failure.kind, FailureKind::Crash | FailureKind::Timeout) {
                        self.keep_processors().await;
                    }
                    self.name_reset(&mut failure).await;
                }
                Err(StepError::Failed(failure))
            }
            Err(other) => Err(other),
        }
    }

    async fn take(
        &mut self,
        leg: &RouteLeg,
        moves: &[NodeId],
        sight: Sight,
    ) -> Result<Sight, StepError> {
        let plan = Arc::clone(&self.plan);
        for (index, node) in moves.iter().enumerate() {
            let one = &plan.nodes()[*node].arrival;
            let start = Instant::now();
            if let Err(error) = self.make(one).await {
                if let StepError::Failed(failure) = &error {
                    self.failed_at = Some(self.key(*node).failed_with(&failure.message));
                }
                return Err(error);
            }
            let seconds = start.elapsed().as_secs_f64();
            self.spent += seconds;
            self.session.ground.timings().note(one.digest(), seconds);
            // The last move's checkpoint is taken when the step is over.
            if index + 1 < moves.len() || leg.looks {
                self.checkpoint(*node).await?;
            }
        }
        if !leg.looks {
            return Ok(sight);
        }
        let key = self.key(leg.at);
        if sight != Sight::Live {
            // What was read in another state counts no more.
            self.facts.clear();
            let records = self.session.ground.records();
            let recording = records.map(|records| records.get(&key)).unwrap_or_default();
            let looked = self.look(leg, Source::Recorded(&recording)).await;
            self.facts.clear();
            // A record can confirm and not refute: an answer may have been of a moment only. Who can be asked is asked.
            if let (Err(StepError::Failed(failure)), Some(records)) = (&looked, records) {
                records.forget(&key);
                self.session.events().emit(EventKind::RecordDoubted {
                    scenario: self.scenario.name.clone(),
                    step: leg.step,
                    reason: failure.message.clone(),
                });
            }
            if looked.is_ok() || sight == Sight::Past {
                return looked.map(|()| sight);
            }
        }
        let looked = self.look(leg, Source::Live(&key)).await;
        self.failed_at = looked.is_err().then_some(key);
        looked.map(|()| Sight::Live)
    }

    pub(super) fn route(&self) -> &Route {
        &self.plan.routes()[self.route]
    }

    /// What is still to come of the way when a state has been reached.
    pub(super) fn legs_after(&self, node: NodeId) -> impl Iterator<Item = &RouteLeg> {
        let legs = self.route().legs.iter();
        legs.skip_while(move |leg| !leg.nodes.contains(&node))
            .skip(1)
    }

    pub(super) fn route_number(&self) -> usize {
        self.route
    }

    pub(super) fn key(&self, node: NodeId) -> Key {
        self.plan.nodes()[node].key
    }

    /// What a step does; none for the closing expectations.
    pub(super) fn action(&self, step: usize) -> Option<&'a Action> {
        let scenario: &'a Scenario = self.scenario;
        scenario.steps.get(step - 1).map(|step| &step.action)
    }

    /// How many steps the first moves of the way complete.
    pub(super) fn steps_done(&self, moves: usize) -> usize {
        let mut passed = 0;
        let legs = self.route().legs.iter();
        legs.filter(|leg| {
            passed += leg.nodes.len();
            passed <= moves && !leg.looks
        })
        .count()
    }

    fn title(&self, step: usize) -> &'a str {
        let scenario: &'a Scenario = self.scenario;
        scenario
            .steps
            .get(step - 1)
            .map_or("what must hold at the end", |step| step.title.as_str())
    }

    /// What the leg's time is remembered by.
    pub(super) fn digest(&self, leg: &RouteLeg) -> String {
        match self.action(leg.step) {
            Some(action) => action.digest(),
            None => format!("closing-{}", self.scenario.name),
        }
    }

    /// What a full disk of L0 makes of a failure. Most devices stop the machine then; NVMe drives hand their guest an error.
    fn disk_is_full(&self) -> Option<StepError> {
        let folder = self.folder.path();
        let free = host::free_space(folder).ok()?;
        (free < FULL).then(|| {
            StepError::SetUp(format!(
                "no space is left on the disk of {}: free some, or give another folder with --cache or LAB_CACHE",
                folder.display()
            ))
        })
    }

    fn waited(&self) -> f64 {
        self.machine
            .as_ref()
            .map_or(0.0, |machine| machine.waited().as_secs_f64())
    }

    pub(super) fn running(&self) -> Result<&Machine, StepError> {
        // Every way begins with the machine being switched on.
        self.machine
            .as_ref()
            .ok_or_else(|| StepError::SetUp("the machine is off".to_owned()))
    }

    pub(super) fn disks(&self) -> Result<&Disks, StepError> {
        self.disks.as_ref().ok_or_else(no_disks)
    }

    pub(super) fn disks_mut(&mut self) -> Result<&mut Disks, StepError> {
        self.disks.as_mut().ok_or_else(no_disks)
    }

    pub(super) fn fresh_disks(&self, lab: &Lab) -> Result<Disks, StepError> {
        let images = self.session.ground.disk_images(lab);
        let images = [images[0].path.as_path(), images[1].path.as_path()];
        Disks::create(&self.folder.disks(), lab, images, self.session.blanks())
            .map_err(|error| StepError::SetUp(chain(&error)))
    }

    pub(super) fn phase(&self, phase: &str, start: Instant) {
        self.session.events().emit(EventKind::Phase {
            scenario: self.scenario.name.clone(),
            phase: phase.to_owned(),
            seconds: start.elapsed().as_secs_f64(),
        });
    }

    /// Ends the machine and forgets what has happened, so that the way can begin anew.
    pub(super) async fn start_over(&mut self) {
        if let Some(machine) = self.machine.take() {
            machine.kill().await;
        }
        self.nas = None;
        self.disks = None;
        self.stored.clear();
        self.saved.clear();
        self.measured.clear();
        self.lab = self.scenario.lab.clone();
        self.judged = self.scenario.lab.clone();
        self.facts.clear();
        self.memory = Memory::default();
        (self.spent, self.frozen_at) = (0.0, 0.0);
        self.faulty = false;
        self.stands_at = None;
        self.failed_at = None;
        self.unaccepted.clear();
    }

    /// Secures what is only inside the machine, then ends it.
    pub(super) async fn end(mut self) {
        // Evidence only; the verdict stands. Who stops a run wants its end: the guests may stand still at that moment.
        if self.nas.is_some() && !self.session.stopped() {
            let _ = self.keep_nas_console().await;
        }
        if let Some(machine) = self.machine.take() {
            machine.kill().await;
        }
    }
}

fn no_disks() -> StepError {
    StepError::SetUp("the machine has no disks yet".to_owned())
}
