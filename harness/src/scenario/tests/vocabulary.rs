//! A scenario can do nothing on L0. What it can say is listed here in full, so that whoever adds a
//! word has to come by and think about which machine it acts on.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::file::{ACTIONS, ScenarioFile};
use super::super::{CHECKS, Expect};

fn schema() -> Value {
    schemars::schema_for!(ScenarioFile).to_value()
}

fn keys(schema: &Value) -> Vec<&str> {
    let properties = schema["properties"].as_object().unwrap();
    properties.keys().map(String::as_str).collect()
}

#[test]
fn the_vocabulary_acts_inside_the_lab_only() {
    let schema = schema();
    assert_eq!(keys(&schema), ["draft", "expect", "lab", "step", "summary"]);
    for (table, words) in [
        // The files and commands of these are the guests': the engine hands them to the agents.
        (
            "Step",
            "append as config cut-during disk-error disk-lost expect measure nvme-warning panic power-cut \
             power-cuts probe reallocated-sectors reboot reset rewire run set start stop swap-serials title unplug wait-for write",
        ),
        ("SetTable", "file key value"),
        ("AppendTable", "file lines"),
        ("WriteTable", "content file"),
        ("RunTable", "command exit on same-as save"),
        ("ConfigTable", "line vm"),
        // The machine is the lab's, the commands and paths are the guests', the files of a cut are the run's.
        ("DiskError", "blocks on serial"),
        ("NvmeWarning", "serial warnings"),
        ("CutDuring", "command when-exists"),
        ("PowerCuts", "cuts flushes pool seed"),
        ("Measure", "against device save"),
        // These only look.
        ("Closing", "failure findings nas possible-findings pve"),
        ("ExpectedFailure", "check contains kind"),
        ("Expect", "nas pve"),
    ] {
        assert_eq!(keys(&schema["$defs"][table]).join(" "), words, "{table}");
    }
    let guests: Vec<&str> = schema["$defs"]["GuestName"]["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|guest| guest["const"].as_str().unwrap())
        .collect();
    assert_eq!(guests, ["pve", "nas"]);
}

#[test]
fn every_table_of_the_file_is_listed_above_or_only_looks() {
    let schema = schema();
    let tables: BTreeSet<&str> = schema["$defs"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, schema)| schema["properties"].is_object())
        .map(|(name, _)| name.as_str())
        .collect();
    let known = "AppendTable Closing ConfigTable CutDuring DiskError Expect ExpectNas ExpectPve \
                 ExpectedFailure Measure NvmeWarning PoolExpectation PowerCuts RunTable SetTable Step \
                 WriteTable";
    assert_eq!(tables, known.split_whitespace().collect());
}

#[test]
fn actions_are_the_keys_of_a_step() {
    let schema = schema();
    let actions: BTreeSet<&str> = keys(&schema["$defs"]["Step"])
        .into_iter()
        .filter(|key| !["title", "as"].contains(key))
        .collect();
    assert_eq!(actions, ACTIONS.iter().copied().collect());
}

#[test]
fn checks_are_the_keys_of_an_expectation() {
    let schema = schema();
    let mut checks = BTreeSet::new();
    for (prefix, table) in [("pve", "ExpectPve"), ("nas", "ExpectNas")] {
        for key in keys(&schema["$defs"][table]) {
            checks.insert(format!("{prefix}.{key}"));
        }
    }
    assert_eq!(
        checks,
        CHECKS.iter().map(|name| (*name).to_owned()).collect()
    );

    let all: Expect = toml::from_str(
        r#"
        pve.firmware = "uefi"
        pve.cmdline = ["quiet"]
        pve.iommu = "intel"
        pve.dmesg-iommu = ["DMAR"]
        pve.iommu-group."00:1f.2" = []
        pve.driver."00:1f.2" = "none"
        pve.reset-method."00:1f.2" = []
        pve.module.ahci = false
        pve.disks = []
        pve.group-listing-matches-loop = true
        nas.disks = []
        nas.smart = "passed"
        nas.family = "Seagate Exos X14"
        nas.boot-disk = "QEMU HARDDISK"
        nas.pool = { name = "tank", state = "ONLINE" }
        "#,
    )
    .unwrap();
    assert_eq!(all.checks(), CHECKS);
    assert_eq!(Expect::default().checks(), Vec::<&str>::new());
}

/// Editors show the descriptions: a word without one leaves its author alone.
#[test]
fn every_word_is_explained() {
    fn walk(schema: &Value, path: &str, missing: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if property["description"].as_str().is_none_or(str::is_empty) {
                missing.push(format!("{path}.{name}"));
            }
        }
        for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
            walk(definition, name, missing);
        }
    }
    let mut missing = Vec::new();
    walk(&schema(), "", &mut missing);
    walk(
        &schemars::schema_for!(crate::lab::Lab).to_value(),
        "",
        &mut missing,
    );
    assert_eq!(missing, Vec::<String>::new());
}
