//! `cargo xtask lab watch`: runs a scenario again whenever its file, or a lab's, was saved, or facts were accepted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anstream::{eprintln, println};
use anyhow::Context;
use clap::Args;
use harness::engine::{Session, SessionError};
use harness::report::Lines;
use harness::scenario::Scenario;
use harness::signals;
use notify::{RecursiveMode, Watcher};
use scenarios::Machine;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::exit::Exit;

/// Editors save in several strokes; it is over when nothing was written for so long.
const QUIET: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct WatchCommand {
    /// The scenario.
    scenario: String,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(command: WatchCommand) -> anyhow::Result<Exit> {
    let runtime = Runtime::new().context("failed to start the runtime")?;
    runtime.block_on(watch(command))
}

async fn watch(command: WatchCommand) -> anyhow::Result<Exit> {
    let mut stop = signals::stop_on_signals().context("failed to catch signals")?;
    let folder = command.machine.scenarios().to_owned();
    let (sender, events) = mpsc::unbounded_channel();
    let mut saves = saves(events);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // What is only read changes nothing; an error may have hidden something.
        if event.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        // The receiver goes with the program.
        let _ = sender.send(());
    })
    .context("failed to watch files")?;
    watcher
        .watch(&folder, RecursiveMode::Recursive)
        .with_context(|| format!("failed to watch {}", folder.display()))?;

    loop {
        let (scenario, held) = load(&command);
        let seen = of(scenario.as_ref(), &folder, held);
        let (cut, cut_short) = watch::channel(false);
        let run = async {
            match &scenario {
                Some(scenario) => once(&command.machine, scenario, cut_short).await,
                None => Ok(()),
            }
        };
        tokio::pin!(run);
        let mut over = false;
        loop {
            tokio::select! {
                biased;
                Ok(_) = stop.wait_for(|stop| *stop) => {
                    cut.send_replace(true);
                    if !over {
                        run.await?;
                    }
                    return Ok(Exit::Interrupted);
                }
                Ok(()) = saves.changed() => {
                    if of(scenario.as_ref(), &folder, contents(&folder)) != seen {
                        break;
                    }
                }
                result = &mut run, if !over => {
                    result?;
                    over = true;
                    println!("\nwaiting for the next save of {}; Ctrl-C ends", command.scenario);
                }
            }
        }
        // What a run had reached is in its checkpoints.
        cut.send_replace(true);
        if !over {
            run.await?;
        }
    }
}

/// Changes once for each save, when that is over.
fn saves(mut events: mpsc::UnboundedReceiver<()>) -> watch::Receiver<()> {
    let (sender, saves) = watch::channel(());
    tokio::spawn(async move {
        while events.recv().await.is_some() {
            while let Ok(Some(())) = timeout(QUIET, events.recv()).await {}
            sender.send_replace(());
        }
    });
    saves
}

/// The scenario, and what its files held before it was read: a save that comes in between is another one.
/// Mistakes are shown: the next save may mend them.
fn load(command: &WatchCommand) -> (Option<Scenario>, Contents) {
    let folder = command.machine.scenarios();
    let name = &command.scenario;
    let held = contents(folder);
    let found = match command.machine.load_scenarios() {
        Ok(scenarios) => {
            let found = scenarios.into_iter().find(|one| one.name == *name);
            if found.is_none() {
                eprintln!("no scenario is called {name}");
            }
            found
        }
        Err(error) => {
            eprintln!("{error:#}");
            None
        }
    };
    (found, held)
}

/// What files hold.
type Contents = BTreeMap<PathBuf, Vec<u8>>;

fn contents(folder: &Path) -> Contents {
    let read = |path: PathBuf| std::fs::read(&path).ok().map(|content| (path, content));
    files(folder).into_iter().filter_map(read).collect()
}

/// The files on which a run depends: the scenario's own, the labs' and its snapshots. While it is not known which file
/// is the scenario's, any could mend it.
fn of(scenario: Option<&Scenario>, folder: &Path, mut files: Contents) -> Contents {
    if let Some(scenario) = scenario {
        let labs = folder.join("labs");
        let snapshots = folder.join("snapshots");
        let facts = format!("{}__", scenario.name);
        let holds_facts = |path: &Path| {
            let name = path.strip_prefix(&snapshots).ok().and_then(Path::to_str);
            name.is_some_and(|name| name.starts_with(&facts))
        };
        files.retain(|path, _| {
            *path == scenario.path || path.starts_with(&labs) || holds_facts(path)
        });
    }
    files
}

/// Scenarios, labs and snapshots. What insta writes for a review is none yet.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&path));
        } else if path
            .extension()
            .is_some_and(|ending| ending == "toml" || ending == "snap")
        {
            found.push(path);
        }
    }
    found
}

/// Runs the scenario to its verdict, or until it is cut short.
async fn once(
    machine: &Machine,
    scenario: &Scenario,
    cut_short: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let lines = Arc::new(Lines::to_stdout());
    let options = machine.clone().options();
    let session = match Session::open(options, lines.clone(), vec![lines], cut_short).await {
        Ok(session) => session,
        Err(SessionError::Interrupted) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    session.run(scenario).await;
    session.finish();
    Ok(())
}
