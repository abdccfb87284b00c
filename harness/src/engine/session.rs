//! One run: its folder, its event stream, the verdicts of its scenarios.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use images::{ImageName, Observer, Toolbox};
use tokio::sync::watch;

use super::failure::chain;
use super::ground::{Ground, Options, SessionError, lock, unmet};
use super::observe::Observed;
use super::run::Runner;
use super::schedule::Progress;
use crate::event::{EventKind, Events, Listener, Verdict};
use crate::evidence::{EventLog, EvidenceError, RunFolder, ScenarioFolder};
use crate::lab::Lab;
use crate::machine::Blanks;
use crate::plan::Plan;
use crate::scenario::Scenario;

/// Counts of a finished run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Scenarios that held.
    pub held: usize,
    /// Scenarios of which nothing was expected.
    pub measured: usize,
    /// Scenarios that failed.
    pub failed: usize,
    /// Scenarios whose lab could not be set up.
    pub set_up_failed: usize,
    /// Scenarios that were stopped.
    pub interrupted: usize,
    /// Scenarios that this machine cannot run.
    pub skipped: usize,
}

impl Summary {
    /// All of which something was said.
    pub fn scenarios(&self) -> usize {
        let ran = self.held + self.measured + self.failed + self.set_up_failed;
        ran + self.interrupted + self.skipped
    }
}

/// A run.
pub struct Session {
    pub(super) ground: Ground,
    folder: RunFolder,
    blanks: Blanks,
    plan: Mutex<Arc<Plan>>,
    progress: Progress,
    events: Events,
    stop: watch::Receiver<bool>,
    start: Instant,
    counts: [AtomicUsize; 6],
}

impl Session {
    /// Prepares the ground and opens the run's folder.
    ///
    /// # Errors
    /// When any of that cannot be had; see [`SessionError`].
    pub async fn open(
        options: Options,
        observer: Arc<dyn Observer>,
        listeners: Vec<Arc<dyn Listener>>,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, SessionError> {
        let start = Instant::now();
        let ground = Ground::prepare(options, observer, stop.clone()).await?;
        Ok(Session {
            start,
            ..Session::on(ground, listeners, stop)?
        })
    }

    /// Opens the folder of a run on ground that is prepared.
    ///
    /// # Errors
    /// When there can be no such folder.
    pub fn on(
        ground: Ground,
        listeners: Vec<Arc<dyn Listener>>,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, SessionError> {
        let folder = RunFolder::create(ground.cache())?;
        let events = Events::new(listeners);
        events.add(EventLog::create(folder.path())?);
        let images = ground.images();
        let digests = [
            (ImageName::Toolbox, images.toolbox.digest()),
            (ImageName::ProxmoxLike, images.proxmox.digest.as_str()),
            (ImageName::TruenasLike, images.truenas.digest.as_str()),
        ];
        events.emit(EventKind::RunStarted {
            time: jiff::Timestamp::now(),
            accelerator: ground.choice().accelerator.to_string(),
            reason: ground.choice().reason.clone(),
            cpu: ground.cpu().to_owned(),
            qemu: ground.qemu_version().to_owned(),
            images: digests
                .map(|(name, digest)| (name.to_string(), digest.to_owned()))
                .to_vec(),
            folder: folder.path().to_owned(),
        });
        let toolbox = images.toolbox.clone();
        let blanks = Blanks::new(folder.path(), move || toolbox.command("qemu-img"));
        Ok(Session {
            ground,
            folder,
            blanks,
            plan: Mutex::default(),
            progress: Progress::default(),
            events,
            stop,
            start: Instant::now(),
            counts: Default::default(),
        })
    }

    /// Says which scenarios this run is about, so that each of them leaves checkpoints where others go on.
    /// Builds the host images that only some of them need.
    ///
    /// # Errors
    /// When such an image cannot be had.
    pub async fn plan<'a>(
        &self,
        scenarios: impl IntoIterator<Item = &'a Scenario>,
    ) -> Result<Arc<Plan>, SessionError> {
        let scenarios: Vec<&Scenario> = scenarios.into_iter().collect();
        let plan = Arc::new(self.ground.plan(&scenarios).await?);
        *lock(&self.plan) = Arc::clone(&plan);
        Ok(plan)
    }

    /// The scenarios of one of so many parts, the first being 1. No image is needed for that: each machine that runs a part
    /// builds those of its own.
    pub fn part<'a>(
        &self,
        scenarios: &[&'a Scenario],
        part: usize,
        parts: usize,
    ) -> Vec<&'a Scenario> {
        let setting = |lab: &Lab| self.ground.setting(lab);
        let plan = Plan::new(scenarios.iter().copied(), setting);
        let chosen = plan.part(part, parts).into_iter();
        chosen.map(|number| scenarios[number]).collect()
    }

