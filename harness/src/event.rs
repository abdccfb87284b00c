//! What happens during a run, as one stream of values. Everything a person sees is a fold over it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::engine::Failure;

/// One thing that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Seconds since the run began.
    pub at: f64,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// A run begins: all that is true of every scenario in it.
    RunStarted {
        /// When, in UTC.
        time: jiff::Timestamp,
        /// KVM or TCG.
        accelerator: String,
        /// Why that one.
        reason: String,
        /// CPU model of L1.
        cpu: String,
        /// QEMU's version.
        qemu: String,
        /// Digests of the images, by name.
        images: Vec<(String, String)>,
        /// The run's folder.
        folder: PathBuf,
    },
    /// A scenario begins.
    ScenarioStarted {
        /// Its name.
        scenario: String,
        /// How many steps it has, what must hold at the end being one.
        steps: usize,
        /// Its folder with evidence.
        folder: PathBuf,
    },
    /// A scenario goes on from a checkpoint in place of taking its first steps again.
    Restored {
        /// The scenario.
        scenario: String,
        /// The checkpoint's folder.
        checkpoint: String,
        /// When it was taken.
        taken: jiff::Timestamp,
        /// How many steps it holds.
        steps: usize,
        /// What they took when they were taken, in seconds.
        worth: f64,
        /// How long the restoring took, in seconds, until the guests answered.
        seconds: f64,
    },
    /// A checkpoint was taken.
    CheckpointTaken {
        /// The scenario under way.
        scenario: String,
        /// The checkpoint's folder.
        checkpoint: String,
        /// How long the machine stood still for it, and how long the rest took, in seconds.
        seconds: f64,
        /// Its size in bytes.
        bytes: u64,
    },
    /// A checkpoint was wished for and not taken; the scenario goes on without.
    NoCheckpoint {
        /// The scenario under way.
        scenario: String,
        /// Why not.
        reason: String,
    },
    /// A checkpoint was found and could not be used; what it held is done again.
    CheckpointUnusable {
        /// The scenario under way.
        scenario: String,
        /// The checkpoint's folder.
        checkpoint: String,
        /// Why not.
        reason: String,
    },
    /// Something does not hold by what is on record of a state, which is looked at again.
    RecordDoubted {
        /// The scenario under way.
        scenario: String,
        /// The step, from 1.
        step: usize,
        /// What does not hold.
        reason: String,
    },
    /// A step begins.
    StepStarted {
        /// The scenario.
        scenario: String,
        /// Its number, from 1.
        step: usize,
        /// What a person calls it.
        title: String,
        /// How long it took the last time, in seconds.
        last: Option<f64>,
    },
    /// A part of a step that takes a while of its own, such as a boot.
    Phase {
        /// The scenario.
        scenario: String,
        /// What has been reached.
        phase: String,
        /// Seconds since the part began.
        seconds: f64,
    },
    /// A step is over.
    StepFinished {
        /// The scenario.
        scenario: String,
        /// Its number, from 1.
        step: usize,
        /// How long it took, in seconds.
        seconds: f64,
        /// How much of that was spent waiting for a guest, in seconds.
        guest_seconds: f64,
        /// Whether its facts are those that were read when the checkpoint was made.
        recorded: bool,
    },
    /// A check held.
    CheckHeld {
        /// The scenario.
        scenario: String,
        /// Its name, such as `nas.disks`.
        check: String,
        /// What was seen.
        seen: String,
    },
    /// A disk's speeds were measured.
    Measured {
        /// The scenario.
        scenario: String,
        /// What came of it.
        #[serde(flatten)]
        measurement: Measurement,
        /// Whether it was measured before the checkpoint that the scenario went on from.
        recorded: bool,
    },
    /// A scenario is over.
    ScenarioFinished {
        /// Its name.
        scenario: String,
        /// How it ended.
        verdict: Verdict,
        /// How long it took, in seconds.
        seconds: f64,
        /// Its folder with evidence.
        folder: PathBuf,
    },
    /// The run is over.
    RunFinished {
        /// Scenarios that held.
        held: usize,
        /// Scenarios of which nothing was expected.
        measured: usize,
        /// Scenarios that did not.
        failed: usize,
        /// Scenarios that this machine cannot run.
        skipped: usize,
        /// How long it took, in seconds.
        seconds: f64,
    },
}

