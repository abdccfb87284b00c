//! The disk files of one lab: overlays on frozen images, and empty data disks.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use images::{DiskImage, ImageSet};

use crate::lab::Lab;

/// A disk file could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// `qemu-img` could not be run.
    #[error("failed to run qemu-img for {}", path.display())]
    Run {
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

/// The disk files of a lab.
#[derive(Debug, Clone)]
pub struct Disks {
    /// Overlay of the Proxmox-like image.
    pub root: PathBuf,
    /// Overlay of the TrueNAS-like image.
    pub nas: PathBuf,
    /// The lab's disks, in the order of [`Lab::disks`].
    pub data: Vec<PathBuf>,
}

impl Disks {
    /// Makes all of them in `folder`; the root disk is an overlay of `host`.
    ///
    /// # Errors
    /// When `qemu-img` cannot be run, or refuses, as on a full disk.
    pub fn create(
        folder: &Path,
        lab: &Lab,
        images: &ImageSet,
        host: &DiskImage,
    ) -> Result<Self, DiskError> {
        let overlay = |name: &str, base: &Path| {
            let path = folder.join(name);
            let backing = base.to_string_lossy();
            qemu_img(images, &path, &["-F", "raw", "-b", &backing], None).map(|()| path)
        };
        let root = overlay("pve.qcow2", &host.path)?;
        let nas = overlay("nas.qcow2", &images.truenas.path)?;
        let data = lab
            .disks()
            .enumerate()
            .map(|(number, disk)| {
                let path = folder.join(format!("disk{number}.qcow2"));
                qemu_img(images, &path, &[], Some(disk.drive.data().bytes)).map(|()| path)
            })
            .collect::<Result<_, _>>()?;
        Ok(Disks { root, nas, data })
    }
}

fn qemu_img(
    images: &ImageSet,
    path: &Path,
    options: &[&str],
    bytes: Option<u64>,
) -> Result<(), DiskError> {
    let mut command: Command = images.toolbox.command("qemu-img");
    command
        .args(["create", "-q", "-f", "qcow2"])
        .args(options)
        .arg(path);
    command.args(bytes.map(|bytes| bytes.to_string()));
    let output = command.output().map_err(|source| DiskError::Run {
        path: path.to_owned(),
        source,
    })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(DiskError::Refused {
        path: path.to_owned(),
        message,
    })
}
