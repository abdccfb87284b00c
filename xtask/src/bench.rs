//! `cargo xtask bench`: where the time of a scenario goes, and what checkpoints save.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anstream::println;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use harness::engine::{Checkpoints, Session};
use harness::event::{Event, EventKind, Listener};
use harness::report::{Lines, Stopwatch};
use harness::scenario::{Action, Scenario, Step};
use harness::signals;
use nix::sys::resource::{UsageWho, getrusage};
use scenarios::Machine;
use tokio::runtime::Runtime;

use crate::exit::Exit;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchCommand {
    #[command(subcommand)]
    what: Option<What>,
    /// The scenario to measure from its first step.
    #[arg(default_value = PROCEDURE)]
    scenario: String,
    /// How many times; the median of the whole is printed when there is more than one.
    #[arg(long, short = 'n', default_value_t = 1)]
    runs: usize,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What checkpoints save: cold, again, with its last step changed, with its initramfs step changed,
    /// and twenty scenarios that share a beginning.
    Cache {
        /// How many times each; medians are printed.
        #[arg(long, short = 'n', default_value_t = 5)]
        runs: usize,
        #[command(flatten)]
        machine: Box<Machine>,
    },
    /// Goes on from one checkpoint of a lab whose NAS runs with an imported pool, again and again, and
    /// looks at everything each time.
    Restore {
        /// How many times.
        #[arg(long, short = 'n', default_value_t = 200)]
        runs: usize,
        #[command(flatten)]
        machine: Box<Machine>,
    },
}

/// The scenario that is measured when none is named.
const PROCEDURE: &str = "procedure";
/// How many scenarios share a beginning.
const FAMILY: usize = 20;

pub fn run(command: BenchCommand) -> anyhow::Result<Exit> {
    let runtime = Runtime::new().context("failed to start the runtime")?;
    match command.what {
        None => runtime.block_on(phases(command.machine, &command.scenario, command.runs)),
        Some(What::Cache { runs, machine }) => runtime.block_on(cache(*machine, runs)),
        Some(What::Restore { runs, machine }) => runtime.block_on(restore(*machine, runs)),
    }
}

fn find(machine: &Machine, name: &str) -> anyhow::Result<Scenario> {
    let mut scenarios = machine.load_scenarios()?;
    let Some(at) = scenarios.iter().position(|one| one.name == name) else {
        bail!("no scenario is called `{name}`; `cargo xtask lab --list` names them");
    };
    Ok(scenarios.swap_remove(at))
}

/// Where the time of a scenario goes, without checkpoints.
async fn phases(mut machine: Machine, name: &str, runs: usize) -> anyhow::Result<Exit> {
    let scenario = find(&machine, name)?;
    machine.no_cache = true;
    let lines = Arc::new(Lines::to_stdout());
    let stopwatch = Arc::new(Stopwatch::default());
    let listeners: Vec<Arc<dyn Listener>> = vec![lines.clone(), stopwatch.clone()];
    let stop = signals::stop_on_signals().context("failed to catch signals")?;
    let session = Session::open(machine.options(), lines, listeners, stop).await?;
    session.plan([&scenario]).await?;
    let mut totals = Vec::new();
    for _ in 0..runs {
        if !session.run(&scenario).await.held() {
            break;
        }
        let breakdown = stopwatch.breakdown();
        println!("\n{breakdown}");
        totals.push(breakdown.seconds);
    }
    if totals.len() > 1 {
        let spread = spread(&mut totals);
        println!("median {spread}");
    }
    println!("memory of a lab, at most: {:.2} GiB", peak_memory()?);
    Ok(session.finish().into())
}

/// The most memory that any program of the lab has had at once, in GiB: the kernel keeps it of all
/// children that have ended, and QEMU is by far the largest.
fn peak_memory() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)
        .context("failed to ask how much memory the lab has used")?;
    Ok(usage.max_rss() as f64 / f64::from(1 << 20))
}

/// Median, least and most, in seconds.
fn spread(seconds: &mut [f64]) -> String {
    seconds.sort_by(f64::total_cmp);
    match seconds {
        [] => "nothing".to_owned(),
        [one] => format!("{one:.1} s"),
        [first, .., last] => {
            let (first, last) = (*first, *last);
            format!(
                "{:.1} s ({first:.1} to {last:.1})",
                seconds[seconds.len() / 2]
            )
        }
    }
}

/// The same scenario with a command that is written otherwise and does the same.
fn changed(scenario: &Scenario, pick: impl Fn(&Step) -> bool, mark: usize) -> Scenario {
    let mut other = scenario.clone();
    let step = other.steps.iter_mut().rev().find(|step| pick(step));
    if let Some(Step {
        action: Action::Run(run),
        ..
    }) = step
    {
        run.command = format!("{}\n: {mark}", run.command.trim_end());
    }
    other
}

fn is_run(step: &Step, part: &str) -> bool {
    matches!(&step.action, Action::Run(run) if run.command.contains(part))
}

