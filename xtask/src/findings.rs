//! `cargo xtask findings`: what the lab and the doctor can find, and what each of it means; and taking
//! over what a run read, for the test that holds the rules against the whole catalogue.

use std::fs;
use std::path::{Path, PathBuf};

use anstream::{eprintln, println};
use anyhow::{Context, bail};
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use harness::evidence;
use harness::finding::{self, FactBook, Rule};
use harness::scenario;
use scenarios::{CacheFolder, ScenariosFolder};

use crate::exit::Exit;

#[derive(Debug, Args)]
pub struct FindingsCommand {
    /// Explains this one.
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Takes the facts that a run read at the end of each scenario that held over into `facts/` beside the
    /// scenarios: those of the newest run, or of the run with this folder.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["id", "json"])]
    record: Option<Option<PathBuf>>,
    #[command(flatten)]
    cache: CacheFolder,
    #[command(flatten)]
    folder: ScenariosFolder,
}

pub fn run(command: FindingsCommand) -> anyhow::Result<Exit> {
    if let Some(run) = command.record {
        let run = match run {
            Some(run) => run,
            None => newest_run(&command.cache)?,
        };
        return record(&run, command.folder.path());
    }
    match command.id.as_deref() {
        None => list(command.json),
        Some(id) => match finding::rule(id) {
            Some(rule) if command.json => println!("{:#}", json(rule)),
            Some(rule) => explain(rule),
            None => {
                let advice = finding::advice(id)
                    .unwrap_or_else(|| "`cargo xtask findings` lists them".to_owned());
                eprintln!("there is no finding `{id}`; {advice}");
                return Ok(Exit::NothingRan);
            }
        },
    }
    Ok(Exit::Held)
}

fn newest_run(cache: &CacheFolder) -> anyhow::Result<PathBuf> {
    let runs = cache.open()?.root().join("runs");
    let folders = fs::read_dir(&runs).with_context(|| format!("failed to list {}", runs.display()));
    // A run's name begins with its time.
    folders?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_dir())
        .max()
        .with_context(|| format!("there is no run in {}", runs.display()))
}

/// The name that the engine gives to a scenario's facts in the evidence.
const BOOK: &str = "fact-book.json";

fn record(run: &Path, catalogue: &Path) -> anyhow::Result<Exit> {
    let scenarios =
        scenario::load_dir(catalogue).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let held = evidence::held_in(run)?;
    let facts = catalogue.join("facts");
    fs::create_dir_all(&facts).with_context(|| format!("failed to make {}", facts.display()))?;
    let mut taken = 0;
    for one in &scenarios {
        let book = run.join(&one.name).join(BOOK);
        let text = match fs::read_to_string(&book) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("failed to read {}", book.display()));
            }
        };
        if !held.contains(&one.name) {
            eprintln!("left out `{}`, which did not hold", one.name);
            continue;
        }
        // What this program cannot read is no use to the test.
        FactBook::from_json(&text).with_context(|| format!("failed to read {}", book.display()))?;
        let to = facts.join(format!("{}.json", one.name));
        fs::write(&to, text).with_context(|| format!("failed to write {}", to.display()))?;
        taken += 1;
    }
    if taken == 0 {
        bail!("{} has no facts of any scenario that held", run.display());
    }
    println!(
        "took over the facts of {taken} of {} scenarios from {}",
        scenarios.len(),
        run.display()
    );
    Ok(Exit::Held)
}

fn list(as_json: bool) {
    if as_json {
        let all: serde_json::Value = finding::rules().map(json).collect();
        println!("{all:#}");
        return;
    }
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["finding", "severity", "cause"]);
    for rule in finding::rules() {
        table.add_row([rule.id, &rule.severity.to_string(), rule.summary]);
    }
    println!("{table}");
}

fn explain(rule: &Rule) {
    println!(
        "{} ({})\n\n{}.\n",
        rule.id,
        rule.severity,
        capital(rule.summary)
    );
    println!("{}\n", rule.explanation);
    println!("{}\n{}", rule.reference.title, rule.reference.url);
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(characters).collect()
}

fn json(rule: &Rule) -> serde_json::Value {
    serde_json::json!({
        "id": rule.id,
        "severity": rule.severity,
        "summary": rule.summary,
        "explanation": rule.explanation,
        "reference": rule.reference,
    })
}
