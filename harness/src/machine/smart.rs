//! What the SATA disks say of their health. QEMU answers with constants, the same for every disk, and offers no way to set
//! them: they are changed in the memory of the QEMU that runs. Nothing of it is on a disk or in a checkpoint.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use super::power::{Machine, MachineError};

/// QEMU's table (hw/ide/core.c, `smart_attributes`) has a row of twelve C integers for each attribute: its number, two
/// of flags, value, worst, six of the raw value with the low byte first, and the threshold.
const COLUMNS: usize = 12;
const INTEGER: usize = size_of::<i32>();
const ROW: usize = COLUMNS * INTEGER;
/// Where the raw value is in a row.
const RAW: usize = 5 * INTEGER;
/// How the first row begins: the rate of read errors, at its best.
const BEGINNING: [i32; 5] = [1, 3, 0, 100, 100];
/// The number of the attribute that counts the sectors that a disk has replaced.
const REALLOCATED: i32 = 5;
/// The table has seven rows.
const MOST_ROWS: usize = 16;

impl Machine {
    /// Has every SATA disk say that it has replaced so many sectors.
    ///
    /// # Errors
    /// When this QEMU has no such table, or its memory cannot be written to.
    pub fn reallocate(&self, sectors: u16) -> Result<(), MachineError> {
        let set = || {
            let process = self.process.id();
            let memory = File::options()
                .read(true)
                .write(true)
                .open(format!("/proc/{process}/mem"))?;
            let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
            let row = constants(&maps).find_map(|(start, length)| {
                let mut bytes = vec![0; length];
                // What cannot be read is not the table.
                memory.read_exact_at(&mut bytes, start).ok()?;
                Some(start + reallocated(&bytes)? as u64)
            });
            let missing =
                || io::Error::other("this QEMU has no table of attributes as it was in 2025");
            let [low, high] = sectors.to_le_bytes().map(i32::from);
            let raw = integers(&[low, high]);
            memory.write_all_at(&raw, row.ok_or_else(missing)? + RAW as u64)
        };
        set().map_err(|source| MachineError::SetUp {
            what: "SMART attributes",
            source,
        })
    }
}

/// Where QEMU's program has been mapped to be read only: the beginning and length of each place.
fn constants(maps: &str) -> impl Iterator<Item = (u64, usize)> {
    maps.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (range, rights, path) = (words.next()?, words.next()?, words.nth(3)?);
        let (start, end) = range.split_once('-')?;
        let [start, end] = [start, end].map(|digits| u64::from_str_radix(digits, 16).ok());
        let length = usize::try_from(end?.checked_sub(start?)?).ok()?;
        let of_qemu = path.rsplit('/').next()?.starts_with("qemu-system");
        (of_qemu && rights.starts_with("r--")).then_some((start?, length))
    })
}

/// Where the row of [`REALLOCATED`] begins.
fn reallocated(bytes: &[u8]) -> Option<usize> {
    let beginning = integers(&BEGINNING);
    let first = bytes
        .windows(beginning.len())
        .step_by(INTEGER)
        .position(|window| window == beginning)?
        * INTEGER;
    let number = integers(&[REALLOCATED]);
    (0..MOST_ROWS)
        .map(|row| first + row * ROW)
        .find(|at| bytes.get(*at..*at + INTEGER) == Some(&number))
}

fn integers(all: &[i32]) -> Vec<u8> {
    all.iter().flat_map(|one| one.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_is_found_behind_the_first_one() {
        let mut bytes = vec![7; 40];
        for number in [1, 3, 4, 5, 9] {
            let mut row = [0; COLUMNS];
            row[..5].copy_from_slice(&[number, 3, 0, 100, 100]);
            bytes.extend(integers(&row));
        }
        assert_eq!(reallocated(&bytes), Some(40 + 3 * ROW));
        assert_eq!(reallocated(&bytes[..40 + 3 * ROW]), None);
        assert_eq!(reallocated(&bytes[40 + ROW..]), None);
    }

    #[test]
    fn qemus_constants_are_where_its_program_can_only_be_read() {
        let maps = "\
7f512c600000-7f512cad9000 r--p 00000000 fe:00 101  /toolbox/usr/bin/qemu-system-x86_64
7f512cad9000-7f512d157000 r-xp 004d9000 fe:00 101  /toolbox/usr/bin/qemu-system-x86_64
7f512d157000-7f512d158000 r--p 00b57000 fe:00 101  /toolbox/usr/bin/qemu-system-x86_64
7f512e2ce000-7f512e3e3000 rw-p 01cce000 fe:00 101  /toolbox/usr/bin/qemu-system-x86_64
7f512f2ce000-7f512f3e3000 r--p 00000000 fe:00 102  /toolbox/usr/lib/libc.so.6
7f5130000000-7f5130021000 r--p 00000000 00:00 0
";
        let found: Vec<_> = constants(maps).collect();
        assert_eq!(
            found,
            [(0x7f51_2c60_0000, 0x4d_9000), (0x7f51_2d15_7000, 0x1000)]
        );
    }
}
