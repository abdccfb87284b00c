//! Checkpoints on the built program and a real machine: what was done is not done again, damage is
//! noticed and made good, and none of it changes a verdict.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use support::{BOOT, Heard, Lab, Running, cache, processes_with, scenarios, turn, wait};

/// A scenario that no run has seen before its last step, which is long enough for a checkpoint, and that
/// looks at its end.
fn new_scenario() -> String {
    new_scenario_after("true")
}

/// The same with something else to do first, which may have been done before.
fn new_scenario_after(first: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mark = now.unwrap().as_nanos();
    format!(
        "summary = \"x\"\nlab = \"bare\"\n\n[[step]]\nrun = \"{first}\"\n\n\
         [[step]]\nrun = \"echo {mark} >/root/mark; sync; sleep 4\"\n\n\
         [[step]]\nprobe = [\"cmdline\", \"pci\", \"host-disks\"]\nas = \"end\"\n\n\
         [[step]]\nrun = \"test $(cat /root/mark) = {mark}\"\n"
    )
}

fn text(event: &Value, key: &str) -> String {
    event[key].as_str().unwrap_or_default().to_owned()
}

/// The last checkpoint that a run took.
fn taken(lab: &Lab) -> String {
    let events = lab.events_of("checkpoint-taken");
    text(
        events.last().expect("no checkpoint was taken"),
        "checkpoint",
    )
}

/// The facts of a run's scenario, as they are held against snapshots.
fn facts(lab: &Lab) -> BTreeMap<String, String> {
    let folder = lab.run_folder().join("fault/facts");
    let files = fs::read_dir(folder).unwrap().flatten();
    let facts: BTreeMap<String, String> = files
        .filter(|file| {
            file.file_name()
                .to_string_lossy()
                .ends_with(".snapshot.json")
        })
        .map(|file| {
            let name = file.file_name().to_string_lossy().into_owned();
            (name, fs::read_to_string(file.path()).unwrap())
        })
        .collect();
    assert!(!facts.is_empty());
    facts
}

/// Whether the question of the third step was not asked again.
fn was_known(lab: &Lab) -> bool {
    let steps = lab.events_of("step-finished");
    let third = steps.iter().find(|event| event["step"] == 3);
    third.expect("the third step did not finish")["recorded"] == true
}

type Harm = fn(&Path);

