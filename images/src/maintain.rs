//! Looking after the cache: what is in it, whether it is whole, and removing what nothing needs any more.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use strum::IntoEnumIterator;

use crate::build::disk_key;
use crate::cache::Cache;
use crate::cancel::Cancel;
use crate::digest::{folder_bytes, folder_digest};
use crate::error::{Error, Result};
use crate::event::{Artifact, ImageName};
use crate::guest_programs;
use crate::manifest::{MANIFEST, Manifest};
use crate::privilege::Privilege;
use crate::recipe::recipe_of;

/// One built thing in the cache.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it is.
    pub artifact: Artifact,
    /// The digest of what it was built from.
    pub key: String,
    /// Its folder.
    pub dir: PathBuf,
    /// What it takes on disk.
    pub bytes: u64,
    /// It belongs to the recipes as they are now.
    pub current: bool,
    /// What it consists of, unless it is half-built.
    pub manifest: Option<Manifest>,
}

/// What `verify` found of one entry.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The entry.
    pub entry: Entry,
    /// What is wrong with it; it is then built again when it is next needed.
    pub problem: Option<String>,
}

/// What `clean` leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// What the recipes as they are now give.
    Current,
    /// Nothing.
    Nothing,
}

/// What `ensure` would find of one image.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// It is there and, as far as sizes and times tell, whole.
    Ready(Box<Manifest>),
    /// It would be built, and why.
    Missing(String),
}

/// What `ensure` would find, without building anything.
pub fn status(cache: &Cache, image: ImageName) -> Result<State> {
    let artifact = image.artifact();
    let Some(key) = current_keys(cache)?.remove(&artifact) else {
        return Ok(State::Missing(
            "the guest programs are not built yet".to_owned(),
        ));
    };
    Ok(
        match Manifest::read_whole(&cache.entry_dir(artifact, &key), &key, &Cancel::new())? {
            Ok(manifest) => State::Ready(Box::new(manifest)),
            Err(reason) => State::Missing(reason),
        },
    )
}

/// Everything in the cache.
pub fn list(cache: &Cache) -> Result<Vec<Entry>> {
    let current = current_keys(cache)?;
    let mut entries = Vec::new();
    for artifact in Artifact::iter() {
        for dir in folders(&cache.artifact_dir(artifact))? {
            let key = dir
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            let bytes = folder_bytes(&dir)?;
            let current = current.get(&artifact) == Some(&key);
            entries.push(Entry {
                artifact,
                key,
                bytes,
                current,
                manifest: Manifest::read(&dir).ok(),
                dir,
            });
        }
    }
    Ok(entries)
}

/// Reads everything in the cache and compares it with what was built; `heard` is told each verdict as it falls.
pub fn verify(
    cache: &Cache,
    cancel: &Cancel,
    heard: &mut dyn FnMut(&Verdict),
) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for entry in list(cache)? {
        let problem = match &entry.manifest {
            None => Some("half-built: it has no manifest".to_owned()),
            Some(manifest) if manifest.key != entry.key => {
                Some("its manifest belongs to something else".to_owned())
            }
            Some(manifest) => {
                let digest = folder_digest(&entry.dir, cancel)?;
                (digest != manifest.digest).then(|| {
                    format!(
                        "damaged: its SHA-256 is {digest}, and {} was built",
                        manifest.digest
                    )
                })
            }
        };
        if problem.is_some() && entry.manifest.is_some() {
            // A folder without a manifest is built again.
            let path = entry.dir.join(MANIFEST);
            fs::remove_file(&path).map_err(Error::io("remove", path))?;
        }
        let verdict = Verdict { entry, problem };
        heard(&verdict);
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

/// Removes what `keep` does not name, and what dead builds left; returns the bytes that were freed.
pub fn clean(cache: &Cache, keep: Keep) -> Result<u64> {
    cache.sweep(|path| {
        Privilege::detect()?.remove(path, &cache.root().join("logs/sweep.log"), &Cancel::new())
    })?;
    let mut freed = 0;
    for entry in list(cache)? {
        let whole = entry.manifest.is_some();
        let in_work = cache.is_locked(&format!("{}-{}", entry.artifact, entry.key));
        if in_work || (keep == Keep::Current && entry.current && whole) {
            continue;
        }
        fs::remove_dir_all(&entry.dir).map_err(Error::io("remove", &entry.dir))?;
        freed += entry.bytes;
    }
    if keep == Keep::Nothing {
        for dir in [cache.tools(), cache.cargo_target()] {
            if dir.exists() {
                freed += folder_bytes(&dir)?;
                fs::remove_dir_all(&dir).map_err(Error::io("remove", &dir))?;
            }
        }
    }
    Ok(freed)
}

/// The keys that the recipes give now; a disk has none until its guest programs are built.
fn current_keys(cache: &Cache) -> Result<BTreeMap<Artifact, String>> {
    let programs_key = guest_programs::key()?;
    let programs = cache.entry_dir(Artifact::GuestPrograms, &programs_key);
    let digests = if programs.join(MANIFEST).exists() {
        Some(guest_programs::digests(&programs, &Cancel::new())?)
    } else {
        None
    };
    let mut keys = BTreeMap::from([(Artifact::GuestPrograms, programs_key)]);
    for artifact in Artifact::iter() {
        match artifact {
            Artifact::GuestPrograms => {}
            Artifact::ProxmoxLike
            | Artifact::Proxmox8Like
            | Artifact::Proxmox80Like
            | Artifact::TruenasLike => {
                if let Some(digests) = &digests {
                    keys.insert(artifact, disk_key(&recipe_of(artifact)?, digests)?);
                }
            }
            Artifact::Toolbox
            | Artifact::ProxmoxTree
            | Artifact::Proxmox8Tree
            | Artifact::Proxmox80Tree
            | Artifact::UbuntuKernel
            | Artifact::TruenasTree
            | Artifact::ZfsModule => {
                keys.insert(artifact, recipe_of(artifact)?.tree_key()?);
            }
        }
    }
    Ok(keys)
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut folders = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let path = entry.map_err(Error::io("read", dir))?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}
