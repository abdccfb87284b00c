//! Which QEMU runs the lab.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scenario::digest_of;

/// A QEMU that somebody named cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// It cannot be run.
    #[error("failed to run {}; give the path of a qemu-system-x86_64", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It runs, and is no QEMU.
    #[error("{} does not say which QEMU it is: {said}", program.display())]
    NotQemu {
        /// The program.
        program: PathBuf,
        /// What it printed instead.
        said: String,
    },
}

/// A QEMU: how it is called, where its firmware is, and which build it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuProgram {
    prefix: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    data_dirs: Vec<PathBuf>,
    version: String,
    digest: String,
}

impl QemuProgram {
    /// A QEMU that is unpacked rather than installed. `prefix` is the program and what comes before
    /// its own arguments, such as a dynamic loader with a library path; `data_dirs` are the folders
    /// of its firmware; `digest` changes whenever any of it does.
    pub fn unpacked(
        prefix: Vec<OsString>,
        data_dirs: Vec<PathBuf>,
        version: String,
        digest: String,
    ) -> Self {
        QemuProgram {
            prefix,
            environment: Vec::new(),
            data_dirs,
            version,
            digest,
        }
    }

    /// The same QEMU with a variable in its environment, such as `QEMU_MODULE_DIR`, without which an
    /// unpacked one looks for its modules where another may be installed.
    pub fn with_environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A QEMU that is installed, with firmware where it looks for it itself.
    ///
    /// # Errors
    /// When it cannot be run or is not QEMU.
    pub fn installed(path: &Path) -> Result<Self, QemuError> {
        let failed = |source| QemuError::Run {
            program: path.to_owned(),
            source,
        };
        let asked = |words: &[&str]| {
            let output = Command::new(path).args(words).output().map_err(failed)?;
            Ok::<_, QemuError>(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let said = asked(&["--version"])?;
        let version = parse_version(&said).ok_or_else(|| QemuError::NotQemu {
            program: path.to_owned(),
            said: said.trim().to_owned(),
        })?;
        let program = stamp(path).map_err(failed)?;
        // Firmware comes in packages of its own, and a machine begins with it. Modules are of QEMU's own build, or QEMU
        // does not load them.
        let folders = asked(&["-L", "help"])?;
        let firmware = digest_of(&stamps(folders.lines().map(Path::new)));
        Ok(QemuProgram {
            prefix: vec![path.into()],
            environment: Vec::new(),
            data_dirs: Vec::new(),
            digest: format!("{version} {program} {firmware}"),
            version,
        })
    }

    /// The program, ready for QEMU's own arguments.
    pub fn command(&self) -> Command {
        let mut prefix = self.prefix.iter();
        let mut command = Command::new(prefix.next().cloned().unwrap_or_default());
        command.args(prefix);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The folders of its firmware, for `-L`; empty when it knows them itself.
    pub fn data_dirs(&self) -> Vec<PathBuf> {
        self.data_dirs.clone()
    }

    /// Its version, for people.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What tells this build from another one.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// A file's path, size and time. They stand for the content: they change with every build that is installed.
fn stamp(path: &Path) -> io::Result<String> {
    let file = path.metadata()?;
    let (bytes, seconds, rest) = (file.len(), file.mtime(), file.mtime_nsec());
    Ok(format!("{} {bytes} {seconds}.{rest}", path.display()))
}

/// The stamps of all files in these folders, in order; a folder that is not there has none.
fn stamps<'a>(folders: impl Iterator<Item = &'a Path>) -> Vec<String> {
    let entries = folders
        .filter_map(|folder| folder.read_dir().ok())
        .flatten();
    let files = entries
        .flatten()
        .filter_map(|entry| stamp(&entry.path()).ok());
    let mut stamps: Vec<String> = files.collect();
    stamps.sort();
    stamps
}

/// `QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)` and a copyright line below.
fn parse_version(text: &str) -> Option<String> {
    let line = text.lines().next()?;
    let version = line.strip_prefix("QEMU emulator version ")?.trim();
    (!version.is_empty()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn qemus_first_line_names_the_version() {
        let text = "QEMU emulator version 10.0.3 (Debian 1:10.0.3+ds-0+deb13u1)\nCopyright (c)\n";
        let version = parse_version(text).unwrap();
        assert_eq!(version, "10.0.3 (Debian 1:10.0.3+ds-0+deb13u1)");
        assert_eq!(parse_version("bash: qemu: command not found\n"), None);
    }

    #[test]
    fn a_program_that_is_no_qemu_is_refused() {
        let error = QemuProgram::installed(Path::new("/bin/true")).unwrap_err();
        assert!(matches!(error, QemuError::NotQemu { .. }), "{error}");
        let error = QemuProgram::installed(Path::new("/no/qemu")).unwrap_err();
        assert!(matches!(error, QemuError::Run { .. }), "{error}");
    }

    #[test]
    fn firmware_that_was_replaced_makes_it_another_qemu() {
        let folder = tempfile::tempdir().unwrap();
        let (program, firmware) = (folder.path().join("qemu"), folder.path().join("share"));
        fs::create_dir(&firmware).unwrap();
        fs::write(firmware.join("bios-256k.bin"), "one").unwrap();
        let script = format!(
            "#!/bin/sh\n[ $1 = -L ] && echo {} || echo QEMU emulator version 11.1.3\n",
            firmware.display()
        );
        fake_program::write(&program, &script);
        let digest = || {
            QemuProgram::installed(&program)
                .unwrap()
                .digest()
                .to_owned()
        };
        let before = digest();
        assert_eq!(before, digest());
        fs::write(firmware.join("bios-256k.bin"), "another").unwrap();
        assert_ne!(before, digest());
    }

    #[test]
    fn an_unpacked_qemu_is_called_with_its_prefix() {
        let prefix = ["/tb/ld.so", "--library-path", "/tb/lib", "/tb/qemu"].map(OsString::from);
        let qemu = QemuProgram::unpacked(prefix.to_vec(), Vec::new(), "11".into(), "d".into())
            .with_environment("QEMU_MODULE_DIR", "/tb/modules");
        let command = qemu.command();
        assert_eq!(command.get_program(), "/tb/ld.so");
        assert_eq!(command.get_args().count(), 3);
        assert_eq!(command.get_envs().count(), 1);
    }
}
