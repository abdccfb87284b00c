//! What guests answered in a state, so that facts of a state that is only passed through on the way to a
//! checkpoint need not be read again. It is the answers that are kept: they are understood anew each
//! time, and an answer counts only for the very same command.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::guest::{Exec, Exit, Guest, GuestError, Output};
use crate::plan::Key;

/// Days after which a record that was not used is removed.
const KEPT_DAYS: u64 = 60;

/// Answers by guest and command.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recording {
    answers: BTreeMap<String, Answer>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Answer {
    /// The checkpoint of the very machine that gave it; empty where there was none.
    #[serde(default)]
    checkpoint: String,
    exit: Exit,
    stdout: String,
    stderr: String,
}

impl Recording {
    /// Those that a machine gave which stood at this checkpoint. Another machine that went the same way has started at
    /// another time, and what was done to it may have ended in another way.
    pub fn at(mut self, checkpoint: &str) -> Self {
        self.answers
            .retain(|_, answer| answer.checkpoint == checkpoint);
        self
    }

    /// Adds what another recording has and this one has not. What a machine said that stood at a checkpoint goes before
    /// what one said that stood at none: the next one that goes on from there need not be asked.
    pub fn merge(&mut self, other: Recording) {
        for (command, answer) in other.answers {
            match self.answers.entry(command) {
                Entry::Vacant(place) => {
                    place.insert(answer);
                }
                Entry::Occupied(mut place) => {
                    if place.get().checkpoint.is_empty() {
                        place.insert(answer);
                    }
                }
            }
        }
    }
}

fn name(guest: &str, exec: &Exec) -> String {
    let mut hash = Sha256::new();
    for word in [guest, &exec.program]
        .into_iter()
        .chain(exec.args.iter().map(String::as_str))
    {
        hash.update(word);
        hash.update([0]);
    }
    hash.update(exec.input.as_deref().unwrap_or_default());
    format!("{guest} {}", hex::encode(hash.finalize()))
}

/// A guest whose answers are written down.
pub struct Recorder<'a, G> {
    guest: &'a G,
    checkpoint: &'a str,
    recording: Mutex<Recording>,
}

impl<'a, G: Guest> Recorder<'a, G> {
    /// Around a guest of a machine that stands at a checkpoint, or at none (empty).
    pub fn new(guest: &'a G, checkpoint: &'a str) -> Self {
        Recorder {
            guest,
            checkpoint,
            recording: Mutex::default(),
        }
    }

    /// What was answered.
    pub fn finish(self) -> Recording {
        self.recording
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<G: Guest> Guest for Recorder<'_, G> {
    fn name(&self) -> &'static str {
        self.guest.name()
    }

    async fn exec(&self, exec: Exec) -> Result<Output, GuestError> {
        let name = name(self.guest.name(), &exec);
        let output = self.guest.exec(exec).await?;
        // What is not text is not written down, and is asked for again.
        if let (Ok(stdout), Ok(stderr)) = (
            String::from_utf8(output.stdout.clone()),
            String::from_utf8(output.stderr.clone()),
        ) {
            let answer = Answer {
                checkpoint: self.checkpoint.to_owned(),
                exit: output.exit,
                stdout,
                stderr,
            };
            let mut recording = self
                .recording
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            recording.answers.insert(name, answer);
        }
        Ok(output)
    }

    async fn read_file(&self, path: &str) -> Result<Vec<u8>, GuestError> {
        self.guest.read_file(path).await
    }

    async fn write_file(&self, path: &str, content: &[u8]) -> Result<(), GuestError> {
        self.guest.write_file(path, content).await
    }
}

/// A guest that answers from a recording, and refuses what is not in it.
pub struct Replay<'a> {
    name: &'static str,
    recording: &'a Recording,
}

impl<'a> Replay<'a> {
    /// The guest called `name`.
    pub fn new(name: &'static str, recording: &'a Recording) -> Self {
        Replay { name, recording }
    }

    fn not_recorded(&self, request: String) -> GuestError {
        GuestError::Refused {
            guest: self.name,
            request,
            message: "it was not recorded".to_owned(),
        }
    }
}

