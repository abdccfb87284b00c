//! `cargo xtask lab`: runs scenarios.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use harness::engine::{Session, SessionError};
use harness::report::Lines;
use harness::scenario::{self, Scenario};
use harness::signals;
use tokio::runtime::Runtime;

use crate::Machine;
use crate::exit::Exit;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LabCommand {
    #[command(subcommand)]
    command: Option<LabSubcommand>,
    /// Runs scenarios whose names contain one of these; all when none is given.
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Takes the filters as whole names.
    #[arg(long)]
    exact: bool,
    /// Lists the scenarios and runs nothing.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Debug, Subcommand)]
enum LabSubcommand {
    /// Writes a first scenario file to begin from.
    New {
        /// The scenario's name.
        name: String,
    },
}

pub fn run(command: LabCommand) -> anyhow::Result<Exit> {
    if let Some(LabSubcommand::New { name }) = command.command {
        return new(command.machine.scenarios(), &name);
    }
    let scenarios = command.machine.load_scenarios()?;
    let chosen: Vec<&Scenario> = scenarios
        .iter()
        .filter(|one| matches(&command, &one.name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = scenarios.iter().map(|one| one.name.as_str()).collect();
        eprintln!(
            "no scenario is called {}; there are {}",
            command.filters.join(" or "),
            names.join(", ")
        );
        return Ok(Exit::NothingRan);
    }
    if command.list {
        for one in chosen {
            println!("{:<24} {}", one.name, one.summary);
        }
        return Ok(Exit::Held);
    }
    let runtime = Runtime::new().context("failed to start the runtime")?;
    runtime.block_on(run_all(command.machine, &chosen))
}

async fn run_all(machine: Machine, scenarios: &[&Scenario]) -> anyhow::Result<Exit> {
    let stop = signals::stop_on_signals().context("failed to catch signals")?;
    let lines = Arc::new(Lines::to_stdout());
    let session = match Session::open(machine.options(), lines.clone(), vec![lines], stop).await {
        Ok(session) => session,
        Err(SessionError::Interrupted) => return Ok(Exit::Interrupted),
        Err(error) => return Err(error.into()),
    };
    let plan = match session.plan(scenarios.iter().copied()).await {
        Ok(plan) => plan,
        Err(SessionError::Interrupted) => return Ok(Exit::Interrupted),
        Err(error) => return Err(error.into()),
    };
    for number in plan.in_order() {
        session.run(scenarios[number]).await;
        if session.stopped() {
            break;
        }
    }
    Ok(session.finish().into())
}

fn matches(command: &LabCommand, name: &str) -> bool {
    let hit = |filter: &String| {
        if command.exact {
            name == filter
        } else {
            name.contains(filter)
        }
    };
    command.filters.is_empty() || command.filters.iter().any(hit)
}

fn new(folder: &Path, name: &str) -> anyhow::Result<Exit> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(plain) {
        bail!("`{name}` cannot name a scenario: use small letters, digits and hyphens");
    }
    let path = folder.join(format!("{name}.toml"));
    if path.exists() {
        bail!("{} is there already; choose another name", path.display());
    }
    std::fs::write(&path, scenario::template(name))
        .with_context(|| format!("failed to write {}", path.display()))?;
    println!(
        "wrote {}\nrun it: cargo xtask lab --exact {name}",
        path.display()
    );
    Ok(Exit::Held)
}
