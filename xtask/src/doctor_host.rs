//! `cargo xtask doctor --host | --ssh | --facts`: what is wrong with a real Proxmox VE host. It is only
//! read, never changed.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anstream::{eprint, eprintln, print, println};
use anyhow::{Context, bail};
use clap::Args;
use harness::finding::{self, FactBook, Finding, HOST_PROBES, Severity};
use harness::guest::{Exec, Guest, Local, Nested, Rehearsal, Ssh};
use harness::report::{render_findings, render_unreadable, summary_of};
use harness::signals;
use tokio::runtime::Runtime;

use crate::exit::Exit;

/// One probe's time: the initramfs of a slow host takes seconds, and nothing takes more.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub struct HostOptions {
    /// Examines this machine, which is a Proxmox VE host.
    #[arg(long, group = "source")]
    host: bool,
    /// Examines a Proxmox VE host through the system's own ssh. Every command is shown before it is run.
    #[arg(long, value_name = "root@HOST", group = "source")]
    ssh: Option<String>,
    /// Examines the facts in a file that `--record` wrote.
    #[arg(long, value_name = "FILE", group = "source")]
    facts: Option<PathBuf>,
    /// Writes the facts to a file that can be posted: serial numbers, names and addresses are masked.
    #[arg(long, value_name = "FILE", requires = "source")]
    record: Option<PathBuf>,
    /// Does not ask before the commands are run.
    #[arg(long, requires = "source")]
    yes: bool,
    /// Prints the findings as JSON.
    #[arg(long, requires = "source")]
    json: bool,
}

impl HostOptions {
    /// Whether a host is to be examined, and not the machine for the lab.
    pub fn wanted(&self) -> bool {
        self.host || self.ssh.is_some() || self.facts.is_some()
    }
}

pub fn run(options: HostOptions) -> anyhow::Result<Exit> {
    let book = match &options.facts {
        Some(file) => read(file)?,
        None => {
            let runtime = Runtime::new().context("failed to start the runtime")?;
            let gathered = runtime.block_on(async {
                let mut stop = signals::stop_on_signals().context("failed to catch signals")?;
                tokio::select! {
                    book = gather(&options) => book.map(Some),
                    _ = stop.wait_for(|stop| *stop) => Ok(None),
                }
            })?;
            match gathered {
                Some(Some(book)) => book,
                // Somebody answered no.
                Some(None) => return Ok(Exit::NothingRan),
                None => return Ok(Exit::Interrupted),
            }
        }
    };
    if book.facts.probes().is_empty() {
        eprint!("{}", render_unreadable(&book.unreadable));
        bail!("nothing could be read of this host");
    }
    if let Some(file) = &options.record {
        let masked = finding::mask(&book).context("failed to mask the facts")?;
        std::fs::write(file, masked.to_json())
            .with_context(|| format!("failed to write {}", file.display()))?;
        eprintln!(
            "recorded in {}, serial numbers, names and addresses masked",
            file.display()
        );
    }
    let findings = finding::derive(&book);
    report(&book, &findings, options.json);
    let errors = findings.iter().any(|one| one.severity == Severity::Error);
    Ok(if errors { Exit::Failed } else { Exit::Held })
}

fn read(file: &Path) -> anyhow::Result<FactBook> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("failed to read {}", file.display()))?;
    FactBook::from_json(&text).with_context(|| format!("{} cannot be used", file.display()))
}

/// The facts of the host; none where a person did not want the commands to be run.
async fn gather(options: &HostOptions) -> anyhow::Result<Option<FactBook>> {
    let Some(destination) = &options.ssh else {
        return examine(&Local).await.map(Some);
    };
    for command in commands().await {
        eprintln!("{}\n----", command.trim());
    }
    eprintln!("These commands are run on {destination}. They read; nothing on it is changed.");
    let terminal = std::io::stdin().is_terminal();
    if terminal && !options.yes && !confirmed()? {
        return Ok(None);
    }
    let ssh = Ssh::connect(destination, !terminal).await?;
    examine(&ssh).await.map(Some)
}

/// What would be run, from the same code that runs it.
async fn commands() -> Vec<String> {
    let rehearsal = Rehearsal::default();
    // Everything is refused and noted.
    let _ = user_id(&rehearsal).await;
    let _ = finding::gather(&HOST_PROBES, &rehearsal, None::<&Nested>, LIMIT, |_| {}).await;
    rehearsal.commands()
}

fn confirmed() -> anyhow::Result<bool> {
    eprint!("Go on? [y/N] ");
    std::io::stderr().flush().context("failed to ask")?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("failed to read the answer")?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

async fn examine<G: Guest>(host: &G) -> anyhow::Result<FactBook> {
    if let Some(id) = user_id(host).await.filter(|id| id != "0") {
        eprintln!(
            "This is not root (user {id}): much of a host is read by root alone, such as its VMs' configurations and the \
             kernel's log. What cannot be read is listed below, and nothing is concluded from it."
        );
    }
    let tell = std::io::stderr().is_terminal();
    let progress = |probe| {
        if tell {
            eprintln!("reading {probe}");
        }
    };
    let book = finding::gather(&HOST_PROBES, host, None::<&Nested>, LIMIT, progress).await;
    book.context("the host went away")
}

/// As whom the commands run; none where the host does not say.
async fn user_id<G: Guest>(host: &G) -> Option<String> {
    let answer = host.run(Exec::new("id", ["-u"], LIMIT)).await.ok()?;
    Some(answer.stdout_text().trim().to_owned())
}

fn report(book: &FactBook, findings: &[Finding], json: bool) {
    if json {
        let document = serde_json::json!({ "findings": findings, "unreadable": book.unreadable });
        println!("{document:#}");
        return;
    }
    print!("{}", render_findings(findings));
    print!("{}", render_unreadable(&book.unreadable));
    let read = book.facts.probes().len();
    println!("{}, from {read} kinds of facts", summary_of(findings));
}
