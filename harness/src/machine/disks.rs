//! The disk files of one lab: chains of frozen layers over an image, and the files that are written to.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::lab::Lab;

/// A disk file could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A program or file could not be used, or is not understood.
    #[error("failed to make the disk {}", path.display())]
    Io {
        /// The disk file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `qemu-img` refused.
    #[error("failed to create the disk {}: {message}", path.display())]
    Refused {
        /// The disk file.
        path: PathBuf,
        /// Its own words.
        message: String,
    },
}

impl DiskError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| DiskError::Io { path, source }
    }
}

/// One disk: files that stay as they are, oldest first, and the one that takes what is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskChain {
    /// The raw image below all layers; an empty disk has none.
    pub base: Option<PathBuf>,
    /// Frozen qcow2 files.
    pub layers: Vec<PathBuf>,
    /// The qcow2 file that is written to.
    pub active: PathBuf,
    /// The disk's size in bytes.
    pub bytes: u64,
}

/// The disks of a lab's machine.
#[derive(Debug, Clone)]
pub struct Disks {
    folder: PathBuf,
    made: u32,
    /// The host's root disk, the NAS guest's system disk, then the lab's disks in the order of
    /// [`Lab::disks`].
    pub chains: Vec<DiskChain>,
}

impl Disks {
    /// Fresh disks in `folder`: both systems as their images are, and empty data disks.
    ///
    /// # Errors
    /// [`DiskError`], as on a full disk.
    pub fn create(
        folder: &Path,
        lab: &Lab,
        images: [&Path; 2],
        blanks: &Blanks,
    ) -> Result<Self, DiskError> {
        let mut frozen = Vec::new();
        for image in images {
            let data = image.metadata().map_err(DiskError::io(image))?;
            frozen.push((Some(image.to_owned()), Vec::new(), data.len()));
        }
        frozen.extend(
            lab.disks()
                .map(|disk| (None, Vec::new(), disk.drive.data().bytes)),
        );
        Self::over(folder, frozen, blanks)
    }

    /// Disks in `folder` over frozen layers: image, layers and size of each.
    ///
    /// # Errors
    /// As [`Disks::create`].
    pub fn over(
        folder: &Path,
        frozen: Vec<(Option<PathBuf>, Vec<PathBuf>, u64)>,
        blanks: &Blanks,
    ) -> Result<Self, DiskError> {
        let mut disks = Disks {
            folder: folder.to_owned(),
            made: 0,
            chains: Vec::new(),
        };
        for (base, layers, bytes) in frozen {
            let active = disks.next_file();
            blanks.make(&active, bytes)?;
            disks.chains.push(DiskChain {
                base,
                layers,
                active,
                bytes,
            });
        }
        Ok(disks)
    }

    /// The numbers of all disks.
    pub fn all(&self) -> Range<usize> {
        0..self.chains.len()
    }

    /// Makes an empty file for each of these disks, to take what is written from now on.
    ///
    /// # Errors
    /// As [`Disks::create`].
    pub fn overlays(
        &mut self,
        numbers: Range<usize>,
        blanks: &Blanks,
    ) -> Result<BTreeMap<usize, PathBuf>, DiskError> {
        let overlay = |number: usize| {
            let file = self.next_file();
            blanks.make(&file, self.chains[number].bytes)?;
            Ok((number, file))
        };
        numbers.map(overlay).collect()
    }

    /// Notes that disks are written to these files now, and those before are frozen.
    pub fn froze(&mut self, overlays: BTreeMap<usize, PathBuf>) {
        for (number, overlay) in overlays {
            let chain = &mut self.chains[number];
            let before = std::mem::replace(&mut chain.active, overlay);
            chain.layers.push(before);
        }
    }

    /// Rearranges the disks for another lab: those with a serial number that the old lab has too keep
    /// what is on them, others are empty.
    ///
    /// # Errors
    /// As [`Disks::create`].
    pub fn move_to(&mut self, old: &Lab, new: &Lab, blanks: &Blanks) -> Result<(), DiskError> {
        let mut chains = self.chains.split_off(2);
        let mut known: BTreeMap<&str, DiskChain> = old
            .disks()
            .map(|disk| disk.serial.as_str())
            .zip(chains.drain(..))
            .collect();
        for disk in new.disks() {
            let chain = match known.remove(disk.serial.as_str()) {
                Some(chain) => chain,
                None => {
                    let active = self.next_file();
                    let bytes = disk.drive.data().bytes;
                    blanks.make(&active, bytes)?;
                    DiskChain {
                        base: None,
                        layers: Vec::new(),
                        active,
                        bytes,
                    }
                }
            };
            self.chains.push(chain);
        }
        Ok(())
    }

    fn next_file(&mut self) -> PathBuf {
        self.made += 1;
        self.folder.join(format!("{}.qcow2", self.made))
    }
}

/// Makes empty disk files. `qemu-img` is run once for each size; further files are copies.
pub struct Blanks {
    folder: PathBuf,
    qemu_img: Box<dyn Fn() -> Command + Send + Sync>,
    made: Mutex<BTreeMap<u64, PathBuf>>,
}

impl Blanks {
    /// Keeps its templates in `folder`.
    pub fn new(folder: &Path, qemu_img: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        Blanks {
            folder: folder.to_owned(),
            qemu_img: Box::new(qemu_img),
            made: Mutex::default(),
        }
    }

    /// Makes an empty disk of so many bytes at `path`.
    ///
    /// # Errors
    /// When `qemu-img` cannot be run or refuses, or the file cannot be written.
    pub fn make(&self, path: &Path, bytes: u64) -> Result<(), DiskError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let template = match made.get(&bytes) {
            Some(template) => template,
            None => {
                let template = self.folder.join(format!("blank-{bytes}.qcow2"));
                self.create(&template, bytes)?;
                made.entry(bytes).or_insert(template)
            }
        };
        std::fs::copy(template, path)
            .map(drop)
            .map_err(DiskError::io(path))
    }

    pub(super) fn qemu_img(&self) -> Command {
        (self.qemu_img)()
    }

    fn create(&self, path: &Path, bytes: u64) -> Result<(), DiskError> {
        let output = self
            .qemu_img()
            .args(["create", "-q", "-f", "qcow2"])
            .arg(path)
            .arg(bytes.to_string())
            .output()
            .map_err(DiskError::io(path))?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(DiskError::Refused {
            path: path.to_owned(),
            message,
        })
    }
}

impl std::fmt::Debug for Blanks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blanks")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}
