//! Where artifacts are made: looked up, locked, built beside, sealed, and moved into place.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use crate::cache::Cache;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::event::{Artifact, BuildEvent, Observer};
use crate::manifest::{Facts, Manifest};

/// What every build of an artifact needs.
pub(crate) struct Workshop<'a> {
    pub(crate) cache: &'a Cache,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) cancel: Cancel,
}

/// An artifact in the cache.
#[derive(Clone)]
pub(crate) struct Built {
    pub(crate) dir: PathBuf,
    pub(crate) manifest: Manifest,
}

/// Where one artifact is being built.
pub(crate) struct Site<'a> {
    pub(crate) work: &'a Path,
    pub(crate) content: &'a Path,
    pub(crate) log: &'a Path,
    pub(crate) line: &'a dyn Fn(&str),
}

/// How many builds of an artifact stay without being asked for: the one before is what a checkout of another branch needs.
const KEPT: usize = 2;

/// A build that may still be in use by a lab that is running is left alone.
const IN_USE: SignedDuration = SignedDuration::from_hours(2);

impl Workshop<'_> {
    /// The artifact with this key: the one in the cache if it is whole, else what `make` makes. `key_now` tells whether
    /// what it is made from stayed the same meanwhile.
    pub(crate) fn obtain(
        &self,
        artifact: Artifact,
        key: &str,
        key_now: &dyn Fn() -> Result<String>,
        make: impl FnOnce(&Site<'_>) -> Result<Facts>,
    ) -> Result<Built> {
        self.cancel.check()?;
        let start = Instant::now();
        let dir = self.cache.entry_dir(artifact, key);
        let finished = |manifest: &Manifest, cached| {
            let (bytes, elapsed) = (manifest.bytes, start.elapsed());
            self.observer.event(BuildEvent::Finished {
                artifact,
                bytes,
                elapsed,
                cached,
            });
        };
        let look = || Manifest::read_whole(&dir, key, &self.cancel);
        if let Ok(manifest) = look()? {
            finished(&manifest, true);
            return Ok(Built { dir, manifest });
        }
        let waiting = || self.observer.event(BuildEvent::Waiting(artifact));
        let _lock = self
            .cache
            .lock(&format!("{artifact}-{key}"), &self.cancel, waiting)?;
        let reason = match look()? {
            Ok(manifest) => {
                finished(&manifest, true);
                return Ok(Built { dir, manifest });
            }
            Err(reason) => reason,
        };
        self.check_space(artifact)?;
        self.observer
            .event(BuildEvent::Started { artifact, reason });
        let work = self.cache.work_dir(&artifact.to_string())?;
        let content = work.path().join("content");
        fs::create_dir(&content).map_err(Error::io("make the folder", &content))?;
        let log = self.cache.log(artifact);
        drop(fs::remove_file(&log));
        let line = |line: &str| {
            self.observer.event(BuildEvent::Line {
                artifact,
                line: line.to_owned(),
            })
        };
        let facts = make(&Site {
            work: work.path(),
            content: &content,
            log: &log,
            line: &line,
        })?;
        self.cancel.check()?;
        if key_now()? != key {
            // Somebody edits a recipe, or git checks another one out: this may be half of the one and half of the other.
            return Err(Error::Unusable {
                what: artifact.to_string(),
                reason: "its recipe changed while it was built; run the same command again"
                    .to_owned(),
            });
        }
        let seconds = start.elapsed().as_secs_f64();
        let manifest = Manifest::seal(
            &content,
            artifact.to_string(),
            key.to_owned(),
            facts,
            seconds,
            &self.cancel,
        )?;
        if dir.exists() {
            let old = work.path().join("old");
            fs::rename(&dir, &old).map_err(Error::io("move away", &dir))?;
        }
        let parent = self.cache.artifact_dir(artifact);
        fs::create_dir_all(&parent).map_err(Error::io("make the folder", &parent))?;
        fs::rename(&content, &dir).map_err(Error::io("move into place", &dir))?;
        self.prune(artifact)?;
        finished(&manifest, false);
        Ok(Built { dir, manifest })
    }

    /// Removes old builds of an artifact, so that a cache does not grow with each change of a recipe.
    fn prune(&self, artifact: Artifact) -> Result<()> {
        let parent = self.cache.artifact_dir(artifact);
        let mut builds = Vec::new();
        for entry in fs::read_dir(&parent).map_err(Error::io("read", &parent))? {
            let dir = entry.map_err(Error::io("read", &parent))?.path();
            let built_at =
                Manifest::read(&dir).map_or(Timestamp::MIN, |manifest| manifest.built_at);
            builds.push((built_at, dir));
        }
        builds.sort_by(|first, second| second.cmp(first));
        let now = Timestamp::now();
        for (built_at, dir) in builds.into_iter().skip(KEPT) {
            if now.duration_since(built_at) > IN_USE {
                fs::remove_dir_all(&dir).map_err(Error::io("remove", &dir))?;
            }
        }
        Ok(())
    }

    fn check_space(&self, artifact: Artifact) -> Result<()> {
        // What the build takes at its peak, the tree and its archive side by side.
        let needed_mib = match artifact {
            Artifact::GuestPrograms | Artifact::UbuntuKernel => 200,
            Artifact::Toolbox => 800,
            Artifact::ProxmoxTree
            | Artifact::Proxmox8Tree
            | Artifact::Proxmox80Tree
            | Artifact::TruenasTree
            | Artifact::ProxmoxLike
            | Artifact::Proxmox8Like
            | Artifact::Proxmox80Like
            | Artifact::TruenasLike => 2000,
            Artifact::ZfsModule => 1500,
        };
        let free_mib = self.cache.free_space()? >> 20;
        if free_mib < needed_mib {
            return Err(Error::NoSpace {
                path: self.cache.root().to_owned(),
                free_mib,
                needed_mib,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn check(
        make: impl Fn(&Site<'_>) -> Result<Facts>,
        key_now: &str,
        between: impl Fn(&Path),
    ) -> (Vec<String>, Vec<bool>) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(dir.path().to_owned())).unwrap();
        let events = Mutex::new(Vec::new());
        let observer = |event| events.lock().unwrap().push(event);
        let workshop = Workshop {
            cache: &cache,
            observer: &observer,
            cancel: Cancel::new(),
        };
        let obtain = || workshop.obtain(Artifact::Toolbox, "k", &|| Ok(key_now.to_owned()), &make);
        let first = obtain();
        if let Ok(built) = &first {
            between(&built.dir);
        }
        let second = obtain();
        let errors = [first, second]
            .into_iter()
            .filter_map(|result| Some(result.err()?.to_string()))
            .collect();
        assert_eq!(
            fs::read_dir(cache.tmp()).unwrap().count(),
            0,
            "nothing is left over"
        );
        let cached = events
            .into_inner()
            .unwrap()
            .into_iter()
            .filter_map(|event| {
                if let BuildEvent::Finished { cached, .. } = event {
                    Some(cached)
                } else {
                    None
                }
            });
        (errors, cached.collect())
    }

    fn make(site: &Site<'_>) -> Result<Facts> {
        fs::write(site.content.join("file"), "content").unwrap();
        Ok(Facts::default())
    }

    #[test]
    fn what_is_whole_is_used_again() {
        assert_eq!(check(make, "k", |_| {}), (vec![], vec![false, true]));
    }

    #[test]
    fn what_is_damaged_is_built_again() {
        let cut = |dir: &Path| fs::write(dir.join("file"), "con").unwrap();
        assert_eq!(check(make, "k", cut), (vec![], vec![false, false]));
        let lose = |dir: &Path| fs::remove_file(dir.join("manifest.json")).unwrap();
        assert_eq!(check(make, "k", lose), (vec![], vec![false, false]));
    }

    #[test]
    fn only_old_builds_go_and_the_last_two_stay() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(dir.path().to_owned())).unwrap();
        let workshop = Workshop {
            cache: &cache,
            observer: &(),
            cancel: Cancel::new(),
        };
        let build = |key: &str, hours_ago: i64| {
            let built = workshop
                .obtain(Artifact::Toolbox, key, &|| Ok(key.to_owned()), make)
                .unwrap();
            let mut manifest = built.manifest;
            manifest.built_at -= SignedDuration::from_hours(hours_ago);
            let text = serde_json::to_vec(&manifest).unwrap();
            fs::write(built.dir.join("manifest.json"), text).unwrap();
        };
        build("oldest", 30);
        build("old", 20);
        build("running", 1);
        build("newest", 0);
        build("last", 0);
        let mut left: Vec<_> = fs::read_dir(cache.artifact_dir(Artifact::Toolbox))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["last", "newest", "running"]);
    }

    #[test]
    fn a_failed_build_leaves_nothing() {
        let fail = |_: &Site<'_>| Err(Error::NoCacheFolder);
        let (errors, finished) = check(fail, "k", |_| {});
        assert_eq!((errors.len(), finished.len()), (2, 0));
    }

    #[test]
    fn a_recipe_that_changes_meanwhile_is_noticed() {
        let (errors, finished) = check(make, "other", |_| {});
        assert!(
            errors[0].contains("changed while it was built"),
            "{}",
            errors[0]
        );
        assert!(finished.is_empty());
    }
}