fn alter(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

#[test]
fn what_was_done_is_not_done_again_and_damage_is_made_good() {
    let scenario = new_scenario();
    let first = Lab::start(&scenario).held();
    let (checkpoint, seen) = (taken(&first), facts(&first));
    drop(first);

    let again = Lab::start(&scenario).held();
    let restored = again.events_of("restored");
    assert_eq!(text(&restored[0], "checkpoint"), checkpoint);
    assert_eq!(facts(&again), seen);
    // This very machine has said it before.
    assert!(was_known(&again));
    drop(again);

    let ways: [(&str, Harm); 5] = [
        ("ram-1.zst", alter),
        ("ram-0.zst", cut),
        ("devices.zst", alter),
        ("meta.json", cut),
        ("disk", alter),
    ];
    let mut checkpoint = checkpoint;
    for (file, harm) in ways {
        let folder = cache().join("checkpoints").join(&checkpoint);
        let mut files = fs::read_dir(&folder).unwrap().flatten();
        let victim = files.find(|one| one.file_name().to_string_lossy().starts_with(file));
        harm(&victim.unwrap().path());
        let lab = Lab::start(&scenario).held();
        // One whose description cannot be read is not even found.
        let unusable = lab.events_of("checkpoint-unusable");
        assert!(
            file == "meta.json" || text(&unusable[0], "checkpoint") == checkpoint,
            "{file}: {unusable:?}"
        );
        assert!(!folder.exists(), "{file}");
        // Another machine, which has said nothing yet.
        assert!(!was_known(&lab), "{file}");
        assert_eq!(facts(&lab), seen, "{file}");
        checkpoint = taken(&lab);
    }
}

/// Every answer on record since then that has the first text in it has the second one from now on.
fn falsify(since: SystemTime, from: &str, to: &str) {
    let mut falsified = 0;
    for file in fs::read_dir(cache().join("facts")).unwrap().flatten() {
        let text = fs::read_to_string(file.path()).unwrap();
        if file.metadata().unwrap().modified().unwrap() >= since && text.contains(from) {
            fs::write(file.path(), text.replace(from, to)).unwrap();
            falsified += 1;
        }
    }
    assert!(falsified > 0, "nothing on record has {from}");
}

#[test]
fn what_is_on_record_confirms_and_never_refutes() {
    let since = SystemTime::now();
    let mark = since
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_nanos();
    // The fact of the third step is in the last checkpoint's state, that of the second one in a state before.
    let scenario = |last: &str| {
        let expect = "[[step]]\n[step.expect]\npve.cmdline = [\"quiet\"]\n\n";
        format!(
            "summary = \"x\"\nlab = \"bare\"\n\n\
             [[step]]\nrun = \"echo {mark} >/root/mark; sync; sleep 4\"\n\n{expect}\
             [[step]]\nrun = \"echo more >>/root/mark; sync; sleep 4\"\n\n{expect}\
             [[step]]\nrun = \"{last}\"\n"
        )
    };
    drop(Lab::start_beside(&scenario("true")).held());
    let recorded = |lab: &Lab, step: u64| {
        let steps = lab.events_of("step-finished");
        let found = steps.iter().rfind(|event| event["step"] == step);
        found.unwrap()["recorded"] == true
    };
    let again = Lab::start_beside(&scenario("true true")).held();
    assert!(recorded(&again, 2) && recorded(&again, 4));
    drop(again);
    falsify(since, " quiet", " quit");
    let doubtful = Lab::start_beside(&scenario("true true true")).held();
    let doubted = doubtful.events_of("record-doubted");
    assert_eq!(doubted[0]["step"], 2, "{doubted:?}");
    assert!(!recorded(&doubtful, 2) && !recorded(&doubtful, 4));
    drop(doubtful);
    // What was said meanwhile is what counts.
    let after = Lab::start_beside(&scenario("true true true true")).held();
    let doubted = after.events_of("record-doubted");
    assert!(
        doubted.iter().all(|event| event["step"] != 2),
        "{doubted:?}"
    );
    assert!(recorded(&after, 2));
}

#[test]
fn what_the_host_said_stays_known_from_checkpoint_to_checkpoint() {
    // The first is of the host's boot, the second of a step that goes on from it and is silent. A boot alone is not
    // dear enough for a checkpoint on a fast machine.
    let dear = "sleep 26";
    drop(Lab::start(&new_scenario_after(dear)).held());
    let second = Lab::start(&new_scenario_after(dear)).held();
    assert!(!second.events_of("restored").is_empty());
    let meta = cache().join("checkpoints").join(taken(&second));
    let meta = fs::read_to_string(meta.join("meta.json")).unwrap();
    let meta: Value = serde_json::from_str(&meta).unwrap();
    let console = meta["console"].as_array().unwrap();
    assert!(!console.is_empty());
}

#[test]
fn a_nas_that_a_step_has_ended_is_no_trouble_of_the_labs() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let mark = now.unwrap().as_nanos();
    let scenario = format!(
        "summary = \"x\"\nlab = \"bare\"\n\n[[step]]\nstart = 100\n\n\
         [[step]]\nrun = \"qm stop 100 && sleep 4 && echo {mark}\"\n\n[[step]]\nrun = \"true\"\n"
    );
    let lab = Lab::start(&scenario).held();
    let without = lab.events_of("no-checkpoint");
    assert!(
        text(&without[0], "reason").contains("not running"),
        "{without:?}"
    );
}

