//! A machine's RAM in files: the pages that are not zero, each with its place, compressed. It is split into parts, so
//! that each processor of a small machine has one to work at.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::meta::FileMeta;
use super::packed::{PIECE, invalid, pack, unpack};

/// Parts, each written and read on a thread of its own.
const PARTS: u64 = 2;
/// Bytes of RAM that go to one part before the next part's turn comes, so that all have about as much to do.
const STRIDE: u64 = 8 << 20;
/// What is left out where it is zero: Linux' page on x86.
const PAGE: usize = 4096;
/// A run of pages begins with its place in RAM and its length, both of 8 bytes, little end first. One of no
/// length ends the part.
const HEAD: usize = 16;

/// Writes RAM into new files in a folder. Gives them by name.
///
/// # Errors
/// When RAM cannot be read or a file cannot be written.
pub fn save_ram(ram: &File, folder: &Path) -> io::Result<BTreeMap<String, FileMeta>> {
    let bytes = ram.metadata()?.len();
    let save = |part: u64| {
        let name = format!("ram-{part}.zst");
        let saved = pack(&folder.join(&name), |packer| {
            save_part(ram, bytes, part, packer)
        })?;
        Ok((name, saved))
    };
    each_on_a_thread((0..PARTS).collect(), save)
        .into_iter()
        .collect()
}

/// Fills RAM, all of it zero, with what [`save_ram`] wrote.
///
/// # Errors
/// When a file is not the one that was written, or does not fit this RAM, or cannot be read. A file that was changed
/// may be noticed only when RAM holds what is in it: nothing may be done with that before this returns.
pub fn load_ram(
    ram: &File,
    folder: &Path,
    expected: &BTreeMap<String, FileMeta>,
) -> io::Result<()> {
    let bytes = ram.metadata()?.len();
    let load = |(name, meta): (&String, &FileMeta)| {
        unpack(&folder.join(name), meta, |unpacker| {
            load_part(ram, bytes, unpacker)
        })
    };
    each_on_a_thread(expected.iter().collect(), load)
        .into_iter()
        .collect()
}

/// The results of a piece of work for each of these, in their order.
fn each_on_a_thread<A: Send, T: Send>(
    all: Vec<A>,
    work: impl Fn(A) -> io::Result<T> + Sync,
) -> Vec<io::Result<T>> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = all
            .into_iter()
            .map(|one| scope.spawn(move || work(one)))
            .collect();
        let died = |_| Err(io::Error::other("the thread that did it has died"));
        threads
            .into_iter()
            .map(|one| one.join().unwrap_or_else(died))
            .collect()
    })
}

fn save_part(ram: &File, bytes: u64, part: u64, packer: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mine = |start: u64| start / STRIDE % PARTS == part;
    let mut at = 0;
    while let Some((start, end)) = data_after(ram, at, bytes)? {
        // No further than this part's turn lasts.
        let end = end.min((start / STRIDE + 1) * STRIDE);
        at = end;
        if !mine(start) {
            continue;
        }
        let mut start = start;
        while start < end {
            let length = usize::try_from(end - start).map_or(PIECE, |rest| rest.min(PIECE));
            ram.read_exact_at(&mut buffer[..length], start)?;
            for (place, pages) in runs(&buffer[..length]) {
                packer.write_all(&head(start + place as u64, pages.len()))?;
                packer.write_all(pages)?;
            }
            start += length as u64;
        }
    }
    packer.write_all(&head(0, 0))
}

