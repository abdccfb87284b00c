//! The command line of the built program, as far as it needs no lab.

mod support;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use assert_cmd::Command;
use predicates::prelude::*;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use support::{Heard, Running};

fn xtask() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    for name in [
        "LAB_ACCEL",
        "LAB_QEMU",
        "LAB_CPU",
        "LAB_SCENARIOS",
        "LAB_DENY_SKIPS",
    ] {
        command.env_remove(name);
    }
    command
}

/// A folder with one lab and one scenario of the given text.
fn folder(scenario: &str) -> TempDir {
    support::scenarios("one", scenario)
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
fn a_reader_that_has_seen_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_xtask"));
    let child = command
        .arg("findings")
        .stdout(writer)
        .stderr(Stdio::piped());
    let output = child.output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
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
fn a_matrix_without_such_a_run_measures_nothing_and_names_what_there_is() {
    xtask()
        .args(["lab", "matrix", "--only", "without-vfoi"])
        .assert()
        .code(4)
        .stderr(
            predicate::str::contains("pve9-no-vtd").and(predicate::str::contains("vfio-virqfd")),
        );
}

#[test]
fn a_matrix_names_the_machine_that_has_no_file() {
    let folder = folder("summary = \"x\"\nlab = \"bare\"\n\n[[step]]\nreboot = true\n");
    xtask()
        .args(["lab", "matrix", "--scenarios"])
        .arg(folder.path())
        .assert()
        .code(3)
        .stderr(predicate::str::contains("there is no lab `q35-ich9`"));
}

#[test]
fn facts_are_taken_over_from_the_newest_run_and_without_one_it_is_said() {
    let cache = tempfile::tempdir().unwrap();
    let record = || {
        let mut command = xtask();
        command.args(["findings", "--record"]);
        command.env("LAB_CACHE", cache.path()).assert().code(3)
    };
    record().stderr(predicate::str::contains("runs"));
    let run = cache.path().join("runs/20261127T000000Z-1");
    fs::create_dir_all(&run).unwrap();
    record().stderr(predicate::str::contains("events.jsonl"));
    fs::write(run.join("events.jsonl"), "").unwrap();
    record().stderr(predicate::str::contains("has no facts of any scenario"));
    // Facts of a failure prove nothing of what the scenario is about.
    fs::create_dir(run.join("procedure")).unwrap();
    fs::write(run.join("procedure/fact-book.json"), "{}").unwrap();
    record().stderr(predicate::str::contains("left out `procedure`"));
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

/// clap takes it for a filter, and the call would run scenarios.
#[test]
fn a_subcommand_after_its_options_is_answered_with_what_to_write() {
    let cache = tempfile::tempdir().unwrap();
    let folder = folder("summary = \"x\"\nlab = \"bare\"\n\n[[step]]\nreboot = true\n");
    let options = [
        "--scenarios".as_ref(),
        folder.path().as_os_str(),
        "--list".as_ref(),
    ];
    for (words, usage) in [
        (vec!["up", "one"], "lab up [OPTIONS] <SCENARIO[@STEP]>"),
        (vec!["new", "two"], "lab new [OPTIONS] <NAME>"),
        (vec!["one", "down"], "lab down [OPTIONS]"),
    ] {
        xtask()
            .arg("lab")
            .args(options)
            .args(words)
            .env("LAB_CACHE", cache.path())
            .assert()
            .code(2)
            .stderr(
                predicate::str::contains("before its options")
                    .and(predicate::str::contains(format!("cargo xtask {usage}"))),
            );
    }
}

/// Many who write Rust have RUST_BACKTRACE set.
#[test]
fn an_error_is_told_without_a_stack_trace() {
    let cache = tempfile::tempdir().unwrap();
    let folder = folder("summary = \"x\"\nlab = \"bare\"\n\n[[step]]\nrebot = true\n");
    let told = |arguments: &[&str], backtrace: &str| {
        let mut command = xtask();
        command
            .args(arguments)
            .env("LAB_CACHE", cache.path())
            .env("LAB_SCENARIOS", folder.path())
            .env("RUST_BACKTRACE", backtrace);
        let output = command.assert().code(3).get_output().clone();
        String::from_utf8(output.stderr).unwrap()
    };
    for (arguments, says) in [
        (
            &["lab", "down"][..],
            "error: no lab is up; bring one up with",
        ),
        (
            &["doctor", "--facts", "/proc/no-such-place"],
            "error: failed to read /proc/no-such-place\n\nCaused by:\n    No such file",
        ),
        (
            &["lab", "--list"],
            "error: one mistake in the scenario files\n  × unknown key `rebot` in `step`\n   ╭─[",
        ),
    ] {
        let with = told(arguments, "1");
        assert!(with.starts_with(says), "{with}");
        assert_eq!(with, told(arguments, "0"));
    }
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
    for name in ["../x", "-a", "a--b", "a-", "", "A"] {
        let mut command = xtask();
        command.env("LAB_SCENARIOS", folder.path());
        let answer = command.args(["lab", "new", "--", name]).assert().code(3);
        answer.stderr(predicate::str::contains("cannot name a scenario"));
    }
    fs::create_dir(folder.path().join("boards")).unwrap();
    fs::rename(
        folder.path().join("my-board.toml"),
        folder.path().join("boards/my-board.toml"),
    )
    .unwrap();
    new("my-board")
        .assert()
        .code(3)
        .stderr(predicate::str::contains(
            "boards/my-board.toml is there already",
        ));
    xtask()
        .args(["lab", "new", "elsewhere", "--scenarios"])
        .arg(folder.path())
        .assert()
        .success();
    assert!(folder.path().join("elsewhere.toml").exists());
}

#[test]
fn watching_shows_mistakes_and_waits_for_the_save_that_mends_them() {
    let broken = "summary = \"x\"\nlab = \"bare\"\n\n[[step]]\nrebot = true\n";
    let folder = folder(broken);
    let mut program = Running::start(
        std::process::Command::new(env!("CARGO_BIN_EXE_xtask"))
            .stdout(Stdio::null())
            .args(["lab", "watch", "one", "--scenarios"])
            .arg(folder.path())
            .stderr(Stdio::piped()),
    );
    let heard = Heard::of(program.0.stderr.take().unwrap());
    let says = |words: &str| heard.says(words, Duration::from_secs(20));
    says("one.toml:5");
    let worse = format!("{broken}\n[[step]]\nruun = \"true\"\n");
    fs::write(folder.path().join("one.toml"), worse).unwrap();
    says("ruun");
    // As some editors save: another file takes its place.
    let elsewhere = folder.path().join("one.toml~");
    fs::write(&elsewhere, "summry = \"x\"\n").unwrap();
    fs::rename(elsewhere, folder.path().join("one.toml")).unwrap();
    says("summry");
    kill_process(program.pid(), Signal::INT).unwrap();
    assert_eq!(program.0.wait().unwrap().code(), Some(130));
}

#[test]
fn what_needs_a_lab_that_is_up_says_that_there_is_none() {
    let cache = tempfile::tempdir().unwrap();
    for words in [
        vec!["shell", "pve"],
        vec!["cp", "pve:/etc/modules", "."],
        vec!["down"],
    ] {
        xtask()
            .arg("lab")
            .args(words)
            .env("LAB_CACHE", cache.path())
            .assert()
            .code(3)
            .stderr(
                predicate::str::contains("no lab is up").and(predicate::str::contains("lab up")),
            );
    }
    xtask()
        .args(["lab", "cp", "one", "two"])
        .env("LAB_CACHE", cache.path())
        .assert()
        .code(3)
        .stderr(predicate::str::contains("pve:PATH"));
}

#[test]
fn a_step_that_is_not_there_is_answered_with_those_that_are() {
    let folder = folder("summary = \"x\"\nlab = \"bare\"\n\n[[step]]\nreboot = true\n");
    let up = |place: &str| {
        let mut command = xtask();
        command
            .env("LAB_SCENARIOS", folder.path())
            .args(["lab", "up", place]);
        command
    };
    up("one@snapshot")
        .assert()
        .code(3)
        .stderr(predicate::str::contains("1  reboot").or(predicate::str::contains("1  Reboot")));
    up("two").assert().code(4);
}
