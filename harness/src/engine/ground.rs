//! What runs stand on: images, QEMU, accelerator, checkpoints, and what is known from earlier runs. No
//! machine and no run folder yet, so that planning costs nothing.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use images::{Cache, Cancel, DiskImage, HostImage, ImageSet, Observer, Toolbox};
use tokio::sync::watch;

use super::failure::chain;
use super::nas;
use super::timings::Timings;
use crate::accel::{self, Accelerator, Choice, Deadlines, QemuProgram, Requested};
use crate::checkpoint::{Records, Store, StoreError};
use crate::evidence::EvidenceError;
use crate::host;
use crate::lab::Lab;
use crate::plan::{FORMAT, Key, Knowledge, Move, Plan, Setting, first_lab};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checkpoints {
    /// It begins from them and takes new ones, up to so many bytes on disk.
    Within(u64),
    /// It begins from them and takes no new ones, for measuring.
    Standing,
    /// The same with a store of its own in this folder, for measuring.
    Apart(PathBuf),
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

/// Memory that one lab needs beside L1's own, in MiB: QEMU's translated code, its tables and buffers.
const QEMU_OVERHEAD_MIB: u64 = 1536;
/// Disk space that one lab needs while it runs, in bytes.
const LAB_DISK: u64 = 3 << 30;

/// What runs stand on.
pub struct Ground {
    cache: PathBuf,
    images: ImageSet,
    observer: Arc<dyn Observer>,
    choice: Choice,
    cpu: String,
    qemu: QemuProgram,
    scenarios: PathBuf,
    store: Option<(Store, Records)>,
    takes_checkpoints: bool,
    hosts: Mutex<HashMap<HostImage, Result<DiskImage, Arc<images::Error>>>>,
    timings: Timings,
    stop: watch::Receiver<bool>,
}

impl Ground {
    /// Builds what images are missing, chooses the accelerator, and opens the checkpoints.
    ///
    /// # Errors
    /// When any of that cannot be had; see [`SessionError`].
    pub async fn prepare(
        options: Options,
        observer: Arc<dyn Observer>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Self, SessionError> {
        let cache = Cache::open(options.cache)?;
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
        let cpu = match options.cpu {
            Some(named) => choice.named_cpu_model(named),
            None => choice.cpu_model().to_owned(),
        };
        let store = match &options.checkpoints {
            Checkpoints::Within(budget) => Some((cache.root(), *budget)),
            Checkpoints::Standing => Some((cache.root(), CHECKPOINT_BUDGET)),
            Checkpoints::Apart(folder) => Some((folder.as_path(), CHECKPOINT_BUDGET)),
            Checkpoints::None => None,
        };
        let store = match store {
            Some((folder, budget)) => Some((Store::open(folder, budget)?, Records::open(folder))),
            None => None,
        };
        Ok(Ground {
            cache: cache.root().to_owned(),
            timings: Timings::open(cache.root(), &choice.accelerator.to_string()),
            images,
            observer,
            choice,
            cpu,
            qemu,
            scenarios: options.scenarios,
            store,
            takes_checkpoints: options.checkpoints != Checkpoints::Standing,
            hosts: Mutex::default(),
            stop,
        })
    }

    /// The tree of these scenarios. Builds the host images that only some of them need.
    ///
    /// # Errors
    /// When such an image cannot be had.
    pub async fn plan(&self, scenarios: &[&Scenario]) -> Result<Plan, SessionError> {
        self.fetch_hosts(scenarios).await;
        for scenario in scenarios {
            self.fetch_host(first_lab(scenario)).await?;
        }
        let setting = |lab: &Lab| self.setting(lab);
        Ok(Plan::new(scenarios.iter().copied(), setting))
    }

    /// What is known of states: which have checkpoints, and how long each move took the last time.
    pub fn knowledge(&self) -> impl Knowledge + '_ {
        let keys = self.store().map(Store::keys).unwrap_or_default();
        Known { ground: self, keys }
    }

    /// The accelerator and why it was chosen.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// What a state of this lab depends on beside its steps. Its host's image is the one that planning has
    /// fetched.
    pub fn setting(&self, lab: &Lab) -> Setting {
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

    /// Makes the disks of all hosts that these scenarios need, side by side, as far as they can be had.
    pub(super) async fn fetch_hosts(&self, scenarios: &[&Scenario]) {
        let labs = scenarios.iter().map(|scenario| first_lab(scenario));
        let hosts: HashMap<HostImage, &Lab> = labs.map(|lab| (lab.host.image(), lab)).collect();
        // Whoever needs one asks for it again, and hears what went wrong.
        drop(join_all(hosts.into_values().map(|lab| self.fetch_host(lab))).await);
    }

    /// Makes sure that the disk of a lab's host is there; one that few labs need is built now.
    /// What went wrong once is not tried again.
    pub(super) async fn fetch_host(&self, lab: &Lab) -> Result<(), SessionError> {
        let (images, host) = (self.images.clone(), lab.host.image());
        let shared = |error: &Arc<images::Error>| images::Error::Shared(Arc::clone(error)).into();
        if let Some(known) = lock(&self.hosts).get(&host) {
            return known.as_ref().map(|_| ()).map_err(shared);
        }
        let build_host =
            move |observer: &dyn Observer, cancel: &Cancel| images.host(host, observer, cancel);
        let image = match build(&self.observer, &mut self.stop.clone(), build_host).await {
            Ok(image) => Ok(image),
            Err(SessionError::Images(error)) => Err(Arc::new(error)),
            Err(other) => return Err(other),
        };
        let outcome = image.as_ref().map(|_| ()).map_err(shared);
        lock(&self.hosts).insert(host, image);
        outcome
    }

    /// The images that a lab's system disks begin as: the host's, then the NAS guest's.
    pub(super) fn disk_images(&self, lab: &Lab) -> [DiskImage; 2] {
        let hosts = lock(&self.hosts);
        // Planning has fetched the others.
        let host = match hosts.get(&lab.host.image()) {
            Some(Ok(image)) => image,
            _ => &self.images.proxmox,
        };
        [host.clone(), self.images.truenas.clone()]
    }

    pub(super) fn images(&self) -> &ImageSet {
        &self.images
    }

    /// The folder of images and evidence.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Where checkpoints are, when a run may begin from them.
    pub(super) fn store(&self) -> Option<&Store> {
        self.store.as_ref().map(|(store, _)| store)
    }

    /// Whether new ones are taken.
    pub(super) fn takes_checkpoints(&self) -> bool {
        self.takes_checkpoints
    }

    pub(super) fn records(&self) -> Option<&Records> {
        self.store.as_ref().map(|(_, records)| records)
    }

    pub(super) fn timings(&self) -> &Timings {
        &self.timings
    }

    /// The CPU model of the host.
    pub fn cpu(&self) -> &str {
        &self.cpu
    }

    pub(super) fn qemu(&self) -> Command {
        self.qemu.command()
    }

    /// QEMU's version.
    pub fn qemu_version(&self) -> &str {
        self.qemu.version()
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

/// What a plan is shown with.
struct Known<'a> {
    ground: &'a Ground,
    keys: BTreeSet<Key>,
}

impl Knowledge for Known<'_> {
    fn cached(&self, key: &Key) -> bool {
        self.keys.contains(key)
    }

    fn seconds(&self, one: &Move) -> Option<f64> {
        self.ground.timings.last(&one.digest())
    }
}

/// What a lab needs while it runs, in bytes of memory.
pub(super) fn memory_of(lab: &Lab) -> u64 {
    (u64::from(lab.memory_mib) + QEMU_OVERHEAD_MIB) << 20
}

/// What this machine lacks for a lab whose run folder is below `folder`; `None` when nothing.
pub fn unmet(lab: &Lab, folder: &Path) -> Option<String> {
    host::require(folder, memory_of(lab), LAB_DISK)
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
