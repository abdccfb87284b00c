//! What all scenarios of one run share: images, accelerator, folder, event stream, the wish to stop.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use images::{Cache, Cancel, DiskImage, HostImage, ImageName, ImageSet, Observer, Toolbox};
use tokio::sync::watch;

use super::failure::chain;
use super::nas;
use super::run::Runner;
use super::timings::Timings;
use crate::accel::{self, Accelerator, Choice, Deadlines, QemuProgram, Requested};
use crate::checkpoint::{Records, Store, StoreError};
use crate::event::{EventKind, Events, Listener, Verdict};
use crate::evidence::{EventLog, EvidenceError, RunFolder, ScenarioFolder};
use crate::host;
use crate::lab::Lab;
use crate::machine::Blanks;
use crate::plan::{FORMAT, Plan, Setting, first_lab};
use crate::scenario::Scenario;

/// What a run is asked to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of images and evidence; `None` for the user's cache.
    pub cache: Option<PathBuf>,
    /// Which accelerator.
    pub accelerator: Requested,
    /// A QEMU other than the toolbox's.
    pub qemu: Option<PathBuf>,
    /// A CPU model for L1 other than the accelerator's own.
    pub cpu: Option<String>,
    /// Folder of the scenarios; their snapshots are beside them.
    pub scenarios: PathBuf,
    /// Whether checkpoints are used and taken.
    pub checkpoints: Checkpoints,
}

/// What a run does about checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoints {
    /// It begins from them and takes new ones, up to so many bytes on disk.
    Within(u64),
    /// Every scenario begins with its first step, and nothing is kept.
    None,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Checkpoints::Within(CHECKPOINT_BUDGET)
    }
}

/// What all checkpoints may take on disk unless somebody says otherwise, in bytes.
pub const CHECKPOINT_BUDGET: u64 = 20 << 30;

impl Options {
    /// What the environment asks for (`LAB_CACHE`, `LAB_ACCEL`, `LAB_QEMU`, `LAB_CPU`), for a front
    /// end without a command line of its own.
    ///
    /// # Errors
    /// When `LAB_ACCEL` is not the name of an accelerator.
    pub fn from_environment(scenarios: &Path) -> Result<Self, accel::AccelError> {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        Ok(Options {
            cache: path("LAB_CACHE"),
            accelerator: match std::env::var("LAB_ACCEL") {
                Ok(name) => name.parse()?,
                Err(_) => Requested::default(),
            },
            qemu: path("LAB_QEMU"),
            cpu: std::env::var("LAB_CPU").ok(),
            scenarios: scenarios.to_owned(),
            checkpoints: match std::env::var_os("LAB_NO_CACHE") {
                Some(value) if !value.is_empty() && value != "0" => Checkpoints::None,
                _ => Checkpoints::default(),
            },
        })
    }
}

/// A run that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Images could not be had.
    #[error(transparent)]
    Images(#[from] images::Error),
    /// No accelerator.
    #[error(transparent)]
    Accelerator(#[from] accel::AccelError),
    /// No folder for the run.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// No folder for checkpoints.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody stopped it before it began.
    #[error("interrupted")]
    Interrupted,
}

/// Counts of a finished run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Scenarios that held.
    pub held: usize,
    /// Scenarios that failed.
    pub failed: usize,
    /// Scenarios whose lab could not be set up.
    pub set_up_failed: usize,
    /// Scenarios that were stopped.
    pub interrupted: usize,
    /// Scenarios that this machine cannot run.
    pub skipped: usize,
}

/// Memory that one lab needs beside L1's own, in MiB: QEMU's translated code, its tables and buffers.
const QEMU_OVERHEAD_MIB: u64 = 1536;
/// Disk space that one lab needs while it runs, in bytes.
const LAB_DISK: u64 = 3 << 30;

/// A run.
pub struct Session {
    images: ImageSet,
    observer: Arc<dyn Observer>,
    choice: Choice,
    cpu: String,
    qemu: QemuProgram,
    scenarios: PathBuf,
    folder: RunFolder,
    blanks: Blanks,
    store: Option<(Store, Records)>,
    plan: Mutex<Arc<Plan>>,
    hosts: Mutex<HashMap<HostImage, DiskImage>>,
    events: Events,
    timings: Timings,
    stop: watch::Receiver<bool>,
    start: Instant,
    counts: [AtomicUsize; 5],
}

