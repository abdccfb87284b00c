//! `cargo xtask lab up` and `down`: a lab that stays for a person.
//!
//! The lab is held by a process of its own, this program called again with a hidden flag. The two are tied
//! by a socket until the lab is up: whoever interrupts or kills the first one ends the second one too.
//! After that the second one goes on alone, and its machine dies with it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anstream::{eprintln, print, println};
use anyhow::{Context, anyhow};
use clap::Args;
use harness::engine::{HoldError, Session, SessionError};
use harness::held::{self, End, Notice, Place, Request, Seat, SuperviseError};
use harness::report::{Lines, render_failure};
use harness::scenario::Scenario;
use harness::signals;
use scenarios::{CacheFolder, Machine};
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::exit::Exit;

/// What the process that holds the lab writes when it is up, besides events: beside them in the run's folder.
const LOG: &str = "held.log";

#[derive(Debug, Args)]
pub struct UpCommand {
    /// The scenario and, if it is not to be all of it, the step after which the lab is to stand: a number
    /// (0: as it is switched on) or a part of the step's title.
    #[arg(value_name = "SCENARIO[@STEP]")]
    place: Place,
    /// Is the process that holds the lab.
    #[arg(long, hide = true)]
    hold: bool,
    #[command(flatten)]
    machine: Machine,
}

pub fn up(command: UpCommand) -> anyhow::Result<Exit> {
    let scenarios = command.machine.load_scenarios()?;
    let name = &command.place.scenario;
    let Some(scenario) = scenarios.iter().find(|one| one.name == *name) else {
        eprintln!("no scenario is called {name}; `cargo xtask lab --list` shows all");
        return Ok(Exit::NothingRan);
    };
    let step = command.place.step_of(scenario)?;
    let runtime = Runtime::new().context("failed to start the runtime")?;
    match command.hold {
        true => runtime.block_on(hold(command.machine, scenario, step)),
        false => runtime.block_on(start()),
    }
}

/// Starts the process that holds the lab, and waits until that is up or has failed.
async fn start() -> anyhow::Result<Exit> {
    let mut stop = signals::stop_on_signals().context("failed to catch signals")?;
    let (ours, theirs) = UnixStream::pair().context("failed to make a socket")?;
    let program = std::env::current_exe().context("failed to find this program")?;
    let words = std::env::args_os()
        .skip(1)
        .chain([OsString::from("--hold")]);
    let mut holder = Command::new(program)
        .args(words)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .context("failed to start the process that holds the lab")?;
    let tether = ours.try_clone().context("failed to use a socket")?;
    let news = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(tether).read_line(&mut line).map(|_| line)
    });
    let interrupted = async {
        // A sender that is gone can no longer stop anything.
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending().await
        }
    };
    let line = tokio::select! {
        () = interrupted => {
            // The other side takes that for the request to stop.
            let _ = ours.shutdown(std::net::Shutdown::Both);
            String::new()
        }
        line = news => line.context("failed to wait for the lab")?.unwrap_or_default(),
    };
    if line.is_empty() {
        let status = holder.wait().context("failed to wait for the lab's end")?;
        return Ok(Exit::of_process(status));
    }
    let notice: Notice = serde_json::from_str(&line).context("the lab made no sense")?;
    print!("{}", welcome(&notice));
    Ok(match notice.stopped_by {
        Some(_) => Exit::Failed,
        None => Exit::Held,
    })
}

fn welcome(notice: &Notice) -> String {
    let mut text = String::new();
    if let Some(failure) = &notice.stopped_by {
        text.push_str(&format!("\n{}", failure.trim_end()));
        text.push_str("\n\nthe lab stays as that left it: ");
    } else {
        text.push_str("\nthe lab is up: ");
    }
    text.push_str(&notice.in_short());
    text.push_str(
        "
  cargo xtask lab shell pve              a terminal on the host; `-- COMMAND` runs one command
  cargo xtask lab shell nas              the same in the NAS, if it runs
  cargo xtask lab cp pve:/etc/modules .  copies files and folders out of a guest, or into one
  cargo xtask lab down                   ends it
",
    );
    text
}

