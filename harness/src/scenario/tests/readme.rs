//! Authors write by the tables of `scenarios/README.md`: they name what there is and nothing else, and their
//! examples are right.

use strum::IntoEnumIterator;

use super::super::file::ACTIONS;
use super::super::load::parse;
use super::super::{Action, Awaited, CHECKS, FailureKind, Labs, Scenario};
use super::catalogue;
use crate::accel::Deadlines;
use crate::engine::NAS_CONFIG;
use crate::lab::{Drive, Lab};
use crate::probe::Probe;

/// The text under a heading.
fn section(heading: &str) -> String {
    let text = std::fs::read_to_string(catalogue().join("README.md")).unwrap();
    let title = format!("## {heading}");
    let lines = text.lines().skip_while(|line| *line != title).skip(1);
    let lines: Vec<&str> = lines.take_while(|line| !line.starts_with("## ")).collect();
    lines.join("\n")
}

/// The rows under a heading whose first cell is a name: the name, and the second cell.
fn rows(heading: &str) -> Vec<(String, String)> {
    let row = |line: &str| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let cell = rest.split(" |").next()?;
        Some((name.to_owned(), cell.to_owned()))
    };
    section(heading).lines().filter_map(row).collect()
}

#[track_caller]
fn check(heading: &str, known: impl IntoIterator<Item = impl ToString>) {
    let mut named: Vec<String> = rows(heading).into_iter().map(|(name, _)| name).collect();
    named.sort();
    let mut known: Vec<String> = known.into_iter().map(|one| one.to_string()).collect();
    known.sort();
    assert_eq!(named, known, "the table under `{heading}`");
}

/// The words that an enumeration has in a file.
fn words<T: schemars::JsonSchema>() -> Vec<String> {
    let schema = schemars::schema_for!(T).to_value();
    let choices = schema["oneOf"].as_array().unwrap().iter();
    choices
        .map(|one| one["const"].as_str().unwrap().to_owned())
        .collect()
}

/// All keys that a lab's file can have.
fn keys_of_a_lab() -> Vec<String> {
    let schema = schemars::schema_for!(Lab).to_value();
    let parts = [
        ("", &schema),
        ("controller.", &schema["$defs"]["Controller"]),
        ("controller.disk.", &schema["$defs"]["Disk"]),
    ];
    let keys = parts.iter().flat_map(|(prefix, part)| {
        let properties = part["properties"].as_object().unwrap();
        properties.keys().map(move |key| format!("{prefix}{key}"))
    });
    keys.collect()
}

fn labs() -> Labs {
    Labs::load(&catalogue().join("labs")).unwrap()
}

#[test]
fn the_tables_name_all_that_there_is_and_nothing_else() {
    check("Steps", ACTIONS);
    check("Values of `wait-for`", words::<Awaited>());
    check("Probes", Probe::iter());
    check("Checks", CHECKS);
    check("Kinds of failure", words::<FailureKind>());
    check("Labs", labs().names());
    check("Keys of a lab", keys_of_a_lab());
}

#[test]
fn every_drive_is_named() {
    let keys = rows("Keys of a lab");
    let (_, drives) = keys
        .iter()
        .find(|(key, _)| key.ends_with(".drive"))
        .unwrap();
    for drive in words::<Drive>() {
        assert!(drives.contains(&format!("`{drive}`")), "{drive}");
    }
}

#[test]
fn the_deadlines_are_those_that_there_are() {
    let rows: Vec<String> = section("Deadlines")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| ")?.strip_suffix(" |")?.to_owned()))
        .skip(1)
        .collect();
    let text = |limit: std::time::Duration| match limit.as_secs() {
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    };
    let limits = |all: Deadlines| {
        [
            all.command,
            all.boot,
            all.shutdown,
            all.nas_start,
            all.nas_silence,
        ]
        .map(text)
    };
    let pairs = limits(Deadlines::KVM)
        .into_iter()
        .zip(limits(Deadlines::TCG));
    for (row, (kvm, emulated)) in rows.iter().zip(pairs) {
        assert!(
            row.ends_with(&format!("| {kvm} | {emulated}")),
            "{row}: {kvm}, {emulated}"
        );
    }
    assert_eq!(rows.len(), 5);
}

#[test]
fn a_probe_is_said_to_be_in_its_guest() {
    for (probe, (name, guest)) in Probe::iter().zip(rows("Probes")) {
        assert_eq!(probe.to_string(), name);
        assert_eq!(format!("`{}`", probe.guest()), guest, "{name}");
    }
}

#[test]
fn a_lab_is_summed_up_in_its_own_words() {
    let labs = labs();
    for (name, summary) in rows("Labs") {
        assert_eq!(summary, labs.get(&name).unwrap().summary, "{name}");
    }
}

/// The scenario of an example, in whichever lab has what it is about.
#[track_caller]
fn example(head: &str, cell: &str) -> Scenario {
    let code: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
    let steps = format!("[[step]]\nstart = 100\n\n{head}\n{}\n", code.join("\n"));
    let labs = labs();
    let mut errors = Vec::new();
    for lab in labs.names() {
        let source = format!("summary = \"s\"\nlab = \"{lab}\"\n\n{steps}");
        match parse("x.toml".as_ref(), &source, &labs) {
            Ok(scenario) => return scenario,
            Err(error) => errors.push(error.to_string()),
        }
    }
    panic!("{cell} is right in no lab: {errors:?}");
}

#[test]
fn the_example_of_an_action_is_one_of_it() {
    for (name, cell) in rows("Steps") {
        assert!(cell.starts_with(&format!("`{name} = ")), "{name}: {cell}");
        assert_eq!(example("[[step]]", &cell).steps.len(), 2, "{name}");
    }
}

#[test]
fn the_example_of_a_check_makes_that_check() {
    for (name, cell) in rows("Checks") {
        let scenario = example("[[step]]\n[step.expect]", &cell);
        let Action::Expect(expect) = &scenario.steps[1].action else {
            panic!("{cell} is no expectation");
        };
        assert_eq!(expect.checks(), [name.as_str()], "{cell}");
    }
}

/// All of it but the consoles and doors, which are the lab's own.
#[test]
fn the_vm_is_configured_as_it_says() {
    let section = section("VM 100");
    let (_, block) = section.split_once("```text\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let config: Vec<&str> = NAS_CONFIG
        .lines()
        .filter(|line| !line.starts_with("args: "))
        .collect();
    assert_eq!(block.lines().collect::<Vec<_>>(), config);
}
