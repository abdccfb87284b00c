//! `cargo xtask findings`: what the lab and the doctor can find, and what each of it means.

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use harness::finding::{self, Rule};

use crate::exit::Exit;

#[derive(Debug, Args)]
pub struct FindingsCommand {
    /// Explains this one.
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(command: FindingsCommand) -> anyhow::Result<Exit> {
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
