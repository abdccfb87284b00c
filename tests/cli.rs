//! The command line of the built program, as far as it needs no lab.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;

use assert_cmd::Command;
use predicates::prelude::*;
use tempfile::TempDir;

fn xtask() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    for name in ["LAB_ACCEL", "LAB_QEMU", "LAB_CPU", "LAB_SCENARIOS"] {
        command.env_remove(name);
    }
    command
}

/// A folder with one lab and one scenario of the given text.
fn folder(scenario: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("labs")).unwrap();
    let lab = "summary = \"No controller\"\niommu = \"none\"\n";
    fs::write(folder.path().join("labs/bare.toml"), lab).unwrap();
    fs::write(folder.path().join("one.toml"), scenario).unwrap();
    folder
}

#[test]
fn help_names_the_exit_codes() {
    xtask()
        .arg("--help")
        .assert()
        .success()
        .stdout(predicate::str::contains("Exit codes").and(predicate::str::contains("130")));
}

#[test]
fn the_catalogue_is_listed_with_what_each_scenario_shows() {
    xtask()
        .args(["lab", "--list", "procedure"])
        .assert()
        .success()
        .stdout(predicate::str::contains("procedure-isolated"));
}

#[test]
fn a_name_that_no_scenario_has_runs_nothing() {
    xtask()
        .args(["lab", "--exact", "proceduer"])
        .assert()
        .code(4)
        .stderr(predicate::str::contains("proceduer").and(predicate::str::contains("procedure")));
}

#[test]
fn a_wrong_flag_is_code_2() {
    xtask().args(["lab", "--acel", "tcg"]).assert().code(2);
    xtask()
        .args(["lab", "--accel", "hvf"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("auto").and(predicate::str::contains("tcg")));
}

#[test]
fn a_mistake_in_a_scenario_is_shown_with_its_place_and_the_right_name() {
    let folder = folder("summary = \"x\"\nlab = \"bare\"\n\n[[step]]\nrebot = true\n");
    xtask()
        .args(["lab", "--scenarios"])
        .arg(folder.path())
        .assert()
        .code(3)
        .stderr(predicate::str::contains("one.toml:5").and(predicate::str::contains("reboot")));
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let folder = folder("summary = \"x\"\nlab = \"bare\"\n\n[[step]]\nreboot = true\n");
    xtask()
        .args(["lab", "--cache", "/proc/no-such-place", "--scenarios"])
        .arg(folder.path())
        .assert()
        .code(3)
        .stderr(predicate::str::contains("/proc/no-such-place"));
}

#[test]
fn a_new_scenario_is_one_that_loads() {
    let folder = folder("summary = \"x\"\nlab = \"bare\"\n\n[[step]]\nreboot = true\n");
    fs::copy(
        concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../scenarios/labs/q35-ich9.toml"
        ),
        folder.path().join("labs/q35-ich9.toml"),
    )
    .unwrap();
    let new = |name: &str| {
        let mut command = xtask();
        command
            .env("LAB_SCENARIOS", folder.path())
            .args(["lab", "new", name]);
        command
    };
    new("my-board")
        .assert()
        .success()
        .stdout(predicate::str::contains("my-board.toml"));
    xtask()
        .env("LAB_SCENARIOS", folder.path())
        .args(["lab", "--list"])
        .assert()
        .success()
        .stdout(predicate::str::contains("my-board"));
    new("my-board")
        .assert()
        .code(3)
        .stderr(predicate::str::contains("is there already"));
    new("../x")
        .assert()
        .code(3)
        .stderr(predicate::str::contains("cannot name a scenario"));
}