/// Holds the lab. Its standard input is the socket to the process that waits for it.
async fn hold(machine: Machine, scenario: &Scenario, step: usize) -> anyhow::Result<Exit> {
    // A terminal that is closed, and Ctrl-C in it, are none of the lab's business once it is up.
    rustix::process::setsid().context("failed to leave the terminal")?;
    let tether = std::io::stdin().as_fd().try_clone_to_owned();
    let tether = UnixStream::from(tether.context("failed to use a socket")?);
    let cache = machine.cache.open()?;
    let seat = Seat::take(cache.root())?;
    let program = std::env::current_exe().context("failed to find this program")?;

    let (stop, is_tied) = stop_when_cut(&tether)?;
    let lines = Arc::new(Lines::to_stdout());
    let session = match Session::open(machine.options(), lines.clone(), vec![lines], stop).await {
        Ok(session) => session,
        Err(SessionError::Interrupted) => return Ok(Exit::Interrupted),
        Err(error) => return Err(error.into()),
    };
    let log = session.folder().join(LOG);
    let ready = |notice: &Notice| {
        is_tied.send_replace(false);
        // Without a log the lab is as good; without somebody who waits too.
        let _ = write_to(&log);
        let _ = tell(&tether, notice);
    };
    match held::supervise(&session, scenario, step, &seat, &program, ready).await {
        Ok(End::Down) => Ok(Exit::Held),
        Ok(End::MachineEnded(status)) => {
            eprintln!("the machine was switched off, or QEMU died: {status}");
            Ok(Exit::Held)
        }
        Err(SuperviseError::Hold(HoldError::Interrupted)) => Ok(Exit::Interrupted),
        Err(SuperviseError::Hold(HoldError::Failed(verdict))) => {
            let folder = session.folder().join(&scenario.name);
            eprintln!("{}", render_failure(&verdict, &folder).trim_end());
            eprintln!("the machine is gone: there is nothing to look at but the evidence");
            Ok(Exit::Failed)
        }
        Err(error) => Err(error.into()),
    }
}

/// Becomes `true` on a signal, and when the tether is cut while it is tied; it is until told otherwise.
fn stop_when_cut(
    tether: &UnixStream,
) -> anyhow::Result<(watch::Receiver<bool>, watch::Sender<bool>)> {
    let mut signals = signals::stop_on_signals().context("failed to catch signals")?;
    let other_end = tether.try_clone().context("failed to use a socket")?;
    other_end
        .set_nonblocking(true)
        .context("failed to use a socket")?;
    let mut other_end =
        tokio::net::UnixStream::from_std(other_end).context("failed to use a socket")?;
    let (stop, stopped) = watch::channel(false);
    let (is_tied, tied) = watch::channel(true);
    tokio::spawn(async move {
        let cut = async {
            // Nothing is ever said on it: it ends.
            let _ = other_end.read(&mut [0]).await;
            if !*tied.borrow() {
                std::future::pending().await
            }
        };
        tokio::select! {
            _ = signals.wait_for(|stop| *stop) => {}
            () = cut => {}
        }
        stop.send_replace(true);
        // Whoever still looks at it finds what it said last.
        stop.closed().await;
    });
    Ok((stopped, is_tied))
}

fn tell(mut tether: &UnixStream, notice: &Notice) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(notice)?;
    line.push(b'\n');
    // It does not block, and a line fits into its buffer.
    tether.write_all(&line)
}

/// From now on output goes to a file: whoever waits for the end of this program's output waits no longer.
fn write_to(log: &Path) -> std::io::Result<()> {
    let log = std::fs::File::create(log)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    Ok(())
}

pub fn down(cache: &CacheFolder) -> anyhow::Result<Exit> {
    let cache = cache.open()?;
    let notice = Notice::find(cache.root())?;
    held::ask(&notice.control, Request::Down)
        .map_err(|error| anyhow!("{error}; its process is {}", notice.process))?;
    Seat::wait_until_free(cache.root())?;
    println!("the lab is down: {}", notice.in_short());
    println!("evidence: {}", notice.folder.display());
    Ok(Exit::Held)
}
