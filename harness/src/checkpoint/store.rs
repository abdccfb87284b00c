//! The folder of all checkpoints: finding, adding, pinning, and making room.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::hashing::digest;
use super::meta::{FileMeta, LayerRef, Meta};
use crate::host;
use crate::plan::Key;

/// The description in a checkpoint's folder.
const META: &str = "meta.json";
/// Locked, shared, by every run that uses the checkpoint; alone by the one that removes it.
const LOCK: &str = "in-use";
/// What the name of an unfinished checkpoint's folder begins with.
const DRAFT: &str = "draft-";
/// What is left free on the disk whatever the budget says: more than labs need to begin, so that checkpoints are never what keeps a
/// scenario from running.
const RESERVE: u64 = 5 << 30;
/// More than a lab needs to begin.
const LABS: u64 = 4 << 30;

/// The store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or folder cannot be used.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The disk would be filled.
    #[error(
        "{} has {} MiB free, and {} MiB are kept free for labs; free some, or give another folder with --cache or LAB_CACHE",
        folder.display(), free >> 20, reserve >> 20
    )]
    NoRoom {
        /// The store's folder.
        folder: PathBuf,
        /// Free bytes.
        free: u64,
        /// Bytes that are to stay free.
        reserve: u64,
    },
    /// A checkpoint is not what was written.
    #[error("{file} is damaged: {reason}")]
    Damaged {
        /// Which file.
        file: String,
        /// How that shows.
        reason: String,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        action,
        path,
        source,
    }
}

/// All checkpoints of a cache.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    budget: u64,
    reserve: u64,
    /// Files whose digests were checked by this process: size and time when they were.
    checked: Mutex<BTreeMap<PathBuf, (u64, SystemTime)>>,
}

/// What the store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Checkpoints of machines that were on.
    pub running: usize,
    /// Checkpoints of machines that were off.
    pub off: usize,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes that it may have.
    pub budget: u64,
}

/// A checkpoint that is in use, with all that it is built on: nobody removes it meanwhile.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    store: PathBuf,
    name: String,
    /// What is known of it.
    pub meta: Meta,
    _pins: Arc<Vec<File>>,
}

impl Checkpoint {
    /// The name of its folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of its folder.
    pub fn folder(&self) -> PathBuf {
        self.store.join(&self.name)
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.store.join(&self.name).join(name)
    }

    /// Where a layer is, its own or one that it is built on.
    pub fn layer(&self, layer: &LayerRef) -> PathBuf {
        self.store.join(&layer.folder).join(&layer.file)
    }
}

/// A checkpoint that is being made.
#[derive(Debug)]
pub struct Draft {
    dir: tempfile::TempDir,
    name: String,
    _alive: File,
}

impl Draft {
    /// Its folder until it is finished.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The name that its folder will have.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes over a file that nobody writes to any more, and leaves it where it is too.
    ///
    /// # Errors
    /// When it cannot be linked, or read.
    pub fn adopt(&self, file: &Path, name: &str) -> Result<FileMeta, StoreError> {
        let path = self.path().join(name);
        fs::hard_link(file, &path).map_err(failed("link", file))?;
        digest(&path).map_err(failed("read", &path))
    }
}

