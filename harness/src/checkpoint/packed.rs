//! Files that are compressed and digested on their way to the disk and back.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use super::hashing::Hashing;
use super::meta::FileMeta;

/// The fastest of zstd's usual levels: a state is written once and read a few times, and the machine
/// waits for both.
const LEVEL: i32 = 1;
/// What is read and written at a time.
pub(super) const PIECE: usize = 1 << 20;

/// Makes a new file of what is written.
pub(super) fn pack(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<FileMeta> {
    pack_into(File::create_new(path)?, write)
}

fn pack_into(
    file: File,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<FileMeta> {
    let file = Hashing::new(file);
    let mut packer = zstd::Encoder::new(BufWriter::with_capacity(PIECE, file), LEVEL)?;
    write(&mut packer)?;
    let file = packer.finish()?;
    Ok(file
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .finish())
}

/// Gives what is in such a file. One that was changed may be noticed only when all of it has been read.
pub(super) fn unpack(
    path: &Path,
    expected: &FileMeta,
    read: impl FnOnce(&mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = Hashing::new(File::open(path)?);
    let mut unpacker = zstd::Decoder::new(&mut file)?;
    read(&mut unpacker)?;
    drop(unpacker);
    // What comes after the last frame counts too.
    io::copy(&mut file, &mut io::sink())?;
    if file.finish() != *expected {
        return Err(invalid("its content is not what was written"));
    }
    Ok(())
}

/// An error of a file that is not what it should be.
pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// What can become of a file, each with its name.
#[cfg(test)]
pub(super) fn damaged(whole: &[u8]) -> [(&'static str, Vec<u8>); 4] {
    let mut altered = whole.to_vec();
    altered[whole.len() / 2] ^= 1;
    let mut longer = whole.to_vec();
    longer.push(0);
    [
        ("cut", whole[..whole.len() - 9].to_vec()),
        ("empty", Vec::new()),
        ("altered", altered),
        ("longer", longer),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_full_is_an_error_at_the_latest_at_the_end() {
        for size in [1, 100 * PIECE] {
            let file = File::options().write(true).open("/dev/full").unwrap();
            let mut random = crate::dice::Dice::new(1);
            let data: Vec<u8> = std::iter::repeat_with(|| random.roll().to_le_bytes())
                .take(size.div_ceil(8))
                .flatten()
                .collect();
            let packed = pack_into(file, |packer| packer.write_all(&data));
            let error = packed.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{size}");
        }
    }
}