    /// A scenario's way in the plan, or in one of its own if it is not in the run's.
    pub(super) async fn planned(
        &self,
        scenario: &Scenario,
    ) -> Result<(Arc<Plan>, usize), SessionError> {
        let plan = Arc::clone(&lock(&self.plan));
        match plan.number(&scenario.name) {
            Some(number) => Ok((plan, number)),
            None => Ok((Arc::new(self.ground.plan(&[scenario]).await?), 0)),
        }
    }

    /// Runs one scenario to its verdict.
    pub async fn run(&self, scenario: &Scenario) -> Verdict {
        self.drive(scenario, &mut None).await
    }

    /// Runs one scenario to its verdict. Whoever wants to know what it showed hands over where to note it;
    /// then nothing is judged.
    pub(super) async fn drive(
        &self,
        scenario: &Scenario,
        observed: &mut Option<Observed>,
    ) -> Verdict {
        let start = Instant::now();
        let verdict = self.verdict(scenario, observed).await;
        let counter = match &verdict {
            verdict if verdict.held() => 0,
            Verdict::SetUpFailed { .. } => 2,
            Verdict::Interrupted => 3,
            Verdict::Skipped { .. } => 4,
            Verdict::Measured { .. } => 5,
            _ => 1,
        };
        self.counts[counter].fetch_add(1, Ordering::Relaxed);
        self.ground.timings().save();
        self.events.emit(EventKind::ScenarioFinished {
            scenario: scenario.name.clone(),
            verdict: verdict.clone(),
            seconds: start.elapsed().as_secs_f64(),
            folder: self.folder.path().join(&scenario.name),
        });
        verdict
    }

    async fn verdict(&self, scenario: &Scenario, observed: &mut Option<Observed>) -> Verdict {
        if let Some(reason) = unmet(&scenario.lab, self.folder.path()) {
            return Verdict::Skipped { reason };
        }
        let folder = match self.folder.scenario(&scenario.name) {
            Ok(folder) => folder,
            Err(error) => {
                return Verdict::SetUpFailed {
                    message: chain(&error),
                };
            }
        };
        self.events.emit(EventKind::ScenarioStarted {
            scenario: scenario.name.clone(),
            steps: scenario.steps.len() + usize::from(scenario.checks_at_the_end()),
            folder: folder.path().to_owned(),
        });
        let (plan, route) = match self.planned(scenario).await {
            Ok(planned) => planned,
            Err(SessionError::Interrupted) => return Verdict::Interrupted,
            Err(error) => {
                return Verdict::SetUpFailed {
                    message: chain(&error),
                };
            }
        };
        let mut runner = Runner::new(self, scenario, &folder, plan, route);
        runner.observed = observed.take();
        let verdict = tokio::select! {
            biased;
            () = self.stop_requested() => Verdict::Interrupted,
            verdict = runner.walk() => verdict,
        };
        *observed = runner.observed.take();
        runner.end().await;
        verdict
    }

    /// Says that the run is over, and how it went.
    pub fn finish(&self) -> Summary {
        let [held, failed, set_up_failed, interrupted, skipped, measured] =
            [0, 1, 2, 3, 4, 5].map(|at: usize| self.counts[at].load(Ordering::Relaxed));
        self.events.emit(EventKind::RunFinished {
            held,
            measured,
            failed: failed + set_up_failed,
            skipped,
            seconds: self.start.elapsed().as_secs_f64(),
        });
        Summary {
            held,
            measured,
            failed,
            set_up_failed,
            interrupted,
            skipped,
        }
    }

    /// Removes all checkpoints and records, for measuring what they save.
    pub fn forget_checkpoints(&self) {
        if let (Some(store), Some(records)) = (self.ground.store(), self.ground.records()) {
            store.clear();
            records.clear();
        }
    }

    /// Whether somebody asked the run to stop.
    pub fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits until somebody asks the run to stop.
    pub(super) async fn stop_requested(&self) {
        let mut stop = self.stop.clone();
        if stop.wait_for(|stop| *stop).await.is_err() {
            // A sender that is gone can no longer stop anything.
            std::future::pending().await
        }
    }

    pub(super) fn scenario_folder(&self, name: &str) -> Result<ScenarioFolder, EvidenceError> {
        self.folder.scenario(name)
    }

    /// What the run stands on.
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// The toolbox.
    pub fn toolbox(&self) -> &Toolbox {
        &self.ground.images().toolbox
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    pub(super) fn blanks(&self) -> &Blanks {
        &self.blanks
    }
}