async fn cache(machine: Machine, runs: usize) -> anyhow::Result<Exit> {
    let scenario = find(&machine, PROCEDURE)?;
    let root = machine.cache.open()?.root().to_owned();
    let mut options = machine.options();
    // A store of its own, so that nothing is cached at first and nobody's checkpoints are touched.
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(root)?;
    options.checkpoints = Checkpoints::Apart(folder.path().to_owned());
    let lines = Arc::new(Lines::to_stderr());
    let stop = signals::stop_on_signals().context("failed to catch signals")?;
    let session = Session::open(options, lines.clone(), vec![lines], stop).await?;

    let mut rows: Vec<(&str, Vec<f64>)> = vec![
        ("cold", Vec::new()),
        ("again, nothing changed", Vec::new()),
        ("its last step changed", Vec::new()),
        ("its update-initramfs changed", Vec::new()),
    ];
    for round in 0..runs {
        session.forget_checkpoints();
        let last = changed(&scenario, |step| is_run(step, ""), round);
        let initramfs = changed(&scenario, |step| is_run(step, "update-initramfs"), round);
        let variants = [&scenario, &scenario, &last, &initramfs];
        for ((_, seconds), variant) in rows.iter_mut().zip(variants) {
            let Some(took) = timed(&session, variant).await? else {
                return Ok(session.finish().into());
            };
            seconds.push(took);
        }
    }
    let family: Vec<Scenario> = (0..FAMILY)
        .map(|number| sibling(&scenario, number))
        .collect();
    session.forget_checkpoints();
    let start = std::time::Instant::now();
    session
        .run_all(&family.iter().collect::<Vec<_>>(), None)
        .await?;
    let together = start.elapsed().as_secs_f64();
    session.forget_checkpoints();
    let alone = timed(&session, &sibling(&scenario, FAMILY)).await?;

    let cold = median(&rows[0].1);
    println!("| what | median | of cold |\n|---|---|---|");
    for (what, seconds) in &mut rows {
        let share = median(seconds) / cold;
        println!("| {what} | {} | {share:.2} |", spread(seconds));
    }
    if let Some(alone) = alone {
        let apart = alone * FAMILY as f64;
        println!(
            "| {FAMILY} scenarios that share the first boot | {together:.1} s | {:.2} of {apart:.0} s apart |",
            together / apart
        );
    }
    Ok(session.finish().into())
}

fn median(seconds: &[f64]) -> f64 {
    let mut seconds = seconds.to_vec();
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How long a scenario took; nothing when it did not hold.
async fn timed(session: &Session, scenario: &Scenario) -> anyhow::Result<Option<f64>> {
    session.plan([scenario]).await?;
    let start = std::time::Instant::now();
    let held = session.run(scenario).await.held();
    Ok(held.then(|| start.elapsed().as_secs_f64()))
}

/// A scenario that has the procedure's first boot, and a step of its own.
fn sibling(scenario: &Scenario, number: usize) -> Scenario {
    let mut other = scenario.clone();
    other.name = format!("sibling-{number}");
    other.steps.retain(|step| is_run(step, "update-grub"));
    if let Some(Step {
        action: Action::Run(run),
        ..
    }) = other.steps.first_mut()
    {
        run.command = format!("echo {number} >/etc/issue");
    }
    other.expect = harness::scenario::Expect::default();
    other.findings = None;
    other
}

/// Hears how long each restoring took, and of checkpoints that could not be used.
#[derive(Default)]
struct Restores {
    seconds: Mutex<Vec<f64>>,
    unusable: AtomicUsize,
}

impl Listener for Restores {
    fn hear(&self, event: &Event) {
        match &event.kind {
            EventKind::Restored { seconds, .. } => {
                if let Ok(mut all) = self.seconds.lock() {
                    all.push(*seconds);
                }
            }
            EventKind::CheckpointUnusable { .. } => {
                self.unusable.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

async fn restore(machine: Machine, runs: usize) -> anyhow::Result<Exit> {
    let mut scenario = find(&machine, PROCEDURE)?;
    let (lines, restores) = (Arc::new(Lines::to_stdout()), Arc::new(Restores::default()));
    let stop = signals::stop_on_signals().context("failed to catch signals")?;
    let mut options = machine.options();

    // The checkpoint, unless there is one.
    let listeners: Vec<Arc<dyn Listener>> = vec![lines.clone()];
    let first = Session::open(options.clone(), lines.clone(), listeners, stop.clone()).await?;
    let ready = timed(&first, &scenario).await?;
    let summary = first.finish();
    if ready.is_none() {
        return Ok(summary.into());
    }

    // What must be as it was: the pool is clean after another scrub. No round may save the next one its work.
    let scrub = scenario
        .steps
        .iter()
        .find(|step| is_run(step, "zpool scrub"))
        .cloned();
    scenario.steps.extend(scrub);
    options.checkpoints = Checkpoints::Standing;
    let listeners: Vec<Arc<dyn Listener>> = vec![lines.clone(), restores.clone()];
    let session = Session::open(options, lines, listeners, stop).await?;
    let mut held = 0;
    for round in 0..runs {
        let scenario = changed(&scenario, |step| is_run(step, "zpool scrub"), round);
        if timed(&session, &scenario).await?.is_some() {
            held += 1;
        }
        // One that could not be used is gone.
        if session.stopped() || restores.unusable.load(Ordering::Relaxed) > 0 {
            break;
        }
    }
    let summary = session.finish();
    let mut seconds = restores
        .seconds
        .lock()
        .map_or_else(|_| Vec::new(), |all| all.clone());
    let unusable = restores.unusable.load(Ordering::Relaxed);
    println!(
        "{} times restored, {}; {held} of {runs} rounds held, {unusable} checkpoints were unusable",
        seconds.len(),
        spread(&mut seconds),
    );
    Ok(match (Exit::from(summary), unusable) {
        (Exit::Held, 1..) => Exit::Failed,
        (exit, _) => exit,
    })
}