impl Session {
    /// Builds what images are missing, chooses the accelerator, and opens the run's folder.
    ///
    /// # Errors
    /// When any of that cannot be had; see [`SessionError`].
    pub async fn open(
        options: Options,
        observer: Arc<dyn Observer>,
        listeners: Vec<Arc<dyn Listener>>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Self, SessionError> {
        let start = Instant::now();
        let cache = Cache::open(options.cache.clone())?;
        let images = {
            let cache = cache.clone();
            let ensure = move |observer: &dyn Observer, cancel: &Cancel| {
                images::ensure_all(&cache, observer, cancel)
            };
            build(&observer, &mut stop, ensure).await?
        };
        let qemu = match &options.qemu {
            Some(path) => QemuProgram::installed(path).map_err(accel::AccelError::from)?,
            None => toolbox_qemu(&images.toolbox),
        };
        let choice = accel::probe(&qemu, options.accelerator, cache.root()).await?;
        let cpu = options
            .cpu
            .clone()
            .unwrap_or_else(|| choice.cpu_model().to_owned());
        let folder = RunFolder::create(cache.root())?;
        let events = Events::new(listeners);
        events.add(EventLog::create(folder.path())?);
        events.emit(EventKind::RunStarted {
            time: jiff::Timestamp::now(),
            accelerator: choice.accelerator.to_string(),
            reason: choice.reason.clone(),
            cpu: cpu.clone(),
            qemu: qemu.version().to_owned(),
            images: vec![
                (
                    ImageName::Toolbox.to_string(),
                    images.toolbox.digest().to_owned(),
                ),
                (
                    ImageName::ProxmoxLike.to_string(),
                    images.proxmox.digest.clone(),
                ),
                (
                    ImageName::TruenasLike.to_string(),
                    images.truenas.digest.clone(),
                ),
            ],
            folder: folder.path().to_owned(),
        });
        let timings = Timings::open(cache.root(), &choice.accelerator.to_string());
        let store = match options.checkpoints {
            Checkpoints::Within(budget) => {
                let store = Store::open(cache.root(), budget)?;
                Some((store, Records::open(cache.root())))
            }
            Checkpoints::None => None,
        };
        let toolbox = images.toolbox.clone();
        let blanks = Blanks::new(folder.path(), move || toolbox.command("qemu-img"));
        Ok(Session {
            images,
            observer,
            choice,
            cpu,
            qemu,
            scenarios: options.scenarios,
            folder,
            blanks,
            store,
            plan: Mutex::default(),
            hosts: Mutex::default(),
            events,
            timings,
            stop,
            start,
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
        let plan = Arc::new(self.plan_of(&scenarios).await?);
        *lock(&self.plan) = Arc::clone(&plan);
        Ok(plan)
    }

    async fn plan_of(&self, scenarios: &[&Scenario]) -> Result<Plan, SessionError> {
        let mut stop = self.stop.clone();
        for scenario in scenarios {
            self.host_image(first_lab(scenario), &mut stop).await?;
        }
        Ok(Plan::new(scenarios.iter().copied(), |lab| {
            self.setting(lab)
        }))
    }

    /// A scenario's way in the plan, or in one of its own if it is not in the run's.
    pub(super) async fn planned(
        &self,
        scenario: &Scenario,
    ) -> Result<(Arc<Plan>, usize), SessionError> {
        let plan = Arc::clone(&lock(&self.plan));
        match plan.number(&scenario.name) {
            Some(number) => Ok((plan, number)),
            None => Ok((Arc::new(self.plan_of(&[scenario]).await?), 0)),
        }
    }

    /// What a state of this lab depends on beside its steps.
    fn setting(&self, lab: &Lab) -> Setting {
        let [host, nas] = self.disk_images(lab);
        Setting {
            host_image: host.digest,
            nas_image: nas.digest,
            qemu: self.qemu.digest().to_owned(),
            accelerator: self.choice.accelerator,
            cpu: self.cpu.clone(),
            processor: match self.choice.accelerator {
                Accelerator::Kvm => Some(host::processor()),
                Accelerator::Tcg => None,
            },
            vm_config: nas::CONFIG.to_owned(),
            format: FORMAT,
        }
    }

    /// Runs one scenario to its verdict.
    pub async fn run(&self, scenario: &Scenario) -> Verdict {
        let start = Instant::now();
        let verdict = self.verdict(scenario).await;
        let counter = match &verdict {
            verdict if verdict.held() => 0,
            Verdict::SetUpFailed { .. } => 2,
            Verdict::Interrupted => 3,
            Verdict::Skipped { .. } => 4,
            _ => 1,
        };
        self.counts[counter].fetch_add(1, Ordering::Relaxed);
        self.timings.save();
        self.events.emit(EventKind::ScenarioFinished {
            scenario: scenario.name.clone(),
            verdict: verdict.clone(),
            seconds: start.elapsed().as_secs_f64(),
            folder: self.folder.path().join(&scenario.name),
        });
        verdict
    }

    async fn verdict(&self, scenario: &Scenario) -> Verdict {
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
        let verdict = tokio::select! {
            biased;
            () = self.stop_requested() => Verdict::Interrupted,
            verdict = runner.walk() => verdict,
        };
        runner.end().await;
        verdict
    }

    /// Says that the run is over, and how it went.
    pub fn finish(&self) -> Summary {
        let [held, failed, set_up_failed, interrupted, skipped] =
            [0, 1, 2, 3, 4].map(|at: usize| self.counts[at].load(Ordering::Relaxed));
        self.events.emit(EventKind::RunFinished {
            held,
            failed: failed + set_up_failed,
            skipped,
            seconds: self.start.elapsed().as_secs_f64(),
        });
        Summary {
            held,
            failed,
            set_up_failed,
            interrupted,
            skipped,
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

    /// The toolbox.
    pub fn toolbox(&self) -> &Toolbox {
        &self.images.toolbox
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The accelerator and why it was chosen.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Makes sure that the disk of a lab's host is there; one that few labs need is built now.
    async fn host_image(
        &self,
        lab: &Lab,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), SessionError> {
        let (images, host) = (self.images.clone(), lab.host.image());
        if lock(&self.hosts).contains_key(&host) {
            return Ok(());
        }
        let build_host =
            move |observer: &dyn Observer, cancel: &Cancel| images.host(host, observer, cancel);
        let image = build(&self.observer, stop, build_host).await?;
        lock(&self.hosts).insert(host, image);
        Ok(())
    }

    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    pub(super) fn blanks(&self) -> &Blanks {
        &self.blanks
    }

    pub(super) fn store(&self) -> Option<&Store> {
        self.store.as_ref().map(|(store, _)| store)
    }

    pub(super) fn records(&self) -> Option<&Records> {
        self.store.as_ref().map(|(_, records)| records)
    }

    /// The images that a lab's system disks begin as: the host's, then the NAS guest's.
    pub(super) fn disk_images(&self, lab: &Lab) -> [DiskImage; 2] {
        let hosts = lock(&self.hosts);
        // Planning has fetched the others.
        let host = hosts.get(&lab.host.image()).unwrap_or(&self.images.proxmox);
        [host.clone(), self.images.truenas.clone()]
    }

    pub(super) fn timings(&self) -> &Timings {
        &self.timings
    }

    pub(super) fn cpu(&self) -> &str {
        &self.cpu
    }

    pub(super) fn qemu(&self) -> Command {
        self.qemu.command()
    }

    pub(super) fn qemu_data_dirs(&self) -> Vec<PathBuf> {
        self.qemu.data_dirs()
    }

    pub(super) fn deadlines(&self) -> Deadlines {
        self.choice.accelerator.deadlines()
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.scenarios.join("snapshots")
    }
}

/// What this machine lacks for a lab whose run folder is below `folder`; `None` when nothing.
pub fn unmet(lab: &Lab, folder: &Path) -> Option<String> {
    let memory = (u64::from(lab.memory_mib) + QEMU_OVERHEAD_MIB) << 20;
    host::require(folder, memory, LAB_DISK)
        .err()
        .map(|error| chain(&error))
}

/// The toolbox's QEMU, which is unpacked and not installed.
pub fn toolbox_qemu(toolbox: &Toolbox) -> QemuProgram {
    QemuProgram::unpacked(
        toolbox.argv_prefix("qemu-system-x86_64"),
        toolbox.qemu_data_dirs(),
        toolbox.qemu_version().to_owned(),
        toolbox.digest().to_owned(),
    )
    .with_environment("QEMU_MODULE_DIR", toolbox.qemu_module_dir())
}

/// Builds images on a thread of its own, and ends the build when the run is stopped.
async fn build<T: Send + 'static>(
    observer: &Arc<dyn Observer>,
    stop: &mut watch::Receiver<bool>,
    work: impl FnOnce(&dyn Observer, &Cancel) -> images::Result<T> + Send + 'static,
) -> Result<T, SessionError> {
    let cancel = Cancel::default();
    let build = {
        let (observer, cancel) = (Arc::clone(observer), cancel.clone());
        tokio::task::spawn_blocking(move || work(&*observer, &cancel))
    };
    tokio::pin!(build);
    let built = tokio::select! {
        biased;
        Ok(_) = stop.wait_for(|stop| *stop) => {
            cancel.cancel();
            // The build ends its children before it returns.
            let _ = build.await;
            return Err(SessionError::Interrupted);
        }
        built = &mut build => built,
    };
    match built {
        Ok(built) => Ok(built?),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
