//! `cargo xtask lab matrix`: which steps of the write-up matter, measured by leaving them out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anstream::{eprintln, print};
use anyhow::{Context, bail};
use clap::Args;
use harness::engine::{Ground, Session, SessionError};
use harness::host;
use harness::lab::Lab;
use harness::matrix::{
    Cell, Environment, Fault, Heading, Ingredient, Measured, Record, Records, Report, Results,
};
use harness::plan::Key;
use harness::report::Lines;
use harness::scenario::{Labs, Scenario};
use harness::signals;
use images::ImageName;
use indicatif::HumanBytes;
use scenarios::Machine;
use tokio::runtime::Runtime;

use crate::exit::Exit;

#[derive(Debug, Args)]
pub struct MatrixCommand {
    /// Also writes the table to this file, as Markdown.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Measures only runs whose names contain this, such as `pve8` or `without-vfio`, and shows those.
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
    /// Measures again what was measured before. Checkpoints are used all the same; see --no-cache.
    #[arg(long)]
    fresh: bool,
    /// How many machines may run side by side, if they fit into memory. One of these keeps little more than
    /// one processor busy: when not given, there are as many as processors.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(command: MatrixCommand) -> anyhow::Result<Exit> {
    let runtime = Runtime::new().context("failed to start the runtime")?;
    match runtime.block_on(matrix(command)) {
        Err(error) if matches!(error.downcast_ref(), Some(SessionError::Interrupted)) => {
            Ok(Exit::Interrupted)
        }
        result => result,
    }
}

async fn matrix(command: MatrixCommand) -> anyhow::Result<Exit> {
    let labs = Labs::load(&command.machine.scenarios().join("labs"))
        .map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let first = Results::default().wanted(command.only.as_deref());
    if first.is_empty() {
        let names: Vec<String> = Environment::all().map(|one| one.to_string()).collect();
        let left_out: Vec<String> = Ingredient::all().map(|one| one.to_string()).collect();
        eprintln!(
            "no run has `{}` in its name, such as pve8-without-pcie; the machines are {}, and what is left out {}",
            command.only.unwrap_or_default(),
            names.join(", "),
            left_out.join(", ")
        );
        return Ok(Exit::NothingRan);
    }
    for cell in first {
        cell.scenario(&labs)?;
    }
    let stop = signals::stop_on_signals().context("failed to catch signals")?;
    // The table is the result; standard output is for nothing else.
    let lines = Arc::new(Lines::to_stderr());
    let ground = Ground::prepare(command.machine.options(), lines.clone(), stop.clone()).await?;
    let mut family = Family {
        records: Records::open(ground.cache(), command.fresh)?,
        labs,
        only: command.only,
        results: Results::default(),
        missing: Vec::new(),
    };
    family.look_up(&ground).await?;
    let heading = family.heading(&ground)?;
    if !family.missing.is_empty() {
        let jobs = command.jobs.unwrap_or_else(host::cpus);
        let session = Session::on(ground, vec![lines], stop)?;
        let faults = family.measure(&session, jobs).await?;
        let summary = session.finish();
        if !family.missing.is_empty() {
            family.tell_missing(&faults);
            let nothing_ran = summary.measured + summary.set_up_failed == 0;
            return Ok(match session.stopped() {
                true => Exit::Interrupted,
                false if nothing_ran => Exit::NothingRan,
                false => Exit::SetUpFailed,
            });
        }
    }
    let report = Report::new(&family.results, heading);
    match io::stdout().is_terminal() {
        true => print!("{}", report.terminal()),
        false => print!("{}", report.markdown()),
    }
    if let Some(file) = &command.write {
        std::fs::write(file, report.markdown())
            .with_context(|| format!("failed to write {}", file.display()))?;
    }
    Ok(Exit::Held)
}

/// The runs that are asked for: what is known of them, and what is not.
struct Family {
    labs: Labs,
    records: Records,
    only: Option<String>,
    results: Results,
    missing: Vec<Missing>,
}

/// A run that has to be made.
struct Missing {
    cell: Cell,
    scenario: Scenario,
    key: Key,
}

