//! Digests of things that were built, and stamps that tell without reading them whether they may have changed.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::manifest::MANIFEST;

/// Chunks of zeros are left out, so that a sparse disk is hashed in the time of what it holds, and hashes alike on a file
/// system without holes.
const CHUNK: usize = 1 << 20;

/// The SHA-256 of a few named inputs, each length-prefixed so that no two lists of inputs look alike.
#[derive(Clone, Default)]
pub(crate) struct KeyHasher(Sha256);

impl KeyHasher {
    pub(crate) fn add(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    pub(crate) fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}

/// The digest of a folder's content: paths, kinds, permissions, and the bytes of files; the manifest aside.
pub(crate) fn folder_digest(root: &Path, cancel: &Cancel) -> Result<String> {
    let mut hasher = KeyHasher::default();
    for (path, meta) in walk(root)? {
        let name = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .as_os_str()
            .as_bytes();
        hasher
            .add("path", name)
            .add("mode", meta.permissions().mode().to_le_bytes());
        if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(Error::io("read the link", &path))?;
            hasher.add("link", target.as_os_str().as_bytes());
        } else if meta.is_file() {
            hasher.add("file", file_digest(&path, cancel)?);
        }
    }
    Ok(hasher.finish())
}

/// The digest of a file's length and of its chunks that are not all zeros.
pub(crate) fn file_digest(path: &Path, cancel: &Cancel) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    let mut hasher = Sha256::new();
    hasher.update(length.to_le_bytes());
    let mut chunk = vec![0; CHUNK.min(usize::try_from(length).unwrap_or(CHUNK)).max(1)];
    let zeros = vec![0; chunk.len()];
    let mut position = 0;
    while position < length {
        cancel.check()?;
        let data = match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(position)) {
            Ok(data) => data - data % CHUNK as u64,
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(_) => position,
        };
        position = data.max(position);
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(position))
            .map_err(|errno| Error::io("read", path)(errno.into()))?;
        let mut filled = 0;
        while filled < chunk.len() {
            match file
                .read(&mut chunk[filled..])
                .map_err(Error::io("read", path))?
            {
                0 => break,
                count => filled += count,
            }
        }
        if chunk[..filled] != zeros[..filled] {
            hasher.update(position.to_le_bytes());
            hasher.update(&chunk[..filled]);
        }
        position += CHUNK as u64;
    }
    Ok(hex::encode(hasher.finalize()))
}

/// What changes when a file of the folder was replaced, cut, added or removed, found without reading any.
pub(crate) fn folder_stamp(root: &Path) -> Result<String> {
    let mut hasher = KeyHasher::default();
    for (path, meta) in walk(root)? {
        if meta.is_dir() {
            continue;
        }
        let name = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .as_os_str()
            .as_bytes();
        hasher
            .add("path", name)
            .add("size", meta.len().to_le_bytes());
        hasher
            .add("mtime", meta.mtime().to_le_bytes())
            .add("nanoseconds", meta.mtime_nsec().to_le_bytes());
    }
    Ok(hasher.finish())
}

/// What the folder takes on disk, in bytes.
pub(crate) fn folder_bytes(root: &Path) -> Result<u64> {
    Ok(walk(root)?
        .iter()
        .map(|(_, meta)| meta.blocks() * 512)
        .sum())
}

fn walk(root: &Path) -> Result<Vec<(PathBuf, Metadata)>> {
    let mut entries = Vec::new();
    for entry in WalkDir::new(root).sort_by_file_name().min_depth(1) {
        let entry = entry.map_err(|error| Error::io("read", root)(error.into()))?;
        if entry.depth() == 1 && entry.file_name() == MANIFEST {
            continue;
        }
        let meta = entry
            .metadata()
            .map_err(|error| Error::io("read", entry.path())(error.into()))?;
        entries.push((entry.into_path(), meta));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    #[test]
    fn inputs_cannot_run_into_each_other() {
        let key = |pairs: &[(&str, &str)]| {
            let mut hasher = KeyHasher::default();
            for (name, value) in pairs {
                hasher.add(name, value);
            }
            hasher.finish()
        };
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(key(&[("a", ""), ("b", "")]), key(&[("a", "b")]));
        assert_eq!(key(&[("a", "b")]), key(&[("a", "b")]));
    }

    #[test]
    fn holes_and_zeros_are_the_same_and_length_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, sparse: bool, length: u64| {
            let path = dir.path().join(name);
            let mut file = File::create(&path).unwrap();
            if !sparse {
                file.write_all(&vec![0; 5 << 20]).unwrap();
            }
            file.seek(SeekFrom::Start(3 << 20)).unwrap();
            file.write_all(b"data").unwrap();
            file.set_len(length).unwrap();
            file_digest(&path, &Cancel::new()).unwrap()
        };
        assert_eq!(
            write("sparse", true, 9 << 20),
            write("full", false, 9 << 20)
        );
        assert_ne!(
            write("sparse", true, 9 << 20),
            write("longer", true, 10 << 20)
        );
    }

    #[test]
    fn a_folder_changes_with_content_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let digest = || folder_digest(dir.path(), &Cancel::new()).unwrap();
        fs::write(&file, "one").unwrap();
        let (before, stamp) = (digest(), folder_stamp(dir.path()).unwrap());
        fs::write(dir.path().join(MANIFEST), "{}").unwrap();
        assert_eq!(before, digest());
        assert_eq!(stamp, folder_stamp(dir.path()).unwrap());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let after = digest();
        assert_ne!(before, after);
        fs::write(&file, "two").unwrap();
        assert_ne!(after, digest());
        assert_ne!(stamp, folder_stamp(dir.path()).unwrap());
    }
}