/// The next stretch of RAM that was ever written to, from a place on.
fn data_after(ram: &File, at: u64, bytes: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= bytes {
        return Ok(None);
    }
    let start = match rustix::fs::seek(ram, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(ram, SeekFrom::Hole(start))?;
    Ok(Some((start, end)))
}

/// The pages that are not zero, those that follow each other together, with their places.
fn runs(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    const ZERO: [u8; PAGE] = [0; PAGE];
    let mut at = 0;
    std::iter::from_fn(move || {
        let pages = |from: usize| bytes[from..].chunks(PAGE);
        let is_zero = |page: &&[u8]| **page == ZERO[..page.len()];
        at += pages(at)
            .take_while(is_zero)
            .map(<[u8]>::len)
            .sum::<usize>();
        let start = at;
        at += pages(at)
            .take_while(|page| !is_zero(page))
            .map(<[u8]>::len)
            .sum::<usize>();
        (at > start).then(|| (start, &bytes[start..at]))
    })
}

fn head(place: u64, length: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&place.to_le_bytes());
    head[8..].copy_from_slice(&(length as u64).to_le_bytes());
    head
}

fn load_part(ram: &File, bytes: u64, unpacker: &mut dyn Read) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let mut words = [[0; 8]; 2];
        for word in &mut words {
            unpacker.read_exact(word)?;
        }
        let [place, length] = words.map(u64::from_le_bytes);
        if length == 0 {
            return Ok(());
        }
        let fits = place.checked_add(length).is_some_and(|end| end <= bytes);
        let pages = usize::try_from(length)
            .ok()
            .filter(|_| fits)
            .and_then(|length| buffer.get_mut(..length))
            .ok_or_else(|| invalid("it has a page that this RAM has no place for"))?;
        unpacker.read_exact(pages)?;
        ram.write_all_at(pages, place)?;
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::super::packed::damaged;
    use super::*;

    const BYTES: u64 = 5 * STRIDE + 3 * PAGE as u64;

    fn empty() -> File {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(BYTES).unwrap();
        file
    }

    /// RAM with pages at its beginning and end, over the edges of strides and pieces, alone and in company, and with
    /// some that were written to and are zero.
    fn used() -> File {
        let ram = empty();
        let page = |number: u64| -> Vec<u8> {
            (0..PAGE as u64)
                .map(|at| (at * number % 251) as u8)
                .collect()
        };
        let last = BYTES / PAGE as u64 - 1;
        let edge = STRIDE / PAGE as u64;
        for number in (1..40).chain([0, edge - 1, edge, 3 * edge - 1, 300, 302, last]) {
            let place = number * PAGE as u64;
            ram.write_all_at(&page(number + 1), place).unwrap();
        }
        ram.write_all_at(&[0; 8 * PAGE], 20 * PAGE as u64).unwrap();
        ram
    }

    fn content(ram: &File) -> Vec<u8> {
        let mut all = vec![0; BYTES as usize];
        ram.read_exact_at(&mut all, 0).unwrap();
        all
    }

    #[test]
    fn ram_comes_back_as_it_was() {
        for ram in [used(), empty()] {
            let dir = tempfile::tempdir().unwrap();
            let files = save_ram(&ram, dir.path()).unwrap();
            assert_eq!(files.len() as u64, PARTS);
            for (name, meta) in &files {
                assert_eq!(dir.path().join(name).metadata().unwrap().len(), meta.bytes);
            }
            let other = empty();
            load_ram(&other, dir.path(), &files).unwrap();
            assert!(content(&other) == content(&ram));
        }
    }

    #[test]
    fn damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let files = save_ram(&used(), dir.path()).unwrap();
        for name in files.keys() {
            let path = dir.path().join(name);
            let whole = std::fs::read(&path).unwrap();
            for (what, bytes) in damaged(&whole) {
                std::fs::write(&path, bytes).unwrap();
                assert!(load_ram(&empty(), dir.path(), &files).is_err(), "{what}");
            }
            std::fs::write(&path, whole).unwrap();
        }
    }

    #[test]
    fn a_page_beyond_this_ram_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let files = save_ram(&used(), dir.path()).unwrap();
        let smaller = empty();
        smaller.set_len(BYTES - 1).unwrap();
        let error = load_ram(&smaller, dir.path(), &files).unwrap_err();
        assert!(error.to_string().contains("no place"), "{error}");
    }
}