impl Family {
    /// Takes what was measured from the records, and with that also the runs that it makes worth while.
    async fn look_up(&mut self, ground: &Ground) -> anyhow::Result<()> {
        self.missing.clear();
        loop {
            let mut wanted = self.results.wanted(self.only.as_deref());
            wanted.retain(|cell| {
                !self.results.has(cell) && !self.missing.iter().any(|one| one.cell == *cell)
            });
            if wanted.is_empty() {
                return Ok(());
            }
            let scenarios = wanted.iter().map(|cell| cell.scenario(&self.labs));
            let scenarios = scenarios.collect::<Result<Vec<Scenario>, _>>()?;
            let plan = ground.plan(&scenarios.iter().collect::<Vec<_>>()).await?;
            let keys: Vec<Key> = plan
                .routes()
                .iter()
                .filter_map(|route| Some(plan.nodes()[route.nodes().last()?].key))
                .collect();
            for ((cell, scenario), key) in wanted.into_iter().zip(scenarios).zip(keys) {
                match self.records.get(&key) {
                    Some(record) => self
                        .results
                        .insert(cell, Measured::of(&record, &scenario.lab)),
                    None => self.missing.push(Missing {
                        cell,
                        scenario,
                        key,
                    }),
                }
            }
        }
    }

    /// Measures what is missing and what that makes worth while, until nothing is, or somebody stops it, or
    /// a run said nothing of the procedure. Gives why not, where it did not.
    async fn measure(&mut self, session: &Session, jobs: usize) -> anyhow::Result<Vec<String>> {
        while !self.missing.is_empty() {
            let faults = Mutex::new(Vec::new());
            let keys: BTreeMap<&str, Key> = self
                .missing
                .iter()
                .map(|one| (one.scenario.name.as_str(), one.key))
                .collect();
            let tried: BTreeSet<Key> = keys.values().copied().collect();
            let scenarios: Vec<&Scenario> = self.missing.iter().map(|one| &one.scenario).collect();
            session
                .observe_all(&scenarios, Some(jobs), |scenario, observation| {
                    let name = scenario.name.clone();
                    let key = keys[scenario.name.as_str()];
                    let kept = match Record::new(name, key, observation) {
                        Ok(record) => self.records.put(&record).map_err(anyhow::Error::from),
                        Err(Fault::Interrupted) => Ok(()),
                        Err(fault) => Err(fault.into()),
                    };
                    if let Err(error) = kept {
                        let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
                        faults.push(format!("{}: {error:#}", scenario.name));
                    }
                })
                .await?;
            self.look_up(session.ground()).await?;
            let faults = faults.into_inner().unwrap_or_else(PoisonError::into_inner);
            if session.stopped() || !faults.is_empty() {
                return Ok(faults);
            }
            // Else the same would be measured for ever.
            if let Some(lost) = self.missing.iter().find(|one| tried.contains(&one.key)) {
                bail!(
                    "what was measured of {} cannot be read back",
                    lost.cell.name()
                );
            }
        }
        Ok(Vec::new())
    }

    fn tell_missing(&self, faults: &[String]) {
        for fault in faults {
            eprintln!("says nothing of the procedure: {fault}");
        }
        eprintln!(
            "{} runs are measured and kept, {} are missing; the same command goes on from there",
            self.results.all().count(),
            self.missing.len()
        );
    }

    fn heading(&self, ground: &Ground) -> anyhow::Result<Heading> {
        let cells = self.results.wanted(self.only.as_deref());
        let labs: BTreeSet<&str> = cells.iter().map(|cell| cell.environment.lab()).collect();
        let labs: Vec<&Lab> = labs.iter().filter_map(|name| self.labs.get(name)).collect();
        let mut images = BTreeSet::new();
        for lab in labs {
            let setting = ground.setting(lab);
            let host = lab.host.image().name();
            for (name, digest) in [
                (host, &setting.host_image),
                (ImageName::TruenasLike, &setting.nas_image),
            ] {
                images.insert(format!("{name} {}", short(digest)));
            }
        }
        let memory = host::memory()?.total;
        let processor = host::processor_name().unwrap_or_else(|| "unknown".to_owned());
        Ok(Heading {
            machine: format!(
                "{} processors ({processor}), {} of memory",
                host::cpus(),
                HumanBytes(memory)
            ),
            emulator: format!(
                "QEMU {}, {}, CPU {}",
                ground.qemu_version(),
                ground.choice().accelerator,
                ground.cpu()
            ),
            images: images.into_iter().collect::<Vec<_>>().join(", "),
        })
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