impl EventKind {
    /// The scenario that it is about; none where it is about the run.
    pub fn scenario(&self) -> Option<&str> {
        match self {
            EventKind::RunStarted { .. } | EventKind::RunFinished { .. } => None,
            EventKind::ScenarioStarted { scenario, .. }
            | EventKind::Restored { scenario, .. }
            | EventKind::CheckpointTaken { scenario, .. }
            | EventKind::NoCheckpoint { scenario, .. }
            | EventKind::CheckpointUnusable { scenario, .. }
            | EventKind::RecordDoubted { scenario, .. }
            | EventKind::StepStarted { scenario, .. }
            | EventKind::Phase { scenario, .. }
            | EventKind::StepFinished { scenario, .. }
            | EventKind::CheckHeld { scenario, .. }
            | EventKind::Measured { scenario, .. }
            | EventKind::ScenarioFinished { scenario, .. } => Some(scenario),
        }
    }
}

/// How fast a disk was in the NAS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measurement {
    /// When it was measured, in UTC.
    pub time: jiff::Timestamp,
    /// The disk in the NAS.
    pub disk: String,
    /// Whether the machine was emulated, so that the numbers say nothing of a real one.
    pub emulated: bool,
    /// MiB a second in sequence, operations of 4 KiB a second at random.
    pub speeds: BTreeMap<String, f64>,
    /// What an earlier measurement is called that this is held against.
    pub against: Option<String>,
    /// That one's speeds as multiples of these.
    pub ratios: Option<BTreeMap<String, f64>>,
}

/// How a scenario ended.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// All that must hold holds.
    Held,
    /// It failed in the way that it is about.
    FailedAsExpected {
        /// That failure.
        failure: Box<Failure>,
    },
    /// It failed.
    Failed {
        /// In which way.
        failure: Box<Failure>,
    },
    /// Nothing was expected of it: it was seen to work, or to fail.
    Measured {
        /// In which way it failed, if it did.
        failure: Option<Box<Failure>>,
    },
    /// The lab could not be set up; this says nothing about the procedure.
    SetUpFailed {
        /// Why.
        message: String,
    },
    /// Somebody stopped it.
    Interrupted,
    /// This machine cannot run it.
    Skipped {
        /// What is missing.
        reason: String,
    },
}

impl Verdict {
    /// Whether the scenario counts as held.
    pub fn held(&self) -> bool {
        matches!(self, Verdict::Held | Verdict::FailedAsExpected { .. })
    }
}

/// Who is told of events.
pub trait Listener: Send + Sync {
    /// Takes one event; must not block for long.
    fn hear(&self, event: &Event);
}

/// The stream: hands each event to every listener, in order.
#[derive(Clone)]
pub struct Events {
    start: Instant,
    listeners: Arc<Mutex<Vec<Arc<dyn Listener>>>>,
}

impl Events {
    /// A stream that begins now.
    pub fn new(listeners: Vec<Arc<dyn Listener>>) -> Self {
        Events {
            start: Instant::now(),
            listeners: Arc::new(Mutex::new(listeners)),
        }
    }

    /// Adds a listener for what comes from now on.
    pub fn add(&self, listener: Arc<dyn Listener>) {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(listener);
    }

    /// Something happened.
    pub fn emit(&self, kind: EventKind) {
        let event = Event {
            at: self.start.elapsed().as_secs_f64(),
            kind,
        };
        for listener in self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            listener.hear(&event);
        }
    }
}
