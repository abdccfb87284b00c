//! How long each step took the last time, for the progress line. Losing it costs nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Seconds by step digest, kept in the cache.
#[derive(Debug)]
pub(super) struct Timings {
    file: PathBuf,
    seconds: Mutex<BTreeMap<String, f64>>,
}

impl Timings {
    /// Reads what is remembered in `cache` for an accelerator.
    pub(super) fn open(cache: &Path, accelerator: &str) -> Self {
        let file = cache.join(format!("timings-{accelerator}.json"));
        let seconds = std::fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Timings {
            file,
            seconds: Mutex::new(seconds),
        }
    }

    /// What a step took the last time.
    pub(super) fn last(&self, digest: &str) -> Option<f64> {
        self.lock().get(digest).copied()
    }

    /// What it took now.
    pub(super) fn note(&self, digest: String, seconds: f64) {
        self.lock().insert(digest, seconds);
    }

    /// Writes it all back, beside and renamed.
    pub(super) fn save(&self) {
        let Ok(bytes) = serde_json::to_vec(&*self.lock()) else {
            return;
        };
        let Some(folder) = self.file.parent() else {
            return;
        };
        // A forgotten time only leaves a progress line without its "last time".
        let _ = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
            std::io::Write::write_all(&mut file, &bytes)?;
            file.persist(&self.file).map_err(|error| error.error)
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, f64>> {
        self.seconds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
