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

use std::process::ExitCode;

use anstream::eprintln;
use clap::{Parser, Subcommand};

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