#[test]
fn kill_9_while_a_checkpoint_is_written_leaves_nothing_that_is_used() {
    let scenario = new_scenario();
    let lab = Lab::start(&scenario);
    let store = cache().join("checkpoints");
    // A draft has RAM in it before it is finished.
    let draft = wait("a draft with RAM", Duration::from_secs(600), || {
        let entries = fs::read_dir(&store).ok()?.flatten();
        let mut drafts = entries.filter(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("draft-") && entry.path().join("ram-0.zst").exists()
        });
        drafts.next().map(|entry| entry.path())
    });
    kill_process(lab.pid(), Signal::KILL).unwrap();
    lab.assert_nothing_left();
    drop(lab);

    let next = Lab::start(&scenario).held();
    assert!(!draft.exists(), "the dead run's draft is still there");
    assert!(next.events_of("checkpoint-unusable").is_empty());
}

#[test]
fn two_labs_at_once_take_the_same_checkpoints_and_both_hold() {
    let scenario = new_scenario();
    let one = Lab::start(&scenario);
    let other = Lab::start_beside(&scenario);
    let (one, other) = (one.held(), other.held());
    assert_eq!(facts(&one), facts(&other));
    drop(other);
    let third = Lab::start_beside(&scenario).held();
    assert_eq!(third.events_of("restored").len(), 1);
    assert_eq!(facts(&third), facts(&one));
}

#[test]
fn a_watched_scenario_goes_on_from_its_checkpoint_after_each_save() {
    let _turn = turn();
    let scenario = new_scenario();
    let folder = scenarios("fault", &scenario);
    let mut program = Running::start(
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["lab", "watch", "fault", "--scenarios"])
            .arg(folder.path())
            .env("INSTA_UPDATE", "always")
            .env_remove("CI")
            .stdout(Stdio::piped()),
    );
    let heard = Heard::of(program.0.stdout.take().unwrap());
    let says = |words: &str| heard.says(words, BOOT);
    let save = |text: &str| fs::write(folder.path().join("fault.toml"), text).unwrap();
    says("held fault");
    says("waiting for the next save");

    save(&scenario.replace("test $(cat", "test  $(cat"));
    says("2 steps from checkpoint");
    says("held fault");
    says("waiting for the next save");

    // One that fails is no end, and one that is saved while it runs begins again.
    save(&scenario.replace("test $(cat", "false $(cat"));
    says("FAILED fault");
    save(&scenario.replace("test $(cat", "sleep 600; test $(cat"));
    says("2 steps from checkpoint");
    save(&scenario);
    says("held fault");

    kill_process(program.pid(), Signal::INT).unwrap();
    assert_eq!(program.0.wait().unwrap().code(), Some(130));
    let left = format!("-{}/fault/", program.pid());
    wait("everything to be gone", Duration::from_secs(20), || {
        processes_with(&left).is_empty().then_some(())
    });
}

/// A sample of the real catalogue, cold and from checkpoints: the same verdicts and facts.
#[test]
#[ignore = "runs the procedure cold: minutes. For a nightly run: cargo test --test checkpoints -- --ignored"]
fn cold_and_cached_runs_see_the_same() {
    let program = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["lab", "--exact", "procedure", "initramfs-stale", "no-vtd"])
            .args(arguments)
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{words}");
        let folder = words.lines().find_map(|line| line.strip_prefix("evidence"));
        sample(Path::new(folder.unwrap().trim()))
    };
    let cold = program(&["--no-cache"]);
    // The first may take the checkpoints that the second goes on from.
    let (first, second) = (program(&[]), program(&[]));
    assert_eq!(cold, first);
    assert_eq!(cold, second);
}

/// Every scenario's facts in a run's folder, by path.
fn sample(run: &Path) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    for scenario in fs::read_dir(run).unwrap().flatten() {
        for file in fs::read_dir(scenario.path().join("facts"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = file.path();
            let name = path.strip_prefix(run).unwrap().display().to_string();
            if name.ends_with(".snapshot.json") {
                facts.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    assert!(facts.len() > 5, "{facts:?}");
    facts
}
