//! `cargo xtask lab`: runs scenarios.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use anstream::{eprintln, print, println};
use anyhow::{Context, bail};
use clap::{Args, Command, Subcommand};
use harness::engine::{Ground, Session, SessionError, Summary};
use harness::report::Lines;
use harness::scenario::{self, Scenario};
use harness::signals;
use scenarios::{CacheFolder, Machine, ScenariosFolder};
use tokio::runtime::Runtime;

use crate::exit::Exit;
use crate::matrix::{self, MatrixCommand};
use crate::shell::{self, CopyCommand, ShellCommand, WireCommand};
use crate::up::{self, UpCommand};
use crate::watch::{self, WatchCommand};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LabCommand {
    #[command(subcommand)]
    command: Option<LabSubcommand>,
    /// Runs scenarios whose names contain one of these; all when none is given.
    #[arg(value_name = "FILTER", value_parser = filter)]
    filters: Vec<String>,
    /// Takes the filters as whole names.
    #[arg(long)]
    exact: bool,
    /// Lists the scenarios and runs nothing.
    #[arg(long)]
    list: bool,
    /// How many machines may run side by side; as many as fit into memory and processors when not given.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Runs one part of so many, such as 2/5: whole subtrees of the plan, of about the same duration.
    #[arg(long, value_name = "K/N")]
    partition: Option<Partition>,
    /// Makes a skipped scenario a failure.
    #[arg(long, env = "LAB_DENY_SKIPS", value_parser = clap::builder::FalseyValueParser::new())]
    deny_skips: bool,
    #[command(flatten)]
    machine: Machine,
}

/// A filter. clap takes the name of a subcommand for one where it comes after an option or another filter, and the
/// call would run scenarios that nobody asked for.
fn filter(text: &str) -> Result<String, String> {
    let mut lab =
        LabSubcommand::augment_subcommands(Command::new("lab").bin_name("cargo xtask lab"));
    lab.build();
    match lab.find_subcommand_mut(text) {
        Some(subcommand) => {
            let usage = subcommand.render_usage().to_string();
            let usage = usage.trim_start_matches("Usage: ");
            Err(format!("a subcommand comes before its options: {usage}"))
        }
        None => Ok(text.to_owned()),
    }
}

/// A part of a run that is spread over machines.
#[derive(Debug, Clone, Copy)]
struct Partition {
    part: usize,
    parts: usize,
}

impl FromStr for Partition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers = text
            .split_once('/')
            .and_then(|(part, parts)| Some((part.parse().ok()?, parts.parse().ok()?)));
        match numbers {
            Some((part, parts)) if (1..=parts).contains(&part) => Ok(Partition { part, parts }),
            _ => Err("write K/N with K from 1 to N, such as 2/5".to_owned()),
        }
    }
}

#[derive(Debug, Subcommand)]
enum LabSubcommand {
    /// Shows what a run would do: the states that scenarios share, what is cached, how long it takes.
    Plan {
        /// Scenarios whose names contain one of these; all when none is given.
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
        #[command(flatten)]
        machine: Box<Machine>,
    },
    /// Brings up the lab of a scenario at any of its steps, from the deepest checkpoint, and leaves it up.
    Up(Box<UpCommand>),
    /// Opens a terminal in a guest of the lab that is up, or runs a command there.
    Shell(ShellCommand),
    /// Copies files and folders into a guest of the lab that is up, or out of it.
    Cp(CopyCommand),
    /// Ends the lab that is up.
    Down(CacheFolder),
    /// Runs a scenario again whenever its file or its lab's was saved.
    Watch(Box<WatchCommand>),
    /// Measures which steps of the write-up matter, by leaving out each of them, and prints the table. What
    /// was measured is kept: a call that was interrupted goes on where it was.
    Matrix(Box<MatrixCommand>),
    /// Carries bytes to a guest of the lab that is up.
    #[command(hide = true)]
    Wire(WireCommand),
    /// Writes a first scenario file to begin from.
    New {
        /// The scenario's name.
        name: String,
        #[command(flatten)]
        folder: ScenariosFolder,
    },
}

