//! Bringing a scenario's lab up to one of its steps and keeping it there, for a person who wants to look
//! around. Nothing is judged: what only looks is passed over.

use std::path::Path;
use std::sync::Arc;

use super::failure::{StepError, chain};
use super::freeze::EarlierFacts;
use super::ground::{SessionError, unmet};
use super::nas;
use super::run::{Runner, Sight};
use super::session::Session;
use crate::event::{EventKind, Verdict};
use crate::machine::Machine;
use crate::plan::{NodeId, RouteLeg};
use crate::scenario::{Scenario, Vmid};

/// The guest that a host's inner doors lead to.
pub const NAS: Vmid = nas::NAS;

/// A lab that stands still at a step, for as long as somebody uses it.
pub struct Held<'a> {
    /// The machine. It runs.
    pub machine: &'a Machine,
    /// The step after which it stands, from 1; 0 when it was only switched on.
    pub step: usize,
    /// What went wrong in the step after that, if that is why it stands here.
    pub stopped_by: Option<&'a Verdict>,
    /// A private folder with a short path, gone when the lab goes.
    pub sockets: &'a Path,
    /// The lab's evidence.
    pub folder: &'a Path,
}

/// Why a lab did not come up far enough for anybody to use it.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// A step failed and left no machine.
    #[error("the machine did not live through its steps")]
    Failed(Verdict),
    /// The lab could not be set up.
    #[error("{0}")]
    SetUp(String),
    /// Somebody stopped it.
    #[error("interrupted")]
    Interrupted,
}

impl From<SessionError> for HoldError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Interrupted => HoldError::Interrupted,
            other => HoldError::SetUp(chain(&other)),
        }
    }
}

impl Session {
    /// Brings up the lab of a scenario, from the deepest checkpoint on, until `step` is done (0: until it
    /// is switched on), and takes a checkpoint of that. Then `stay` has it; it ends when `stay` does, or
    /// when the run is stopped.
    ///
    /// # Errors
    /// [`HoldError`].
    pub async fn hold<T>(
        &self,
        scenario: &Scenario,
        step: usize,
        stay: impl AsyncFnOnce(Held<'_>) -> T,
    ) -> Result<T, HoldError> {
        if let Some(reason) = unmet(&scenario.lab, self.folder()) {
            return Err(HoldError::SetUp(reason));
        }
        let folder = self
            .scenario_folder(&scenario.name)
            .map_err(|error| HoldError::SetUp(chain(&error)))?;
        self.events().emit(EventKind::ScenarioStarted {
            scenario: scenario.name.clone(),
            steps: step,
            folder: folder.path().to_owned(),
        });
        let (plan, route) = self.planned(scenario).await?;
        let mut runner = Runner::new(self, scenario, &folder, plan, route);
        let outcome = tokio::select! {
            biased;
            () = self.stop_requested() => Err(HoldError::Interrupted),
            outcome = stand(&mut runner, step, stay) => outcome,
        };
        runner.end().await;
        self.ground.timings().save();
        outcome
    }
}

async fn stand<T>(
    runner: &mut Runner<'_>,
    step: usize,
    stay: impl AsyncFnOnce(Held<'_>) -> T,
) -> Result<T, HoldError> {
    let (at, verdict) = match runner.climb(step).await {
        Ok(()) => (step, None),
        Err(StepError::SetUp(message)) => return Err(HoldError::SetUp(message)),
        Err(StepError::Failed(failure)) => {
            let failure = runner.explain(failure).await;
            let at = failure.step.saturating_sub(1);
            (at, Some(Verdict::Failed { failure }))
        }
    };
    let machine = runner.machine.as_ref().filter(|machine| machine.is_alive());
    let Some(machine) = machine else {
        let off = || HoldError::SetUp("the machine is off".to_owned());
        return Err(verdict.map_or_else(off, HoldError::Failed));
    };
    machine.let_go();
    let held = Held {
        machine,
        step: at,
        stopped_by: verdict.as_ref(),
        sockets: runner.folder.sockets(),
        folder: runner.folder.path(),
    };
    Ok(stay(held).await)
}

impl Runner<'_> {
    /// Takes the steps up to one, without looking, and a checkpoint of where that is.
    async fn climb(&mut self, step: usize) -> Result<(), StepError> {
        let plan = Arc::clone(&self.plan);
        let legs = &self.route().legs;
        let wanted = legs.iter().filter(|leg| leg.step <= step);
        let wanted: Vec<NodeId> = wanted.flat_map(|leg| leg.nodes.iter().copied()).collect();
        // Every way begins with the machine being switched on, whatever its first step is.
        let nodes = match wanted.is_empty() {
            true => self.route().nodes().take(1).collect(),
            false => wanted,
        };
        let done = self.begin(&nodes, EarlierFacts::Unneeded).await?;
        let mut passed = 0;
        for leg in &plan.routes()[self.route_number()].legs {
            let to_do: Vec<NodeId> = leg
                .nodes
                .iter()
                .enumerate()
                .filter(|(index, _)| (done..nodes.len()).contains(&(passed + index)))
                .map(|(_, node)| *node)
                .collect();
            passed += leg.nodes.len();
            let Some(last) = to_do.last() else { continue };
            let unseen = RouteLeg {
                looks: false,
                ..leg.clone()
            };
            self.step(&unseen, &to_do, Sight::Live).await?;
            if Some(last) != nodes.last() {
                self.checkpoint(*last).await?;
            }
        }
        if let Some(last) = nodes.last() {
            self.checkpoint_now(*last).await?;
        }
        Ok(())
    }
}
