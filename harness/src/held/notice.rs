//! The notice by which a held lab is found, and the seat that one lab of a cache has.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file whose lock is the seat.
const SEAT: &str = "up.lock";
/// The notice of whoever has it.
const NOTICE: &str = "up.json";

/// What others have to know of a held lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Notice {
    /// The process that holds it.
    pub process: u32,
    /// Where that process listens.
    pub control: PathBuf,
    /// The scenario.
    pub scenario: String,
    /// Where in the scenario it stands, for people.
    pub place: String,
    /// What stopped it there, if it was to go on; for people.
    pub stopped_by: Option<String>,
    /// Its evidence.
    pub folder: PathBuf,
    /// The ssh client that knows the way in; `pve` and `nas` are its hosts.
    pub ssh: PathBuf,
    /// The words in front of scp's arguments.
    pub scp: Vec<String>,
}

/// A held lab cannot be found or made known.
#[derive(Debug, thiserror::Error)]
pub enum NoticeError {
    /// There is none.
    #[error("no lab is up; bring one up with `cargo xtask lab up SCENARIO[@STEP]`")]
    NoLab,
    /// Another one has the seat.
    #[error("a lab is up already: {0}; end it with `cargo xtask lab down`")]
    Taken(String),
    /// Another one is about to be brought up.
    #[error("a lab is being brought up already; interrupt that with Ctrl-C where it was started")]
    ComingUp,
    /// A file cannot be used.
    #[error("failed to {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it could not be done.
        source: io::Error,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NoticeError {
    let path = path.to_owned();
    move |source| NoticeError::File {
        action,
        path,
        source,
    }
}

impl Notice {
    /// The notice of the lab that is up. One that was left behind by a process that was killed is none.
    ///
    /// # Errors
    /// [`NoticeError::NoLab`], or when the notice cannot be read.
    pub fn find(cache: &Path) -> Result<Self, NoticeError> {
        let path = cache.join(NOTICE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(NoticeError::NoLab);
            }
            other => other.map_err(failed("read", &path))?,
        };
        let notice: Notice =
            serde_json::from_slice(&text).map_err(|error| failed("read", &path)(error.into()))?;
        match UnixStream::connect(&notice.control) {
            Ok(_) => Ok(notice),
            Err(_) => Err(NoticeError::NoLab),
        }
    }

    /// The lab in a few words.
    pub fn in_short(&self) -> String {
        format!("{}, {}", self.scenario, self.place)
    }
}

/// The seat of the one lab that a cache can hold up. It goes with the process that has it.
#[derive(Debug)]
pub struct Seat {
    cache: PathBuf,
    _lock: File,
}

impl Seat {
    /// Takes the seat.
    ///
    /// # Errors
    /// [`NoticeError::Taken`], [`NoticeError::ComingUp`], or when its file cannot be made.
    pub fn take(cache: &Path) -> Result<Self, NoticeError> {
        let path = cache.join(SEAT);
        let lock = File::create(&path).map_err(failed("create", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Seat {
                cache: cache.to_owned(),
                _lock: lock,
            }),
            Err(fs::TryLockError::WouldBlock) => match Notice::find(cache) {
                Ok(notice) => Err(NoticeError::Taken(notice.in_short())),
                Err(_) => Err(NoticeError::ComingUp),
            },
            Err(fs::TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
        }
    }

    /// Waits until whoever has the seat has left it. Blocks.
    ///
    /// # Errors
    /// When its file cannot be opened.
    pub fn wait_until_free(cache: &Path) -> Result<(), NoticeError> {
        let path = cache.join(SEAT);
        let lock = File::create(&path).map_err(failed("create", &path))?;
        lock.lock().map_err(failed("lock", &path))
    }

    /// Makes the lab known.
    ///
    /// # Errors
    /// When the notice cannot be written.
    pub fn announce(&self, notice: &Notice) -> Result<(), NoticeError> {
        let path = self.cache.join(NOTICE);
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.cache)?;
            serde_json::to_writer_pretty(&mut file, notice)?;
            file.persist(&path).map_err(|error| error.error)
        };
        write().map_err(failed("write", &path)).map(drop)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // A notice that stays leads to a socket where nobody listens.
        let _ = fs::remove_file(self.cache.join(NOTICE));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn notice(control: PathBuf) -> Notice {
        Notice {
            process: 1,
            control,
            scenario: "procedure".to_owned(),
            place: "after step 3".to_owned(),
            stopped_by: None,
            folder: PathBuf::from("/runs/1"),
            ssh: PathBuf::from("/run/ssh"),
            scp: vec!["scp".to_owned()],
        }
    }

    #[test]
    fn one_lab_has_the_seat_and_the_next_is_told_which() {
        let cache = tempfile::tempdir().unwrap();
        let seat = Seat::take(cache.path()).unwrap();
        let second = Seat::take(cache.path()).unwrap_err();
        assert!(matches!(second, NoticeError::ComingUp), "{second}");

        let control = cache.path().join("control");
        let _listener = UnixListener::bind(&control).unwrap();
        seat.announce(&notice(control.clone())).unwrap();
        let second = Seat::take(cache.path()).unwrap_err();
        assert!(second.to_string().contains("procedure, after step 3"));
        assert_eq!(Notice::find(cache.path()).unwrap(), notice(control));

        drop(seat);
        assert!(matches!(
            Notice::find(cache.path()),
            Err(NoticeError::NoLab)
        ));
        Seat::take(cache.path()).unwrap();
    }

    #[test]
    fn a_notice_that_nobody_stands_behind_is_none() {
        let cache = tempfile::tempdir().unwrap();
        let seat = Seat::take(cache.path()).unwrap();
        let control = cache.path().join("control");
        drop(UnixListener::bind(&control).unwrap());
        seat.announce(&notice(control)).unwrap();
        let found = Notice::find(cache.path());
        assert!(matches!(found, Err(NoticeError::NoLab)), "{found:?}");
    }
}
