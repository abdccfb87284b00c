//! `cargo xtask bench`: where the time of a scenario goes.

use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use harness::engine::Session;
use harness::report::{Lines, Stopwatch};
use harness::signals;
use tokio::runtime::Runtime;

use crate::Machine;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub struct BenchCommand {
    /// The scenario to measure.
    #[arg(default_value = "procedure")]
    scenario: String,
    /// How many times; the median of the whole is printed when there is more than one.
    #[arg(long, short = 'n', default_value_t = 1)]
    runs: usize,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(command: BenchCommand) -> anyhow::Result<Exit> {
    let scenarios = command.machine.load_scenarios()?;
    let Some(scenario) = scenarios.iter().find(|one| one.name == command.scenario) else {
        bail!(
            "no scenario is called `{}`; `cargo xtask lab --list` names them",
            command.scenario
        );
    };
    let runtime = Runtime::new().context("failed to start the runtime")?;
    runtime.block_on(async {
        let stop = signals::stop_on_signals().context("failed to catch signals")?;
        let lines = Arc::new(Lines::to_stdout());
        let stopwatch = Arc::new(Stopwatch::default());
        let listeners: Vec<Arc<dyn harness::event::Listener>> =
            vec![lines.clone(), stopwatch.clone()];
        let session = Session::open(command.machine.options(), lines, listeners, stop).await?;
        session.plan([scenario]).await?;
        let mut totals = Vec::new();
        for _ in 0..command.runs {
            if !session.run(scenario).await.held() {
                break;
            }
            let breakdown = stopwatch.breakdown();
            println!("\n{breakdown}");
            totals.push(breakdown.seconds);
        }
        totals.sort_by(f64::total_cmp);
        if let [first, .., last] = totals.as_slice() {
            println!(
                "median {:.1} s ({first:.1} to {last:.1})",
                totals[totals.len() / 2]
            );
        }
        Ok(session.finish().into())
    })
}
