//! The rules of findings against the catalogue: on the facts of each scenario's end, as a run recorded
//! them under `scenarios/facts/`, exactly those rules fire that the scenario names, and every rule is
//! proven by a scenario.
//!
//! `cargo xtask findings --record` takes those facts over from a run.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use harness::finding::{self, FactBook, Finding};
use harness::scenario::{self, Scenario};

fn catalogue() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios"))
}

fn scenarios() -> Vec<Scenario> {
    scenario::load_dir(catalogue()).unwrap()
}

/// A draft is none of a run's, so nothing was recorded of it. A rule that only a draft names waits for it.
fn is_run(scenario: &Scenario) -> bool {
    scenario.draft.is_none()
}

fn recorded(scenario: &str) -> PathBuf {
    catalogue().join("facts").join(format!("{scenario}.json"))
}

/// What the rules find at the end of a scenario.
fn found(scenario: &str) -> Result<Vec<Finding>, String> {
    let path = recorded(scenario);
    let unread = |error: &dyn std::error::Error| {
        format!(
            "{}: {error}; run the scenario and take its facts over with `cargo xtask findings --record`",
            path.display()
        )
    };
    let text = fs::read_to_string(&path).map_err(|error| unread(&error))?;
    let book = FactBook::from_json(&text).map_err(|error| unread(&error))?;
    Ok(finding::derive(&book))
}

#[test]
fn each_scenario_has_the_findings_that_it_names_and_no_other() {
    let mut wrong = String::new();
    for scenario in scenarios().into_iter().filter(is_run) {
        let Some(expected) = &scenario.findings else {
            writeln!(wrong, "{} names no findings", scenario.name).unwrap();
            continue;
        };
        let findings = match found(&scenario.name) {
            Ok(findings) => findings,
            Err(unread) => {
                writeln!(wrong, "{unread}").unwrap();
                continue;
            }
        };
        let (missing, surplus) = expected.differences(&findings);
        for id in missing {
            writeln!(wrong, "{id} does not fire in {}", scenario.name).unwrap();
        }
        for id in surplus {
            writeln!(wrong, "{id} is a false alarm in {}", scenario.name).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn each_rule_is_proven_by_a_scenario() {
    let named: BTreeSet<String> = scenarios()
        .into_iter()
        .filter_map(|scenario| scenario.findings)
        .flat_map(|findings| findings.named)
        .collect();
    let missing: Vec<&str> = finding::rules()
        .map(|rule| rule.id)
        .filter(|id| !named.contains(*id))
        .collect();
    assert!(missing.is_empty(), "no scenario proves {missing:?}");
}

#[test]
fn no_facts_are_left_of_a_scenario_that_is_gone() {
    let names: BTreeSet<String> = scenarios().into_iter().map(|one| one.name).collect();
    for entry in fs::read_dir(catalogue().join("facts")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(names.contains(name), "{} is of no scenario", path.display());
    }
}

/// Notes need not be named. Where they come is reviewed here, with all the others.
#[test]
fn where_each_rule_fires_is_as_it_was_reviewed() {
    let mut matrix: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for scenario in scenarios().into_iter().filter(is_run) {
        for one in found(&scenario.name).unwrap() {
            let severity = one.severity.to_string();
            let scenarios = matrix.entry(one.id).or_default();
            scenarios.push(format!("{} ({severity})", scenario.name));
        }
    }
    insta::assert_json_snapshot!("where-rules-fire", matrix);
}
