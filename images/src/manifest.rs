//! What a built thing consists of, written beside it when it is finished; a folder without one was never finished.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::digest::{folder_bytes, folder_digest, folder_stamp};
use crate::error::{Error, Result};

/// The manifest's name in its folder.
pub(crate) const MANIFEST: &str = "manifest.json";

/// Raised when what is built from the same recipe changes, so that older results are not used.
pub(crate) const FORMAT: u32 = 1;

/// What a built thing consists of and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The builder's format.
    pub format: u32,
    /// What this is.
    pub name: String,
    /// The digest of all that it was built from.
    pub key: String,
    /// The SHA-256 of its content.
    pub digest: String,
    /// When it was finished.
    pub built_at: jiff::Timestamp,
    /// How long the build took.
    pub seconds: f64,
    /// What it takes on disk.
    pub bytes: u64,
    /// The kernel in it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Digests of what it was built from, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, String>,
    /// Every Debian package in it, with its version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub packages: BTreeMap<String, String>,
    /// What was corrected in its programs, by the correction's name; absent where a program was left as it came.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub corrections: BTreeMap<String, String>,
    /// Sizes and times of its files, to notice damage without reading them.
    pub stamp: String,
}

/// What a builder knows of its result.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) kernel: Option<String>,
    pub(crate) sources: BTreeMap<String, String>,
    pub(crate) packages: BTreeMap<String, String>,
    pub(crate) corrections: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads the manifest in `dir`.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&text).map_err(|error| Error::Unusable {
            what: path.display().to_string(),
            reason: error.to_string(),
        })
    }

    /// Describes the finished content of `dir` and writes that into it.
    pub(crate) fn seal(
        dir: &Path,
        name: String,
        key: String,
        facts: Facts,
        seconds: f64,
        cancel: &Cancel,
    ) -> Result<Self> {
        let manifest = Self {
            format: FORMAT,
            name,
            key,
            digest: folder_digest(dir, cancel)?,
            built_at: jiff::Timestamp::now(),
            seconds: (seconds * 10.0).round() / 10.0,
            bytes: folder_bytes(dir)?,
            kernel: facts.kernel,
            sources: facts.sources,
            packages: facts.packages,
            corrections: facts.corrections,
            stamp: folder_stamp(dir)?,
        };
        manifest.write(dir)?;
        Ok(manifest)
    }

    /// The manifest of `dir` if its content is, as far as sizes and times tell, what was built. Where only times differ, as
    /// after the cache was copied, the content is read once and the times are noted anew.
    pub(crate) fn read_whole(
        dir: &Path,
        key: &str,
        cancel: &Cancel,
    ) -> Result<Result<Self, String>> {
        if !dir.exists() {
            return Ok(Err("not built yet".to_owned()));
        }
        let mut manifest = match Self::read(dir) {
            Ok(manifest) => manifest,
            Err(error) => return Ok(Err(format!("half-built: {error}"))),
        };
        if manifest.key != key || manifest.format != FORMAT {
            return Ok(Err("its manifest belongs to something else".to_owned()));
        }
        let stamp = folder_stamp(dir)?;
        if manifest.stamp != stamp {
            if folder_digest(dir, cancel)? != manifest.digest {
                return Ok(Err("damaged: its content is not what was built".to_owned()));
            }
            manifest.stamp = stamp;
            manifest.write(dir)?;
        }
        Ok(Ok(manifest))
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(MANIFEST);
        let text = serde_json::to_vec_pretty(self).map_err(|error| Error::Unusable {
            what: path.display().to_string(),
            reason: error.to_string(),
        })?;
        let beside = tempfile::NamedTempFile::new_in(dir).map_err(Error::io("write in", dir))?;
        fs::write(beside.path(), text).map_err(Error::io("write", beside.path()))?;
        beside
            .persist(&path)
            .map_err(|error| Error::io("write", &path)(error.error))?;
        Ok(())
    }
}

/// The packages that a dpkg status file lists as installed.
pub(crate) fn parse_dpkg_status(text: &str) -> BTreeMap<String, String> {
    let mut packages = BTreeMap::new();
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            paragraph
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        if let (Some(name), Some(version), Some(status)) =
            (field("Package"), field("Version"), field("Status"))
            && status.ends_with(" installed")
        {
            packages.insert(name.to_owned(), version.to_owned());
        }
    }
    packages
}

/// The packages behind names such as `libc6_2.41-12_amd64.deb`; apt writes the colon of an epoch as `%3a`.
pub(crate) fn parse_deb_names(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.trim().strip_suffix(".deb")?.splitn(3, '_');
            Some((
                parts.next()?.to_owned(),
                parts.next()?.replace("%3a", ":").replace("%3A", ":"),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(dir: &Path) -> Manifest {
        fs::write(dir.join("disk.raw"), "content").unwrap();
        Manifest::seal(
            dir,
            "toolbox".into(),
            "k".into(),
            Facts::default(),
            1.25,
            &Cancel::new(),
        )
        .unwrap()
    }

    fn read(dir: &Path, key: &str) -> Result<Manifest, String> {
        Manifest::read_whole(dir, key, &Cancel::new()).unwrap()
    }

    #[test]
    fn what_was_sealed_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = sealed(dir.path());
        assert_eq!(read(dir.path(), "k"), Ok(manifest));
    }

    #[test]
    fn damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            read(&dir.path().join("none"), "k")
                .unwrap_err()
                .contains("not built")
        );
        sealed(dir.path());
        assert!(
            read(dir.path(), "other")
                .unwrap_err()
                .contains("something else")
        );
        fs::write(dir.path().join("disk.raw"), "cut").unwrap();
        assert!(read(dir.path(), "k").unwrap_err().contains("damaged"));
        fs::write(dir.path().join(MANIFEST), "{").unwrap();
        assert!(read(dir.path(), "k").unwrap_err().contains("half-built"));
    }

    #[test]
    fn a_copied_cache_is_read_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = sealed(dir.path());
        let file = fs::File::options()
            .write(true)
            .open(dir.path().join("disk.raw"))
            .unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        let noted = read(dir.path(), "k").unwrap();
        assert_ne!(noted.stamp, manifest.stamp);
        assert_eq!(read(dir.path(), "k"), Ok(noted));
    }

    #[test]
    fn package_lists_are_parsed() {
        let status = "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n";
        assert_eq!(
            parse_dpkg_status(status),
            BTreeMap::from([("bash".to_owned(), "5.2-1".to_owned())])
        );
        let names = "qemu-utils_1%3a11.1.3+ds-1_amd64.deb\nlock\npartial\n";
        assert_eq!(
            parse_deb_names(names),
            BTreeMap::from([("qemu-utils".to_owned(), "1:11.1.3+ds-1".to_owned())])
        );
    }
}