impl Store {
    /// The store below a cache, with a budget in bytes. What dead runs left unfinished is removed.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(cache: &Path, budget: u64) -> Result<Self, StoreError> {
        let folder = cache.join("checkpoints");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(failed("make the folder", &folder))?;
        let store = Store {
            folder,
            budget,
            reserve: RESERVE,
            checked: Mutex::default(),
        };
        store.sweep();
        Ok(store)
    }

    /// The newest checkpoint with this key, pinned. One that cannot be read is removed and passed over.
    pub fn find(&self, key: &Key) -> Option<Checkpoint> {
        let mut found: Vec<Checkpoint> = self
            .names()
            .into_iter()
            .filter(|name| name.starts_with(&key.to_string()))
            .filter_map(|name| self.pinned(&name))
            .filter(|one| one.meta.key == *key)
            .collect();
        found.sort_by_key(|one| one.meta.taken);
        found.pop()
    }

    /// The keys of all checkpoints.
    pub fn keys(&self) -> BTreeSet<Key> {
        let key = |name: String| {
            let (key, _) = name.split_once('-')?;
            Key::try_from(key.to_owned()).ok()
        };
        self.names().into_iter().filter_map(key).collect()
    }

    /// Checks by size and digest every file that a machine would go on from, its RAM apart, which is
    /// checked while it is read. A file is read once by a process.
    ///
    /// # Errors
    /// [`StoreError::Damaged`].
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let mut metas = BTreeMap::from([(checkpoint.name.clone(), checkpoint.meta.clone())]);
        let layers: BTreeSet<&LayerRef> = checkpoint
            .meta
            .disks
            .iter()
            .flat_map(|disk| &disk.layers)
            .collect();
        for layer in layers {
            if !metas.contains_key(&layer.folder) {
                metas.insert(layer.folder.clone(), self.read(&layer.folder)?);
            }
            let expected = metas[&layer.folder].files.get(&layer.file);
            self.check_file(&checkpoint.layer(layer), layer, expected)?;
        }
        let frozen = checkpoint.meta.frozen.iter();
        for name in frozen.flat_map(|one| one.ram.iter().chain([&one.devices])) {
            let path = checkpoint.file(name);
            let bytes = checkpoint.meta.files.get(name).map(|file| file.bytes);
            let found = path.metadata().map_err(failed("read", &path))?.len();
            if bytes != Some(found) {
                return Err(damaged(&path, format!("it has {found} bytes")));
            }
        }
        Ok(())
    }

    /// Begins a new checkpoint, if there is room for one: what was not used for longest gives way.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`], or when the folder cannot be made.
    pub fn begin(&self, key: &Key) -> Result<Draft, StoreError> {
        self.make_room(self.budget);
        let free = self.free()?;
        if free < self.reserve {
            self.keep_free(free);
        }
        let free = self.free()?;
        if free < self.reserve {
            return Err(StoreError::NoRoom {
                folder: self.folder.clone(),
                free,
                reserve: self.reserve,
            });
        }
        let dir = tempfile::Builder::new()
            .prefix(DRAFT)
            .tempdir_in(&self.folder)
            .map_err(failed("make a folder in", &self.folder))?;
        let lock = dir.path().join(LOCK);
        let alive = File::create(&lock).map_err(failed("create", &lock))?;
        alive.lock_shared().map_err(failed("lock", &lock))?;
        // Two labs that take the same checkpoint at once each keep their own: layers fit only the very
        // disks that they were frozen over.
        let unique = dir.path().to_string_lossy();
        let unique = unique.rsplit(DRAFT).next().unwrap_or_default();
        let name = format!("{key}-{unique}");
        Ok(Draft {
            dir,
            name,
            _alive: alive,
        })
    }

    /// Has checkpoints give way on a disk with so much free space: for the reserve, or at least for what labs need to begin.
    /// Where all of them would not be enough they had better stay.
    fn keep_free(&self, free: u64) {
        let bytes = self.usage().bytes;
        let missing = [self.reserve, LABS].map(|wanted| wanted.saturating_sub(free));
        // What is removed is freed, as far as nobody else uses it.
        if let Some(enough) = missing.into_iter().find(|missing| *missing <= bytes) {
            self.make_room(bytes - enough);
        }
    }

    /// Finishes a checkpoint: it is there from now on.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(&self, draft: Draft, meta: &Meta) -> Result<Checkpoint, StoreError> {
        let path = draft.path().join(META);
        let text = serde_json::to_vec_pretty(meta)
            .map_err(|error| failed("describe", &path)(error.into()))?;
        fs::write(&path, text).map_err(failed("write", &path))?;
        let place = self.folder.join(&draft.name);
        fs::rename(draft.path(), &place).map_err(failed("move into place", &place))?;
        let name = draft.name.clone();
        // Renamed: nothing is left to remove under its old name.
        let _ = draft.dir.keep();
        let checkpoint = self
            .pinned(&name)
            .ok_or_else(|| damaged(&place, "it was removed at once".to_owned()))?;
        // Nobody knew its size before.
        self.make_room(self.budget);
        Ok(checkpoint)
    }

    /// Removes a checkpoint that turned out to be of no use, and all that are built on it.
    pub fn discard(&self, checkpoint: Checkpoint) {
        let name = checkpoint.name.clone();
        drop(checkpoint);
        self.remove_with_dependents(&name);
    }

    /// Removes every checkpoint that no run uses. Gives how many.
    pub fn clear(&self) -> usize {
        self.make_room(0)
    }

    /// What it holds.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage {
            budget: self.budget,
            ..Usage::default()
        };
        for name in self.names() {
            usage.bytes += self.bytes(&name);
            match self.read(&name) {
                Ok(meta) if meta.frozen.is_some() => usage.running += 1,
                Ok(_) => usage.off += 1,
                Err(_) => {}
            }
        }
        usage
    }

    fn check_file(
        &self,
        path: &Path,
        layer: &LayerRef,
        expected: Option<&FileMeta>,
    ) -> Result<(), StoreError> {
        let data = path.metadata().map_err(failed("read", path))?;
        let time = data.modified().map_err(failed("read", path))?;
        let stamp = (data.len(), time);
        let checked = self.checked().get(path).copied();
        if checked == Some(stamp) {
            return Ok(());
        }
        let found = digest(path).map_err(failed("read", path))?;
        if Some(&found) != expected {
            let reason = format!("its content is not what was written ({})", layer.folder);
            return Err(damaged(path, reason));
        }
        self.checked().insert(path.to_owned(), stamp);
        Ok(())
    }

    fn checked(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, (u64, SystemTime)>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free(&self) -> Result<u64, StoreError> {
        host::free_space(&self.folder).map_err(|error| {
            failed("ask for the free space of", &self.folder)(io::Error::other(error))
        })
    }

    /// The names of finished checkpoints.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with(DRAFT))
            .collect()
    }

    fn read(&self, name: &str) -> Result<Meta, StoreError> {
        let path = self.folder.join(name).join(META);
        let text = fs::read(&path).map_err(failed("read", &path))?;
        serde_json::from_slice(&text).map_err(|error| damaged(&path, error.to_string()))
    }

    /// Pins a checkpoint and all that it is built on, and notes that it was used.
    fn pinned(&self, name: &str) -> Option<Checkpoint> {
        let meta = match self.read(name) {
            Ok(meta) => meta,
            Err(StoreError::Damaged { .. }) => {
                self.remove_with_dependents(name);
                return None;
            }
            // Removed by another run just now, or never finished.
            Err(_) => return None,
        };
        let mut names: BTreeSet<&str> = parents(&meta).collect();
        names.insert(name);
        let mut pins = Vec::new();
        for name in names {
            let lock = File::open(self.folder.join(name).join(LOCK)).ok()?;
            lock.try_lock_shared().ok()?;
            // It may have been removed between the look and the lock.
            if !self.folder.join(name).join(META).exists() {
                return None;
            }
            // The time of last use; a file system that does not keep it evicts by age instead.
            let _ = lock.set_modified(SystemTime::now());
            pins.push(lock);
        }
        Some(Checkpoint {
            store: self.folder.clone(),
            name: name.to_owned(),
            meta,
            _pins: Arc::new(pins),
        })
    }

    /// Removes checkpoints until they fit a budget: those that nothing is built on and nobody uses, the
    /// longest unused first.
    fn make_room(&self, budget: u64) -> usize {
        let mut sizes: BTreeMap<String, u64> = self
            .names()
            .into_iter()
            .map(|name| {
                let bytes = self.bytes(&name);
                (name, bytes)
            })
            .collect();
        let mut removed = 0;
        let mut kept = BTreeSet::new();
        while sizes.values().sum::<u64>() > budget || (budget == 0 && sizes.len() > kept.len()) {
            let metas: BTreeMap<&String, Option<Meta>> = sizes
                .keys()
                .map(|name| (name, self.read(name).ok()))
                .collect();
            let needed: BTreeSet<String> = metas
                .iter()
                .flat_map(|(name, meta)| {
                    let others = meta.iter().flat_map(parents);
                    others
                        .filter(move |parent| parent != name)
                        .map(str::to_owned)
                })
                .collect();
            let oldest = sizes
                .keys()
                .filter(|name| !needed.contains(*name) && !kept.contains(*name))
                .min_by_key(|name| self.last_use(name))
                .cloned();
            let Some(oldest) = oldest else { break };
            if self.remove(&oldest) {
                sizes.remove(&oldest);
                removed += 1;
            } else {
                kept.insert(oldest);
            }
        }
        removed
    }

    fn last_use(&self, name: &str) -> SystemTime {
        let lock = self.folder.join(name).join(LOCK);
        let time = lock.metadata().and_then(|data| data.modified());
        time.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn bytes(&self, name: &str) -> u64 {
        let files = fs::read_dir(self.folder.join(name)).into_iter().flatten();
        files
            .flatten()
            .filter_map(|file| file.metadata().ok())
            .map(|data| data.blocks() * 512)
            .sum()
    }

    fn remove_with_dependents(&self, name: &str) {
        for other in self.names() {
            let depends = self
                .read(&other)
                .is_ok_and(|meta| other != name && parents(&meta).any(|parent| parent == name));
            if depends {
                self.remove(&other);
            }
        }
        self.remove(name);
    }

    /// Removes a checkpoint unless somebody uses it.
    fn remove(&self, name: &str) -> bool {
        let path = self.folder.join(name);
        let lock = File::open(path.join(LOCK));
        if lock.as_ref().is_ok_and(|lock| lock.try_lock().is_err()) {
            return false;
        }
        // Its description goes first, so that half of it is never found.
        let _ = fs::remove_file(path.join(META));
        fs::remove_dir_all(&path).is_ok()
    }

    /// Removes what a run left that died while it made a checkpoint.
    fn sweep(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in entries {
            let path = entry.path();
            let draft = entry.file_name().to_string_lossy().starts_with(DRAFT);
            if !draft && path.join(META).exists() {
                // A whole one is left alone: for as long as it was locked here, another run would not find it.
                continue;
            }
            let dead = match File::open(path.join(LOCK)) {
                Ok(lock) => lock.try_lock().is_ok(),
                // One that is just being made has no lock file yet; an old one without it is litter.
                Err(_) => entry
                    .metadata()
                    .and_then(|data| data.modified())
                    .is_ok_and(|time| time.elapsed().is_ok_and(|age| age.as_secs() > 60)),
            };
            if dead {
                // What stays is swept the next time.
                let _ = fs::remove_dir_all(&path);
            }
        }
    }
}

/// The folders that a checkpoint's disks are in, its own among them.
fn parents(meta: &Meta) -> impl Iterator<Item = &str> {
    let layers = meta.disks.iter().flat_map(|disk| &disk.layers);
    layers.map(|layer| layer.folder.as_str())
}

fn damaged(path: &Path, reason: String) -> StoreError {
    StoreError::Damaged {
        file: path.display().to_string(),
        reason,
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
