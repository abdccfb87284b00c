//! The stream of what QEMU saves of a machine beside its RAM, compressed on its way to a file and back.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::meta::FileMeta;
use super::packed::{PIECE, pack, unpack};

/// Writes what comes from a stream into a new file.
///
/// # Errors
/// When the stream breaks or the file cannot be written.
pub fn save_devices(mut stream: UnixStream, path: &Path) -> io::Result<FileMeta> {
    pack(path, |packer| copy(&mut stream, packer))
}

/// Gives what [`save_devices`] wrote to a stream.
///
/// # Errors
/// When the file is not the one that was written, or cannot be read, or the stream breaks. A file that
/// was changed may be noticed only when all of it has been given: whoever reads the stream must not act
/// on it before this returns.
pub fn load_devices(path: &Path, expected: &FileMeta, mut stream: UnixStream) -> io::Result<()> {
    unpack(path, expected, |unpacker| copy(unpacker, &mut stream))?;
    stream.shutdown(Shutdown::Write)
}

fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer)? {
            0 => return to.flush(),
            count => to.write_all(&buffer[..count])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::packed::damaged;
    use super::*;

    const FILE: &str = "devices";

    /// Saves `content` to a file.
    fn saved(content: &[u8]) -> (tempfile::TempDir, FileMeta) {
        let dir = tempfile::tempdir().unwrap();
        let (mut one, other) = UnixStream::pair().unwrap();
        let content = content.to_vec();
        let writer = thread::spawn(move || one.write_all(&content));
        let meta = save_devices(other, &dir.path().join(FILE)).unwrap();
        writer.join().unwrap().unwrap();
        (dir, meta)
    }

    fn loaded(path: &Path, meta: &FileMeta) -> (io::Result<()>, Vec<u8>) {
        let (one, mut other) = UnixStream::pair().unwrap();
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            other.read_to_end(&mut all).map(|_| all)
        });
        let result = load_devices(path, meta, one);
        (result, reader.join().unwrap().unwrap())
    }

    fn content() -> Vec<u8> {
        (0..3_000_000u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect()
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let (dir, meta) = saved(&content());
        let path = dir.path().join(FILE);
        assert_eq!(meta.bytes, path.metadata().unwrap().len());
        let (result, read) = loaded(&path, &meta);
        result.unwrap();
        assert!(read == content());
    }

    #[test]
    fn damage_is_an_error() {
        let (dir, meta) = saved(&content());
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for (name, bytes) in damaged(&whole) {
            std::fs::write(&path, bytes).unwrap();
            assert!(loaded(&path, &meta).0.is_err(), "{name}");
        }
    }
}
