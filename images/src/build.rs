//! Building what is missing, in the order that follows from what is made of what, and side by side where nothing does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use crate::cache::Cache;
use crate::cancel::Cancel;
use crate::correction::Outcome;
use crate::disk::{self, DISK, DiskSources};
use crate::error::{Error, Result};
use crate::event::{Artifact, BuildEvent, HostImage, ImageName, Observer};
use crate::guest_programs;
use crate::manifest::{Facts, MANIFEST, Manifest};
use crate::merge;
use crate::mmdebstrap::Mmdebstrap;
use crate::privilege::Privilege;
use crate::recipe::{Recipe, recipe_of};
use crate::toolbox::Toolbox;
use crate::tree::TreeBuilder;
use crate::workshop::{Built, Site, Workshop};

/// The file of a tree's folder.
const TREE: &str = "tree.tar";
/// The file of the ZFS module's folder.
const MODULES: &str = "modules.tar";
/// The file of a folder of packages.
const PACKAGES: &str = "packages.tar";

/// Each disk and its tree. ZFS takes longest by far, so it is not the last to start.
const DISKS: [(ImageName, Artifact); 4] = [
    (ImageName::TruenasLike, Artifact::TruenasTree),
    (ImageName::ProxmoxLike, Artifact::ProxmoxTree),
    (ImageName::Proxmox8Like, Artifact::Proxmox8Tree),
    (ImageName::Proxmox80Like, Artifact::Proxmox80Tree),
];

/// A disk to lay qcow2 overlays over.
#[derive(Debug, Clone)]
pub struct DiskImage {
    /// The raw, read-only disk.
    pub path: PathBuf,
    /// The SHA-256 of its content, as it was when it was built.
    pub digest: String,
    /// The digest of all that it was built from.
    pub key: String,
    /// The version of the kernel it boots.
    pub kernel: String,
    /// The file that lists every package in it.
    pub manifest: PathBuf,
}

/// The images that were asked for, and the toolbox, without which they are of no use.
#[derive(Debug, Clone)]
pub struct Images {
    /// QEMU and the image makers.
    pub toolbox: Toolbox,
    /// The disks that were asked for.
    pub disks: BTreeMap<ImageName, DiskImage>,
}

/// The images that every lab needs, and a way to those that some need.
#[derive(Debug, Clone)]
pub struct ImageSet {
    /// QEMU and the image makers.
    pub toolbox: Toolbox,
    /// L1's disk.
    pub proxmox: DiskImage,
    /// L2's disk.
    pub truenas: DiskImage,
    cache: Cache,
}

