//! The folder that a run owns: its evidence, its disks while they live, its sockets.
//!
//! `runs/<time>-<pid>/` in the cache holds one folder a scenario. A run holds a lock on its folder
//! for as long as it lives; what a dead run left (disks, sockets) is removed by the next one.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use crate::event::{Event, Listener};

/// How many runs' evidence is kept.
const KEPT_RUNS: usize = 20;
/// The file whose lock says that a run is alive.
const LOCK: &str = "alive";
/// The folder of a scenario's disk files, which goes when the scenario ends.
const DISKS: &str = "disks";
/// In a run's folder: where its sockets are, for whoever cleans up after it.
const SOCKETS: &str = "sockets-at";

/// The run's folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} {}: {source}; check that the cache folder is writable and not full", path.display())]
pub struct EvidenceError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EvidenceError {
    let path = path.to_owned();
    move |source| EvidenceError {
        action,
        path,
        source,
    }
}

/// A run's folder.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Sockets live here: their paths may have 107 bytes at most, so not below the cache.
    sockets: tempfile::TempDir,
    /// Locked while the run lives.
    _alive: File,
}

impl RunFolder {
    /// Makes a new one below `cache` and clears away what dead runs left.
    ///
    /// # Errors
    /// When folders or files cannot be made.
    pub fn create(cache: &Path) -> Result<Self, EvidenceError> {
        let runs = cache.join("runs");
        private_dir(&runs)?;
        sweep(&runs);
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let path = runs.join(format!("{time}-{}", std::process::id()));
        private_dir(&path)?;
        let lock = path.join(LOCK);
        let alive = File::create(&lock).map_err(failed("create", &lock))?;
        alive.lock().map_err(failed("lock", &lock))?;
        let temporary = std::env::temp_dir();
        let sockets = tempfile::Builder::new()
            .prefix("lab-")
            .tempdir()
            .map_err(failed("create a folder in", &temporary))?;
        let note = path.join(SOCKETS);
        fs::write(&note, sockets.path().as_os_str().as_encoded_bytes())
            .map_err(failed("write", &note))?;
        Ok(RunFolder {
            path,
            sockets,
            _alive: alive,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder for one scenario.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scenario(&self, name: &str) -> Result<ScenarioFolder, EvidenceError> {
        let path = self.path.join(name);
        private_dir(&path)?;
        private_dir(&path.join("facts"))?;
        private_dir(&path.join(DISKS))?;
        let sockets = tempfile::Builder::new()
            .prefix("s")
            .tempdir_in(self.sockets.path())
            .map_err(failed("create a folder in", self.sockets.path()))?;
        Ok(ScenarioFolder { path, sockets })
    }
}

/// The folder of one scenario in one run.
#[derive(Debug)]
pub struct ScenarioFolder {
    path: PathBuf,
    sockets: tempfile::TempDir,
}

impl ScenarioFolder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the lab's disk files go.
    pub fn disks(&self) -> PathBuf {
        self.path.join(DISKS)
    }

    /// Where sockets go.
    pub fn sockets(&self) -> &Path {
        self.sockets.path()
    }

    /// Writes a file of evidence.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<(), EvidenceError> {
        let path = self.path.join(name);
        fs::write(&path, content).map_err(failed("write", &path))
    }
}

impl Drop for ScenarioFolder {
    fn drop(&mut self) {
        // What stays is swept by a later run.
        let _ = fs::remove_dir_all(self.disks());
    }
}

fn private_dir(path: &Path) -> Result<(), EvidenceError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("create the folder", path))
}

/// Removes disks and sockets of dead runs, and all but the newest runs' evidence. It is a courtesy:
/// what cannot be removed now is left for the next time.
fn sweep(runs: &Path) {
    let Ok(entries) = fs::read_dir(runs) else {
        return;
    };
    let mut dead: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|run| is_dead(run))
        .collect();
    dead.sort();
    for run in &dead {
        if let Ok(sockets) = fs::read_to_string(run.join(SOCKETS)) {
            let sockets = Path::new(&sockets);
            let ours = sockets.parent() == Some(&std::env::temp_dir())
                && sockets
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("lab-"));
            if ours {
                let _ = fs::remove_dir_all(sockets);
            }
        }
        for scenario in fs::read_dir(run).into_iter().flatten().flatten() {
            let _ = fs::remove_dir_all(scenario.path().join(DISKS));
        }
    }
    let surplus = (dead.len() + 1).saturating_sub(KEPT_RUNS);
    for run in dead.iter().take(surplus) {
        let _ = fs::remove_dir_all(run);
    }
}

