//! Every scenario as a test, on the real lab: `cargo test -p scenarios [FILTER]`.
//!
//! `LAB_DENY_SKIPS=1` makes a skip a failure. What else `cargo xtask lab` reads from the environment counts here too.

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use clap::Parser;
use clap::builder::FalseyValueParser;
use harness::engine::{Options, Session};
use harness::event::Verdict;
use harness::report::{Lines, render_failure};
use harness::scenario::Scenario;
use harness::signals;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use scenarios::Machine;
use tokio::runtime::Runtime;

/// What the environment asks for. The command line is libtest's.
#[derive(Debug, Parser)]
struct Environment {
    #[command(flatten)]
    machine: Machine,
    /// Makes a skipped scenario a failure; read as `cargo xtask lab` reads it.
    #[arg(long, env = "LAB_DENY_SKIPS", value_parser = FalseyValueParser::new())]
    deny_skips: bool,
}

fn main() -> ExitCode {
    drive().unwrap_or_else(|error| {
        // Not left to the runtime, which would add a backtrace that says nothing to an author.
        // Nobody is left to tell of what stderr did not take.
        drop(writeln!(std::io::stderr(), "error: {error:#}"));
        ExitCode::FAILURE
    })
}

fn drive() -> anyhow::Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    // The engine decides what runs side by side.
    arguments.test_threads = Some(1);
    let environment = Environment::parse_from([""; 0]);
    let scenarios = environment.machine.load_scenarios()?;
    let scenarios: Vec<Arc<Scenario>> = scenarios.into_iter().map(Arc::new).collect();
    let lab = Arc::new(Lab {
        environment,
        runtime: Runtime::new()?,
        run: OnceLock::new(),
        scenarios: scenarios
            .iter()
            .filter(|one| is_chosen(one, &arguments))
            .cloned()
            .collect(),
    });
    let trials = scenarios
        .into_iter()
        .map(|scenario| trial(scenario, &lab))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let interrupted = match lab.run.get() {
        Some(Ok((session, _))) => session.stopped(),
        _ => false,
    };
    Ok(match interrupted {
        true => ExitCode::from(signals::INTERRUPTED),
        false => conclusion.exit_code(),
    })
}

/// Whether libtest will run a scenario: the others leave nothing to go on from and need no image.
fn is_chosen(scenario: &Scenario, arguments: &Arguments) -> bool {
    let hit = |filter: &str| match arguments.exact {
        true => scenario.name == filter,
        false => scenario.name.contains(filter),
    };
    let kind = match scenario.draft {
        Some(_) => arguments.ignored || arguments.include_ignored,
        None => !arguments.ignored,
    };
    kind && arguments.filter.as_deref().is_none_or(hit)
        && !arguments.skip.iter().any(|skip| hit(skip))
}

/// A session and the verdicts of its scenarios, by their names.
type Run = (Session, HashMap<String, Verdict>);

/// All chosen scenarios, run by the first test that is asked for, so that those with the same beginning come
/// one after the other, whatever their names. Listing tests builds nothing.
struct Lab {
    environment: Environment,
    runtime: Runtime,
    run: OnceLock<Result<Run, String>>,
    scenarios: Vec<Arc<Scenario>>,
}

fn trial(scenario: Arc<Scenario>, lab: &Arc<Lab>) -> Trial {
    let lab = Arc::clone(lab);
    let draft = scenario.draft.is_some();
    Trial::ignorable_test(scenario.name.clone(), move || run(&scenario, &lab))
        .with_ignored_flag(draft)
}

fn run(scenario: &Scenario, lab: &Lab) -> Result<Completion, Failed> {
    let all = || {
        let run = lab.runtime.block_on(async {
            let session = open(lab.environment.machine.clone().options()).await?;
            let scenarios: Vec<&Scenario> = lab.scenarios.iter().map(AsRef::as_ref).collect();
            let verdicts = session.run_all(&scenarios, None).await?;
            session.finish();
            anyhow::Ok((session, verdicts))
        });
        run.map_err(|error| format!("{error:#}"))
    };
    let (session, verdicts) = lab.run.get_or_init(all).as_ref().map_err(Failed::from)?;
    let verdict = verdicts.get(&scenario.name);
    let verdict = verdict.unwrap_or(&Verdict::Interrupted);
    match verdict {
        Verdict::Skipped { reason } if lab.environment.deny_skips => {
            Err(format!("skipped, and LAB_DENY_SKIPS is set: {reason}").into())
        }
        Verdict::Skipped { reason } => Ok(Completion::ignored_with(reason.as_str())),
        verdict if verdict.held() => Ok(Completion::Completed),
        verdict => Err(render_failure(verdict, &session.folder().join(&scenario.name)).into()),
    }
}

async fn open(options: Options) -> anyhow::Result<Session> {
    let stop = signals::stop_on_signals().context("failed to catch signals")?;
    let lines = Arc::new(Lines::to_stderr());
    Ok(Session::open(options, lines.clone(), vec![lines], stop).await?)
}
