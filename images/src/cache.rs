//! Where built things live: `<root>/<artifact>/<key>/`, made beside in `<root>/tmp` and renamed into place.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use crate::Artifact;
use crate::cancel::Cancel;
use crate::error::{Error, Result};

/// The folder below the user's cache folder.
const FOLDER: &str = "disk-passthrough-lab";

/// The image cache of this user, or any other folder that serves as one.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the cache in `dir`, else in `$LAB_CACHE`, else in the user's cache folder.
    pub fn open(dir: Option<PathBuf>) -> Result<Self> {
        let from_environment = || {
            std::env::var_os("LAB_CACHE")
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let root = dir
            .or_else(from_environment)
            .or_else(|| dirs::cache_dir().map(|cache| cache.join(FOLDER)))
            .ok_or(Error::NoCacheFolder)?;
        fs::create_dir_all(&root).map_err(Error::io("make the folder", &root))?;
        let root = root.canonicalize().map_err(Error::io("open", &root))?;
        let cache = Self { root };
        for dir in [cache.locks(), cache.tmp(), cache.logs()] {
            fs::create_dir_all(&dir).map_err(Error::io("make the folder", &dir))?;
        }
        Ok(cache)
    }

    /// The cache's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What is free on the cache's file system, in bytes, for an ordinary user.
    pub fn free_space(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)
            .map_err(|errno| Error::io("ask for the free space of", &self.root)(errno.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    pub(crate) fn artifact_dir(&self, artifact: Artifact) -> PathBuf {
        self.root.join(artifact.to_string())
    }

    pub(crate) fn entry_dir(&self, artifact: Artifact, key: &str) -> PathBuf {
        self.artifact_dir(artifact).join(key)
    }

    pub(crate) fn log(&self, artifact: Artifact) -> PathBuf {
        self.logs().join(format!("{artifact}.log"))
    }

    /// Programs that were fetched because the host has none.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    /// Cargo's folder for the guest programs, so that the cargo which runs this program keeps its own.
    pub(crate) fn cargo_target(&self) -> PathBuf {
        self.root.join("guest-target")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// Takes the lock of one name, calling `waiting` first if somebody else has it.
    pub(crate) fn lock(&self, name: &str, cancel: &Cancel, waiting: impl FnOnce()) -> Result<Lock> {
        let path = self.locks().join(format!("{name}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io("open the lock", &path))?;
        match file.try_lock() {
            Ok(()) => return Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => waiting(),
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", path)(source)),
        }
        // A blocked lock cannot be interrupted, so a thread waits for it, and gives it up if nobody waits any more.
        let (sender, receiver) = mpsc::channel();
        let _guard = {
            let sender = sender.clone();
            cancel.on_cancel(move || drop(sender.send(Err(Error::Cancelled))))
        };
        std::thread::spawn(move || {
            let result = file
                .lock()
                .map(|()| Lock(file))
                .map_err(Error::io("lock", path));
            drop(sender.send(result));
        });
        receiver.recv().unwrap_or(Err(Error::Cancelled))
    }

    /// Whether somebody has the lock of this name now.
    pub(crate) fn is_locked(&self, name: &str) -> bool {
        let path = self.locks().join(format!("{name}.lock"));
        File::options()
            .write(true)
            .open(path)
            .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// A folder to build in, removed when dropped, and by the next build if this one dies.
    pub(crate) fn work_dir(&self, name: &str) -> Result<WorkDir> {
        let _entering = self.entering_tmp()?;
        let dir = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(self.tmp())
            .map_err(Error::io("make a folder in", self.tmp()))?;
        let path = dir.path().join(ALIVE);
        let alive = File::create(&path).map_err(Error::io("write", &path))?;
        alive.lock().map_err(Error::io("lock", &path))?;
        Ok(WorkDir { dir, _alive: alive })
    }

    /// The work folders of builds that died; what cannot be removed with plain rights is left to `remove`.
    pub(crate) fn sweep(&self, remove: impl Fn(&Path) -> Result<()>) -> Result<()> {
        let _entering = self.entering_tmp()?;
        let tmp = self.tmp();
        for entry in fs::read_dir(&tmp).map_err(Error::io("read", &tmp))? {
            let path = entry.map_err(Error::io("read", &tmp))?.path();
            let in_use = File::open(path.join(ALIVE))
                .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)));
            if !in_use && fs::remove_dir_all(&path).is_err() {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Held while work folders are made or swept, so that a new one is never taken for a dead one.
    fn entering_tmp(&self) -> Result<Lock> {
        let path = self.locks().join("tmp.lock");
        let file = File::create(&path).map_err(Error::io("open the lock", &path))?;
        file.lock().map_err(Error::io("lock", &path))?;
        Ok(Lock(file))
    }
}

/// The file in a work folder that its builder holds a lock on while it lives.
const ALIVE: &str = ".alive";

/// A lock that ends with this value, or with the process.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

/// A folder under the cache's `tmp`.
pub(crate) struct WorkDir {
    dir: tempfile::TempDir,
    _alive: File,
}

impl WorkDir {
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(dir.path().to_owned())).unwrap();
        (dir, cache)
    }

    #[test]
    fn the_second_builder_says_so_and_waits() {
        let (_dir, cache) = cache();
        let first = cache
            .lock("toolbox", &Cancel::new(), || panic!("nobody else is there"))
            .unwrap();
        assert!(cache.is_locked("toolbox"));
        let (said, heard) = mpsc::channel();
        let second = {
            let cache = cache.clone();
            std::thread::spawn(move || {
                cache
                    .lock("toolbox", &Cancel::new(), || said.send(()).unwrap())
                    .map(drop)
            })
        };
        heard.recv().unwrap();
        drop(first);
        second.join().unwrap().unwrap();
        assert!(!cache.is_locked("toolbox"));
    }

    #[test]
    fn waiting_for_a_lock_ends_when_cancelled() {
        let (_dir, cache) = cache();
        let _first = cache.lock("toolbox", &Cancel::new(), || {}).unwrap();
        let cancel = Cancel::new();
        let stop = cancel.clone();
        let result = cache.lock("toolbox", &cancel, move || stop.cancel());
        assert!(result.is_err_and(|error| error.is_cancelled()));
    }

    #[test]
    fn only_the_work_folders_of_the_dead_are_swept() {
        let (_dir, cache) = cache();
        let living = cache.work_dir("toolbox").unwrap();
        let dead = cache.tmp().join("proxmox-like-old");
        fs::create_dir_all(dead.join("tree")).unwrap();
        cache
            .sweep(|path| panic!("{} could be removed", path.display()))
            .unwrap();
        assert!(living.path().exists());
        assert!(!dead.exists());
    }
}