fn is_dead(run: &Path) -> bool {
    match File::open(run.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        // A run that is just being made has no lock file yet; an old one without it is litter.
        Err(_) => fs::metadata(run)
            .and_then(|data| data.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age.as_secs() > 60)),
    }
}

/// The name of the log of events in a run's folder.
const EVENTS: &str = "events.jsonl";

/// Which scenarios of a run held, by its log of events.
///
/// # Errors
/// When there is no log, or it cannot be read. A line that is cut off says nothing.
pub fn held_in(run: &Path) -> Result<BTreeSet<String>, EvidenceError> {
    #[derive(Deserialize)]
    #[serde(tag = "event", rename_all = "kebab-case")]
    enum Line {
        ScenarioFinished {
            scenario: String,
            verdict: Ending,
        },
        #[serde(other)]
        Other,
    }
    #[derive(Deserialize)]
    #[serde(tag = "verdict", rename_all = "kebab-case")]
    enum Ending {
        Held,
        FailedAsExpected,
        #[serde(other)]
        Other,
    }
    let path = run.join(EVENTS);
    let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
    let held = text
        .lines()
        .filter_map(|line| match serde_json::from_str(line) {
            Ok(Line::ScenarioFinished {
                scenario,
                verdict: Ending::Held | Ending::FailedAsExpected,
            }) => Some(scenario),
            _ => None,
        });
    Ok(held.collect())
}

/// Writes events as JSON lines.
#[derive(Debug)]
pub struct EventLog {
    file: Mutex<File>,
}

impl EventLog {
    /// The log `events.jsonl` in `folder`.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(folder: &Path) -> Result<Arc<Self>, EvidenceError> {
        let path = folder.join(EVENTS);
        let file = File::create(&path).map_err(failed("create", &path))?;
        Ok(Arc::new(EventLog {
            file: Mutex::new(file),
        }))
    }
}

impl Listener for EventLog {
    fn hear(&self, event: &Event) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            // A disk that is full fails the run where it matters; the log alone is no reason to.
            let _ = file.write_all(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Failure;
    use crate::event::{EventKind, Verdict};
    use crate::scenario::FailureKind;

    #[test]
    fn a_dead_run_leaves_only_its_evidence() {
        let cache = tempfile::tempdir().unwrap();
        let run = RunFolder::create(cache.path()).unwrap();
        let scenario = run.scenario("procedure").unwrap();
        scenario.write("console.log", "evidence").unwrap();
        fs::write(scenario.disks().join("big.qcow2"), "disk").unwrap();
        let (path, sockets) = (scenario.path().to_owned(), run.sockets.path().to_owned());
        // As after kill -9: nothing is dropped, and the lock goes with the process.
        std::mem::forget(scenario);
        run._alive.unlock().unwrap();
        std::mem::forget(run);

        sweep(&cache.path().join("runs"));
        assert!(path.join("console.log").exists());
        assert!(!path.join(DISKS).exists());
        assert!(!sockets.exists());
    }

    #[test]
    fn which_scenarios_held_is_read_from_the_events() {
        let dir = tempfile::tempdir().unwrap();
        assert!(held_in(dir.path()).is_err());
        let log = EventLog::create(dir.path()).unwrap();
        let failure = Box::new(Failure::new(FailureKind::Check, "no"));
        let interrupted = Verdict::Interrupted;
        for (scenario, verdict) in [
            ("one", Verdict::Held),
            (
                "two",
                Verdict::Failed {
                    failure: failure.clone(),
                },
            ),
            ("three", Verdict::FailedAsExpected { failure }),
            ("four", interrupted),
        ] {
            let kind = EventKind::ScenarioFinished {
                scenario: scenario.to_owned(),
                verdict,
                seconds: 1.0,
                folder: dir.path().to_owned(),
            };
            log.hear(&Event { at: 0.0, kind });
        }
        let mut file = File::options()
            .append(true)
            .open(dir.path().join(EVENTS))
            .unwrap();
        file.write_all(b"{\"event\":\"scenario-fini").unwrap();
        let held: Vec<String> = held_in(dir.path()).unwrap().into_iter().collect();
        assert_eq!(held, ["one", "three"]);
    }

    #[test]
    fn a_living_run_is_left_alone() {
        let cache = tempfile::tempdir().unwrap();
        let run = RunFolder::create(cache.path()).unwrap();
        let scenario = run.scenario("procedure").unwrap();
        sweep(&cache.path().join("runs"));
        assert!(scenario.disks().exists());
        assert!(scenario.sockets().exists());
    }
}
