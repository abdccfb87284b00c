//! The toolbox: QEMU and the image makers of one Debian suite, unpacked, and run through their own dynamic loader.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::manifest::Manifest;

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";

/// The unpacked toolbox.
#[derive(Debug, Clone)]
pub struct Toolbox {
    root: PathBuf,
    manifest: Manifest,
}

impl Toolbox {
    pub(crate) fn new(root: PathBuf, manifest: Manifest) -> Self {
        Self { root, manifest }
    }

    /// The folder that takes the place of `/`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The SHA-256 of its content.
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// What it consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// QEMU's upstream version, such as `11.1.3`.
    pub fn qemu_version(&self) -> &str {
        let version = self
            .manifest
            .packages
            .get("qemu-system-x86")
            .map_or("", String::as_str);
        let version = version.split_once(':').map_or(version, |(_, rest)| rest);
        version.split(['+', '-', '~']).next().unwrap_or(version)
    }

    /// A command that runs one of its programs: `qemu-system-x86_64`, `qemu-img`, or a path such as `usr/sbin/mke2fs`.
    pub fn command(&self, program: &str) -> Command {
        let argv = self.argv_prefix(program);
        let mut command = Command::new(&argv[0]);
        command
            .args(&argv[1..])
            .env("QEMU_MODULE_DIR", self.qemu_module_dir());
        command
    }

    /// The words in front of a program's arguments: the loader, its library path, and the program.
    pub fn argv_prefix(&self, program: &str) -> Vec<OsString> {
        let program = if program.contains('/') {
            self.root.join(program)
        } else {
            self.find(program)
        };
        vec![
            self.root.join(LOADER).into(),
            "--library-path".into(),
            self.root.join(LIBRARIES).into(),
            program.into(),
        ]
    }

    /// QEMU's data folders, each for a `-L` of its own.
    pub fn qemu_data_dirs(&self) -> Vec<PathBuf> {
        ["usr/share/qemu", "usr/share/seabios"]
            .map(|dir| self.root.join(dir))
            .to_vec()
    }

    /// The value of `QEMU_MODULE_DIR` that makes QEMU find its modules here.
    pub fn qemu_module_dir(&self) -> PathBuf {
        self.root.join(LIBRARIES).join("qemu")
    }

    fn find(&self, program: &str) -> PathBuf {
        let folders = ["usr/bin", "usr/sbin"].map(|folder| self.root.join(folder).join(program));
        folders
            .iter()
            .find(|path| path.exists())
            .unwrap_or(&folders[0])
            .clone()
    }
}
