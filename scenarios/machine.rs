//! What a front end is told of the machine: one meaning for the command line and for the environment.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::FalseyValueParser;
use harness::accel::Requested;
use harness::engine::{CHECKPOINT_BUDGET, Checkpoints, Options};
use harness::scenario::{self, Scenario};

/// On what the lab runs.
#[derive(Debug, Clone, Args)]
pub struct Machine {
    /// What runs the host's CPUs: `auto` tries KVM with a real guest and falls back to emulation.
    #[arg(long, value_name = "auto|kvm|tcg", default_value_t, env = "LAB_ACCEL")]
    pub accel: Requested,
    /// A QEMU other than the toolbox's.
    #[arg(long, value_name = "PATH", env = "LAB_QEMU")]
    pub qemu: Option<PathBuf>,
    /// A CPU model of QEMU's for the host, other than the accelerator's own.
    #[arg(long, value_name = "MODEL", env = "LAB_CPU")]
    pub cpu: Option<String>,
    /// Where images and evidence are.
    #[command(flatten)]
    pub cache: CacheFolder,
    /// Begins every scenario with its first step: no checkpoint is used or taken.
    #[arg(long, env = "LAB_NO_CACHE", value_parser = FalseyValueParser::new())]
    pub no_cache: bool,
    /// What all checkpoints together may take on disk, in GiB.
    #[arg(long, value_name = "GiB", default_value_t = CHECKPOINT_BUDGET >> 30, env = "LAB_CACHE_BUDGET")]
    pub cache_budget: u64,
    /// Where the scenarios are.
    #[command(flatten)]
    pub folder: ScenariosFolder,
}

/// Where scenarios are read and written.
#[derive(Debug, Clone, Args)]
pub struct ScenariosFolder {
    /// Folder of the scenarios; the project's own when not given.
    #[arg(long, value_name = "DIR", env = "LAB_SCENARIOS")]
    pub scenarios: Option<PathBuf>,
}

impl ScenariosFolder {
    /// The folder that was given, or the project's own.
    pub fn path(&self) -> &Path {
        self.scenarios.as_deref().unwrap_or(super::folder())
    }
}

/// Where images and evidence are kept, and the lab that is up is found.
#[derive(Debug, Clone, Args)]
pub struct CacheFolder {
    /// Folder of images and evidence; the user's cache folder when not given.
    #[arg(long, value_name = "DIR", env = "LAB_CACHE")]
    pub cache: Option<PathBuf>,
}

impl CacheFolder {
    /// The cache in the folder that was given, or in the user's own.
    ///
    /// # Errors
    /// When none is given and the user has none.
    pub fn open(&self) -> anyhow::Result<images::Cache> {
        Ok(images::Cache::open(self.cache.clone())?)
    }
}

impl Machine {
    /// The folder of the scenarios.
    pub fn scenarios(&self) -> &Path {
        self.folder.path()
    }

    /// Every scenario of the folder.
    ///
    /// # Errors
    /// Shows each mistake in each file.
    pub fn load_scenarios(&self) -> anyhow::Result<Vec<Scenario>> {
        scenario::load_dir(self.scenarios()).map_err(|errors| anyhow::anyhow!("{errors:?}"))
    }

    /// The same in the engine's words.
    pub fn options(self) -> Options {
        Options {
            scenarios: self.scenarios().to_owned(),
            cache: self.cache.cache,
            accelerator: self.accel,
            qemu: self.qemu,
            cpu: self.cpu,
            checkpoints: match self.no_cache {
                true => Checkpoints::None,
                false => Checkpoints::Within(self.cache_budget << 30),
            },
        }
    }
}
