//! `cargo xtask`: the command line of the lab. Thin: the work is done by `harness` and `images`.

mod bench;
mod cache;
mod doctor;
mod doctor_host;
mod exit;
mod failure;
mod findings;
mod images_command;
mod lab;
mod matrix;
mod schema;
mod shell;
mod up;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstream::eprintln;
use clap::{Args, Parser, Subcommand};
use harness::accel::Requested;
use harness::engine::{Checkpoints, Options};
use harness::scenario::{self, Scenario};

use crate::exit::Exit;

/// Proves PCIe passthrough of a storage controller, end to end, in a nested-virtualization lab.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs scenarios on the lab; builds what images are missing.
    Lab(lab::LabCommand),
    /// Says what this machine can do: accelerator, images, disk, memory, and what would be skipped. Or
    /// examines a real Proxmox VE host: --host, --ssh, --facts.
    Doctor(doctor::DoctorCommand),
    /// Lists what can be found wrong, or explains one of it.
    Findings(findings::FindingsCommand),
    /// Builds, lists, checks and removes the lab's images.
    Images(images_command::ImagesCommand),
    /// Shows what checkpoints there are and what they take, or removes them.
    Cache(cache::CacheCommand),
    /// Measures a scenario: every phase, and how much of the time the harness itself took.
    Bench(bench::BenchCommand),
    /// Writes the JSON Schemas of scenario and lab files, for editors.
    Schema,
}

/// On what the lab runs.
#[derive(Debug, Clone, Args)]
struct Machine {
    /// What runs the host's CPUs: `auto` tries KVM with a real guest and falls back to emulation.
    #[arg(long, value_name = "auto|kvm|tcg", default_value_t, env = "LAB_ACCEL")]
    accel: Requested,
    /// A QEMU other than the toolbox's.
    #[arg(long, value_name = "PATH", env = "LAB_QEMU")]
    qemu: Option<PathBuf>,
    /// A CPU model of QEMU's for the host, other than the accelerator's own.
    #[arg(long, value_name = "MODEL", env = "LAB_CPU")]
    cpu: Option<String>,
    /// Folder of images and evidence; the user's cache folder when not given.
    #[arg(long, value_name = "DIR", env = "LAB_CACHE")]
    cache: Option<PathBuf>,
    /// Begins every scenario with its first step: no checkpoint is used or taken.
    #[arg(long, env = "LAB_NO_CACHE", value_parser = clap::builder::FalseyValueParser::new())]
    no_cache: bool,
    /// What all checkpoints together may take on disk, in GB.
    #[arg(long, value_name = "GB", default_value_t = harness::engine::CHECKPOINT_BUDGET >> 30, env = "LAB_CACHE_BUDGET")]
    cache_budget: u64,
    #[command(flatten)]
    folder: ScenariosFolder,
}

/// Where scenarios are read and written.
#[derive(Debug, Clone, Args)]
struct ScenariosFolder {
    /// Folder of the scenarios; the project's own when not given.
    #[arg(long, value_name = "DIR", env = "LAB_SCENARIOS")]
    scenarios: Option<PathBuf>,
}

impl ScenariosFolder {
    fn path(&self) -> &Path {
        self.scenarios.as_deref().unwrap_or(scenarios::folder())
    }
}

/// Where the lab that is up is looked for.
#[derive(Debug, Clone, Args)]
struct CacheFolder {
    /// Folder of images and evidence; the user's cache folder when not given.
    #[arg(long, value_name = "DIR", env = "LAB_CACHE")]
    cache: Option<PathBuf>,
}

impl CacheFolder {
    fn root(&self) -> anyhow::Result<PathBuf> {
        Ok(images::Cache::open(self.cache.clone())?.root().to_owned())
    }
}

impl Machine {
    fn cache_folder(&self) -> anyhow::Result<PathBuf> {
        Ok(images::Cache::open(self.cache.clone())?.root().to_owned())
    }

    fn scenarios(&self) -> &Path {
        self.folder.path()
    }

    /// Every scenario of the folder; the error shows each mistake in each file.
    fn load_scenarios(&self) -> anyhow::Result<Vec<Scenario>> {
        scenario::load_dir(self.scenarios()).map_err(|errors| anyhow::anyhow!("{errors:?}"))
    }

    fn options(self) -> Options {
        Options {
            scenarios: self.scenarios().to_owned(),
            cache: self.cache,
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

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = match command {
        Command::Lab(command) => lab::run(command),
        Command::Doctor(command) => doctor::run(command),
        Command::Findings(command) => findings::run(command),
        Command::Images(command) => images_command::run(command),
        Command::Cache(command) => cache::run(command),
        Command::Bench(command) => bench::run(command),
        Command::Schema => schema::run(),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("error: {}", failure::show(&error));
            Exit::SetUpFailed.into()
        }
    }
}