impl Guest for Replay<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn exec(&self, exec: Exec) -> Result<Output, GuestError> {
        let answer = self.recording.answers.get(&name(self.name, &exec));
        let answer = answer.ok_or_else(|| self.not_recorded(exec.command_line()))?;
        Ok(Output {
            exit: answer.exit,
            stdout: answer.stdout.clone().into_bytes(),
            stderr: answer.stderr.clone().into_bytes(),
        })
    }

    async fn read_file(&self, path: &str) -> Result<Vec<u8>, GuestError> {
        Err(self.not_recorded(format!("reading {path}")))
    }

    async fn write_file(&self, path: &str, _content: &[u8]) -> Result<(), GuestError> {
        Err(self.not_recorded(format!("writing {path}")))
    }
}

/// All recordings of a cache, one file a state.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// The records below a cache. A folder that cannot be made holds none.
    pub fn open(cache: &Path) -> Self {
        let folder = cache.join("facts");
        // Losing records costs time only: a state is then read again.
        let _ = fs::create_dir_all(&folder);
        let records = Records { folder };
        records.sweep();
        records
    }

    /// What was answered in a state; empty when nothing is known.
    pub fn get(&self, key: &Key) -> Recording {
        let text = fs::read(self.file(key)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Adds what was answered in a state.
    pub fn add(&self, key: &Key, recording: Recording) {
        if recording.answers.is_empty() {
            return;
        }
        let mut all = recording;
        all.merge(self.get(key));
        let Ok(text) = serde_json::to_vec(&all) else {
            return;
        };
        // As above: what is not kept is read again.
        let _ = tempfile::NamedTempFile::new_in(&self.folder).and_then(|mut file| {
            file.write_all(&text)?;
            file.persist(self.file(key)).map_err(|error| error.error)
        });
    }

    /// Forgets what was answered in a state.
    pub fn forget(&self, key: &Key) {
        // What stays is asked for again at the next doubt.
        let _ = fs::remove_file(self.file(key));
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.remove(|_| true);
    }

    fn file(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{key}.json"))
    }

    fn sweep(&self) {
        let old = |time: SystemTime| {
            let age = time.elapsed().map_or(0, |age| age.as_secs());
            age > KEPT_DAYS * 86_400
        };
        self.remove(old);
    }

    /// Removes the records whose last change was at such a time.
    fn remove(&self, which: impl Fn(SystemTime) -> bool) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in entries {
            let changed = entry.metadata().and_then(|data| data.modified());
            if changed.is_ok_and(&which) {
                // What stays is no harm: it is what was answered.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::guest::Local;

    async fn recorded(word: &str, checkpoint: &str) -> (Exec, Recording) {
        let guest = Local;
        let recorder = Recorder::new(&guest, checkpoint);
        let exec = Exec::new("echo", [word], Duration::from_secs(5));
        recorder.exec(exec.clone()).await.unwrap();
        (exec, recorder.finish())
    }

    #[tokio::test]
    async fn an_answer_from_a_checkpoint_is_not_lost_to_one_from_nowhere() {
        let (_, at_one) = recorded("word", "key-1").await;
        let (_, nowhere) = recorded("word", "").await;
        for (mut first, second) in [(at_one.clone(), nowhere.clone()), (nowhere.clone(), at_one)] {
            first.merge(second);
            assert_eq!(first.at("key-1").answers.len(), 1);
        }
    }

    #[tokio::test]
    async fn answers_of_another_machine_are_kept_apart() {
        let (first, mut all) = recorded("first", "key-1").await;
        let (second, later) = recorded("second", "key-2").await;
        all.merge(later);
        let one = all.clone().at("key-1");
        let replay = |recording| Replay::new(Local.name(), recording);
        let answer = replay(&one).exec(first.clone()).await.unwrap();
        assert_eq!(answer.stdout_text(), "first\n");
        assert!(replay(&one).exec(second.clone()).await.is_err());
        for exec in [first, second] {
            assert!(replay(&all).exec(exec).await.is_ok());
        }
    }
}