impl ImageSet {
    /// The disk of a host; one that few labs need is made, if it is not there, which takes minutes.
    pub fn host(
        &self,
        host: HostImage,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<DiskImage> {
        if host == HostImage::ProxmoxLike {
            return Ok(self.proxmox.clone());
        }
        let name = host.name();
        let mut built = ensure(&self.cache, &[name], observer, cancel)?;
        built.disks.remove(&name).ok_or(Error::Cancelled)
    }
}

/// Makes sure that the images which every lab needs are there and whole.
pub fn ensure_all(cache: &Cache, observer: &dyn Observer, cancel: &Cancel) -> Result<ImageSet> {
    let which = [ImageName::ProxmoxLike, ImageName::TruenasLike];
    let Images { toolbox, mut disks } = ensure(cache, &which, observer, cancel)?;
    let mut disk = |name| disks.remove(&name).ok_or(Error::Cancelled);
    Ok(ImageSet {
        toolbox,
        proxmox: disk(ImageName::ProxmoxLike)?,
        truenas: disk(ImageName::TruenasLike)?,
        cache: cache.clone(),
    })
}

/// Makes sure that the toolbox and these images are there and whole; what is not is built.
pub fn ensure(
    cache: &Cache,
    which: &[ImageName],
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Images> {
    // The first failure stops the rest, without stopping what else the caller's own `cancel` is for.
    let inner = Cancel::new();
    let _forward = {
        let inner = inner.clone();
        cancel.on_cancel(move || inner.cancel())
    };
    let build = Build::new(cache, observer, inner);
    cache.sweep(|path| {
        build.host()?.privilege.remove(
            path,
            &cache.root().join("logs/sweep.log"),
            &build.workshop.cancel,
        )
    })?;
    std::thread::scope(|scope| {
        let toolbox = build.start(scope, Artifact::Toolbox, |build| build.toolbox());
        let disks: Vec<_> = DISKS
            .into_iter()
            .filter(|(name, _)| which.contains(name))
            .map(|(name, tree)| {
                let disk = name.artifact();
                let making = build.start(scope, disk, move |build| build.image(disk, tree));
                (name, making)
            })
            .collect();
        let mut images = BTreeMap::new();
        let mut errors = Vec::new();
        let toolbox = join(toolbox).map_err(|error| errors.push(error)).ok();
        for (name, making) in disks {
            match join(making) {
                Ok(disk) => drop(images.insert(name, disk)),
                Err(error) => errors.push(error),
            }
        }
        // What failed by itself made the others stop.
        let cause = |first: Error, next| if first.is_cancelled() { next } else { first };
        match (toolbox, errors.into_iter().reduce(cause)) {
            (Some(toolbox), None) => Ok(Images {
                toolbox,
                disks: images,
            }),
            (_, error) => Err(error.unwrap_or(Error::Cancelled)),
        }
    })
}

type Slot<T> = OnceLock<Result<T, Arc<Error>>>;

fn once<T: Clone>(slot: &Slot<T>, make: impl FnOnce() -> Result<T>) -> Result<T> {
    slot.get_or_init(|| make().map_err(Arc::new))
        .clone()
        .map_err(Error::Shared)
}

fn join<T>(handle: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[derive(Clone)]
struct Host {
    privilege: Privilege,
    mmdebstrap: Mmdebstrap,
}

type Programs = BTreeMap<String, (PathBuf, String)>;

struct Build<'a> {
    workshop: Workshop<'a>,
    host: Slot<Host>,
    toolbox: Slot<Toolbox>,
    programs: Slot<Programs>,
    /// Held while ZFS is made or looked up.
    zfs: Mutex<()>,
}

impl<'a> Build<'a> {
    fn new(cache: &'a Cache, observer: &'a dyn Observer, cancel: Cancel) -> Self {
        Self {
            workshop: Workshop {
                cache,
                observer,
                cancel,
            },
            host: Slot::new(),
            toolbox: Slot::new(),
            programs: Slot::new(),
            zfs: Mutex::default(),
        }
    }

    fn start<'scope, T: Send + 'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        artifact: Artifact,
        make: impl FnOnce(&Self) -> Result<T> + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, Result<T>> {
        scope.spawn(move || {
            make(self).inspect_err(|error| {
                if !error.is_cancelled() {
                    self.workshop.observer.event(BuildEvent::Failed(artifact));
                }
                self.workshop.cancel.cancel();
            })
        })
    }

    fn host(&self) -> Result<Host> {
        once(&self.host, || {
            let note = |text| self.workshop.observer.event(BuildEvent::Note(text));
            let privilege = Privilege::detect()?;
            let mmdebstrap = Mmdebstrap::find(self.workshop.cache, &self.workshop.cancel, &note)?;
            note(format!("building images as {privilege}"));
            Ok(Host {
                privilege,
                mmdebstrap,
            })
        })
    }

    fn toolbox(&self) -> Result<Toolbox> {
        once(&self.toolbox, || {
            let recipe = recipe_of(Artifact::Toolbox)?;
            let built = self.workshop.obtain(
                Artifact::Toolbox,
                &recipe.tree_key()?,
                &|| recipe_of(Artifact::Toolbox)?.tree_key(),
                |site| {
                    let archive = site.work.join(TREE);
                    let mut facts = self.mmdebstrap(&recipe, &archive, site, false)?;
                    fs::remove_dir(site.content).map_err(Error::io("remove", site.content))?;
                    merge::unpack(&archive, &recipe.tree.leave_out, site.content)?;
                    facts.corrections = self.correct(&recipe, site.content)?;
                    Ok(facts)
                },
            )?;
            Ok(Toolbox::new(built.dir, built.manifest))
        })
    }

    /// Makes the recipe's corrections below `root`; what could not be corrected is said.
    fn correct(&self, recipe: &Recipe, root: &Path) -> Result<BTreeMap<String, String>> {
        let mut made = BTreeMap::new();
        for correction in &recipe.tree.corrections {
            match correction.apply(root)? {
                Outcome::Made(how) => {
                    made.insert(correction.to_string(), how);
                }
                Outcome::Left(reason) => self.workshop.observer.event(BuildEvent::Note(format!(
                    "left as it came, without the correction {correction}: {reason}"
                ))),
            }
        }
        Ok(made)
    }

    fn programs(&self) -> Result<Programs> {
        once(&self.programs, || {
            let built = self.workshop.obtain(
                Artifact::GuestPrograms,
                &guest_programs::key()?,
                &guest_programs::key,
                |site| {
                    let log = site.log;
                    let _cargo =
                        self.workshop
                            .cache
                            .lock("guest-target", &self.workshop.cancel, || {})?;
                    guest_programs::build(
                        self.workshop.cache,
                        site.content,
                        log,
                        &self.workshop.cancel,
                        site.line,
                    )?;
                    Ok(Facts::default())
                },
            )?;
            guest_programs::digests(&built.dir, &self.workshop.cancel)
        })
    }

    /// One of the disks, and what it is made from.
    fn image(&self, disk: Artifact, tree: Artifact) -> Result<DiskImage> {
        self.disk(disk, |recipe| {
            let modules = recipe
                .disk
                .as_ref()
                .and_then(|disk| disk.modules_from.as_ref());
            match modules {
                Some(_) => self.tree_with_zfs(tree, recipe),
                None => Ok((self.tree(tree, recipe, TREE)?, None)),
            }
        })
    }

    /// A tree, and ZFS for its kernel.
    fn tree_with_zfs(&self, artifact: Artifact, recipe: &Recipe) -> Result<(Built, Option<Built>)> {
        let zfs = recipe_of(Artifact::ZfsModule)?;
        // When the archive got a new kernel between the two, the older one is built again; once is enough, as the
        // archive does not move that fast.
        for _ in 0..2 {
            let (tree, modules) = std::thread::scope(|scope| {
                let tree = scope.spawn(|| self.tree(artifact, recipe, TREE));
                // Two disks want it: the second finds it made.
                let one = self.zfs.lock().unwrap_or_else(PoisonError::into_inner);
                let modules = self.tree(Artifact::ZfsModule, &zfs, MODULES);
                drop(one);
                (join(tree), modules)
            });
            let (tree, modules) = (tree?, modules?);
            if tree.manifest.kernel == modules.manifest.kernel {
                return Ok((tree, Some(modules)));
            }
            let older = if tree.manifest.built_at < modules.manifest.built_at {
                &tree
            } else {
                &modules
            };
            let manifest = older.dir.join(MANIFEST);
            fs::remove_file(&manifest).map_err(Error::io("remove", manifest))?;
            self.workshop.observer.event(BuildEvent::Note(format!(
                "the archive has a newer kernel than {}, which is built again",
                older.manifest.name
            )));
        }
        let kernel = |artifact, recipe: &Recipe| -> Result<String> {
            let manifest =
                Manifest::read(&self.workshop.cache.entry_dir(artifact, &recipe.tree_key()?))?;
            Ok(manifest.kernel.unwrap_or_default())
        };
        Err(Error::KernelMoved {
            tree: kernel(artifact, recipe)?,
            module: kernel(Artifact::ZfsModule, &zfs)?,
        })
    }

    fn tree(&self, artifact: Artifact, recipe: &Recipe, file: &str) -> Result<Built> {
        self.workshop
            .obtain(
                artifact,
                &recipe.tree_key()?,
                &|| recipe_of(artifact)?.tree_key(),
                |site| {
                    self.mmdebstrap(
                        recipe,
                        &site.content.join(file),
                        site,
                        artifact == Artifact::ZfsModule,
                    )
                },
            )
            .inspect_err(|_| self.workshop.cancel.cancel())
    }

    fn mmdebstrap(
        &self,
        recipe: &Recipe,
        target: &Path,
        site: &Site<'_>,
        nice: bool,
    ) -> Result<Facts> {
        let packages = match &recipe.tree.packages_from {
            Some(name) => Some(self.packages(name)?),
            None => None,
        };
        let host = self.host()?;
        let builder = TreeBuilder {
            packages,
            mmdebstrap: &host.mmdebstrap,
            privilege: host.privilege,
            cancel: &self.workshop.cancel,
            nice,
        };
        builder.build(recipe, site.work, target, site.log, site.line)
    }

    /// The archive of packages that a recipe of this name keeps.
    fn packages(&self, name: &str) -> Result<PathBuf> {
        let artifact = name.parse().map_err(|_| Error::Unusable {
            what: name.to_owned(),
            reason: "nothing of this name is built".to_owned(),
        })?;
        let built = self.tree(artifact, &recipe_of(artifact)?, PACKAGES)?;
        Ok(built.dir.join(PACKAGES))
    }

    /// A disk, and only if it is not there, the trees that it is made from.
    fn disk(
        &self,
        artifact: Artifact,
        trees: impl FnOnce(&Recipe) -> Result<(Built, Option<Built>)> + Send,
    ) -> Result<DiskImage> {
        let recipe = recipe_of(artifact)?;
        let ((key, programs), trees) = std::thread::scope(|scope| {
            let key = || -> Result<(String, Programs)> {
                let programs = self.programs()?;
                Ok((disk_key(&recipe, &programs)?, programs))
            };
            // Trees take longest, so they start before it is known whether the guest programs build.
            if self.has_disk(artifact, &recipe)? {
                return Ok((key()?, None));
            }
            let trees = scope.spawn(|| trees(&recipe));
            let key = key().inspect_err(|_| self.workshop.cancel.cancel());
            let trees = join(trees);
            let is_cause = |error: &Error| !error.is_cancelled();
            match (key, trees) {
                (Ok(key), Ok(trees)) => Ok((key, Some(trees))),
                (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
                (Err(key), Err(trees)) => Err(if is_cause(&key) { key } else { trees }),
            }
        })?;
        let key_now = || disk_key(&recipe_of(artifact)?, &programs);
        let built = self.workshop.obtain(artifact, &key, &key_now, |site| {
            let (tree, modules) = trees.ok_or_else(|| Error::Unusable {
                what: artifact.to_string(),
                reason: "it vanished while it was looked at; run the same command again".to_owned(),
            })?;
            let toolbox = self.toolbox()?;
            let sources = DiskSources {
                recipe: &recipe,
                tree: tree.dir.join(TREE),
                modules: modules.as_ref().map(|built| built.dir.join(MODULES)),
                programs: programs
                    .iter()
                    .map(|(name, (path, _))| (name.clone(), path.clone()))
                    .collect(),
            };
            disk::build(
                &sources,
                &toolbox,
                site.work,
                site.content,
                site.log,
                &self.workshop.cancel,
                site.line,
            )?;
            if let Some(modules) = &modules
                && Manifest::read(&modules.dir)?.digest != modules.manifest.digest
            {
                return Err(Error::Unusable {
                    what: artifact.to_string(),
                    reason: "ZFS was built again meanwhile; run the same command again".to_owned(),
                });
            }
            let mut made_of: BTreeMap<_, _> = programs
                .iter()
                .map(|(name, (_, digest))| (name.clone(), digest.clone()))
                .collect();
            for part in [Some(&tree), modules.as_ref()].into_iter().flatten() {
                made_of.insert(part.manifest.name.clone(), part.manifest.digest.clone());
            }
            made_of.insert(Artifact::Toolbox.to_string(), toolbox.digest().to_owned());
            Ok(Facts {
                kernel: tree.manifest.kernel,
                sources: made_of,
                packages: tree.manifest.packages,
                ..Facts::default()
            })
        })?;
        Ok(DiskImage {
            path: built.dir.join(DISK),
            digest: built.manifest.digest,
            key,
            kernel: built.manifest.kernel.unwrap_or_default(),
            manifest: built.dir.join(MANIFEST),
        })
    }

    /// Whether the disk that the programs as they are now would give is there.
    fn has_disk(&self, artifact: Artifact, recipe: &Recipe) -> Result<bool> {
        let dir = self
            .workshop
            .cache
            .entry_dir(Artifact::GuestPrograms, &guest_programs::key()?);
        if !dir.join(MANIFEST).exists() {
            return Ok(false);
        }
        let key = disk_key(
            recipe,
            &guest_programs::digests(&dir, &self.workshop.cancel)?,
        )?;
        Ok(Manifest::read_whole(
            &self.workshop.cache.entry_dir(artifact, &key),
            &key,
            &self.workshop.cancel,
        )?
        .is_ok())
    }
}

/// The disk's key: its own, ZFS's if it takes modules, and the digests of the programs that go in.
pub(crate) fn disk_key(recipe: &Recipe, programs: &Programs) -> Result<String> {
    let mut sources = BTreeMap::new();
    if let Some(disk) = &recipe.disk {
        if let Some(modules) = &disk.modules_from {
            sources.insert(modules.clone(), Recipe::load(modules)?.tree_key()?);
        }
        for name in disk.programs.keys() {
            let digest = programs
                .get(name)
                .map(|(_, digest)| digest.clone())
                .unwrap_or_default();
            sources.insert(name.clone(), digest);
        }
    }
    recipe.disk_key(&sources)
}