pub fn run(command: LabCommand) -> anyhow::Result<Exit> {
    match command.command {
        Some(LabSubcommand::New { name, folder }) => return new(folder.path(), &name),
        Some(LabSubcommand::Up(command)) => return up::up(*command),
        Some(LabSubcommand::Shell(command)) => return shell::shell(command),
        Some(LabSubcommand::Cp(command)) => return shell::copy(command),
        Some(LabSubcommand::Down(cache)) => return up::down(&cache),
        Some(LabSubcommand::Watch(command)) => return watch::run(*command),
        Some(LabSubcommand::Matrix(command)) => return matrix::run(*command),
        Some(LabSubcommand::Wire(command)) => return shell::wire(command),
        Some(LabSubcommand::Plan { filters, machine }) => return plan(*machine, &filters),
        None => {}
    }
    let scenarios = command.machine.load_scenarios()?;
    let Some(chosen) = choose(&scenarios, &command.filters, command.exact) else {
        return Ok(Exit::NothingRan);
    };
    if command.list {
        for one in chosen {
            println!("{:<24} {}", one.name, one.summary);
        }
        return Ok(Exit::Held);
    }
    let runtime = Runtime::new().context("failed to start the runtime")?;
    let side_by_side = (command.jobs, command.partition);
    let summary = runtime.block_on(run_all(command.machine, chosen, side_by_side))?;
    Ok(match summary {
        Some(summary) if command.deny_skips && summary.skipped > 0 => {
            eprintln!("skipped scenarios are failures here (--deny-skips)");
            Exit::from(summary).or_failed()
        }
        Some(summary) => summary.into(),
        None => Exit::Interrupted,
    })
}

/// The scenarios with such names; none, and a word on it, when there is no such scenario.
fn choose<'a>(
    scenarios: &'a [Scenario],
    filters: &[String],
    exact: bool,
) -> Option<Vec<&'a Scenario>> {
    let by_name = |one: &Scenario| filters.contains(&one.name);
    let (chosen, drafts): (Vec<&Scenario>, Vec<&Scenario>) = scenarios
        .iter()
        .filter(|one| matches(filters, exact, &one.name))
        .partition(|one| one.draft.is_none() || by_name(one));
    for draft in &drafts {
        let why = draft.draft.as_deref().unwrap_or_default();
        eprintln!("left out     {}, a draft: {why}", draft.name);
    }
    if chosen.is_empty() {
        let names: Vec<&str> = scenarios.iter().map(|one| one.name.as_str()).collect();
        eprintln!(
            "no scenario is called {}; there are {}",
            filters.join(" or "),
            names.join(", ")
        );
        return None;
    }
    Some(chosen)
}

fn plan(machine: Machine, filters: &[String]) -> anyhow::Result<Exit> {
    let scenarios = machine.load_scenarios()?;
    let Some(chosen) = choose(&scenarios, filters, false) else {
        return Ok(Exit::NothingRan);
    };
    let runtime = Runtime::new().context("failed to start the runtime")?;
    runtime.block_on(async {
        let stop = signals::stop_on_signals().context("failed to catch signals")?;
        let lines = Arc::new(Lines::to_stderr());
        let ground = Ground::prepare(machine.options(), lines, stop).await?;
        let plan = ground.plan(&chosen).await?;
        print!("{}", harness::plan::show(&plan, &ground.knowledge()));
        Ok(Exit::Held)
    })
}

/// Runs them; none where somebody stopped it before the first.
async fn run_all(
    machine: Machine,
    mut scenarios: Vec<&Scenario>,
    (jobs, partition): (Option<usize>, Option<Partition>),
) -> anyhow::Result<Option<Summary>> {
    let stop = signals::stop_on_signals().context("failed to catch signals")?;
    let lines = Arc::new(Lines::to_stdout());
    let session = match Session::open(machine.options(), lines.clone(), vec![lines], stop).await {
        Ok(session) => session,
        Err(SessionError::Interrupted) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if let Some(Partition { part, parts }) = partition {
        scenarios = session.part(&scenarios, part, parts);
    }
    match session.run_all(&scenarios, jobs).await {
        Ok(_) => {
            let summary = session.finish();
            // Whoever stops a run between two scenarios interrupts none of them.
            let whole = summary.scenarios() == scenarios.len() || !session.stopped();
            Ok(whole.then_some(summary))
        }
        Err(SessionError::Interrupted) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn matches(filters: &[String], exact: bool, name: &str) -> bool {
    let hit = |filter: &String| {
        if exact {
            name == filter
        } else {
            name.contains(filter)
        }
    };
    filters.is_empty() || filters.iter().any(hit)
}

fn new(folder: &Path, name: &str) -> anyhow::Result<Exit> {
    if !scenario::is_kebab(name) {
        bail!(
            "`{name}` cannot name a scenario: use small letters, digits and single hyphens between them"
        );
    }
    if let Some(other) = scenario::find(folder, name) {
        bail!("{} is there already; choose another name", other.display());
    }
    let path = folder.join(format!("{name}.toml"));
    std::fs::write(&path, scenario::template(name))
        .with_context(|| format!("failed to write {}", path.display()))?;
    println!(
        "wrote {}\nrun it: cargo xtask lab --exact {name}",
        path.display()
    );
    Ok(Exit::Held)
}
