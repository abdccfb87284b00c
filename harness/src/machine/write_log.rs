//! The log of what was written to a disk, in the order in which it was asked for, and what of it is left
//! when the power goes.
//!
//! The format is that of Linux's `dm-log-writes`, as QEMU's `blklogwrites` writes it. The number of
//! entries in its head is brought up to date only now and then, so the log is read to its end in place of
//! trusting it.

use std::ops::Range;

use crate::dice::Dice;
use crate::scenario::Flushes;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FORCED: u64 = 2;
const DISCARD: u64 = 4;
/// An entry's own words: where on the disk, how much, what.
const HEAD: usize = 32;

/// A log that is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WriteLogError {
    /// It does not begin as one.
    #[error("it does not begin as a log of writes")]
    Magic,
    /// Its sectors have a size that no disk has.
    #[error("its sectors have {0} bytes")]
    SectorSize(u32),
}

/// A log in memory.
#[derive(Debug, PartialEq, Eq)]
pub struct WriteLog {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// Something that was asked of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What.
    pub kind: Kind,
    /// Where its place in the log ends: it is in a log that is at least so long.
    pub end: u64,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// To write data.
    Write {
        /// The place on the disk, in bytes.
        offset: u64,
        /// The data's place in the log.
        data: Range<usize>,
        /// Whether it had to be on the platter before it was acknowledged.
        forced: bool,
    },
    /// To forget what is there.
    Discard {
        /// The place on the disk, in bytes.
        offset: u64,
        /// How much, in bytes.
        length: u64,
    },
    /// To bring everything from the cache to the platter.
    Flush,
}

impl WriteLog {
    /// Reads a log. What is cut off at its end is left out.
    ///
    /// # Errors
    /// When it does not begin as a log. One that is empty has no entries.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, WriteLogError> {
        let mut entries = Vec::new();
        if !bytes.is_empty() {
            let word = |at| word(&bytes, at).ok_or(WriteLogError::Magic);
            if word(0)? != MAGIC {
                return Err(WriteLogError::Magic);
            }
            let size = (word(24)? & u64::from(u32::MAX)) as u32;
            if !matches!(size, 512 | 4096) {
                return Err(WriteLogError::SectorSize(size));
            }
            entries = walk(&bytes, size as usize);
        }
        Ok(WriteLog { bytes, entries })
    }

    /// The data of a write.
    pub fn data(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }

    /// What is on the disk after a power cut at the moment when the log was `length` bytes long. With
    /// flushes obeyed that is all that was written before the last flush, what was forced, and a random
    /// part of the rest; with flushes ignored a random part of everything.
    pub fn survivors(&self, length: u64, flushes: Flushes, dice: &mut Dice) -> Vec<&Entry> {
        let count = self.entries.partition_point(|entry| entry.end <= length);
        let before = &self.entries[..count];
        let flushed = match flushes {
            Flushes::Obeyed => before.iter().rposition(|entry| entry.kind == Kind::Flush),
            Flushes::Ignored => None,
        };
        let mut kept = Vec::new();
        for (number, entry) in before.iter().enumerate() {
            let forced = matches!(entry.kind, Kind::Write { forced: true, .. });
            let safe =
                flushed.is_some_and(|last| number < last) || (forced && flushes == Flushes::Obeyed);
            if entry.kind != Kind::Flush && (safe || dice.coin()) {
                kept.push(entry);
            }
        }
        kept
    }

    /// How many writes a power cut at that moment loses, with the same dice.
    pub fn lost(&self, length: u64, flushes: Flushes, dice: &mut Dice) -> usize {
        let before = self.entries.iter().filter(|entry| entry.end <= length);
        let written = before.filter(|entry| entry.kind != Kind::Flush).count();
        written - self.survivors(length, flushes, dice).len()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}

fn walk(bytes: &[u8], sector: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut at = sector;
    while let Some(head) = bytes.get(at..at + HEAD) {
        if head.iter().all(|byte| *byte == 0) {
            // The power went before this entry was written, and after one behind it was.
            at += sector;
            continue;
        }
        let [place, count, flags] = [0, 8, 16].map(|offset| word(head, offset).unwrap_or(0));
        let bytes_of = |sectors: u64| sectors.saturating_mul(sector as u64);
        let (offset, length) = (bytes_of(place), bytes_of(count));
        let data = if flags & DISCARD == 0 { length } else { 0 };
        let start = at + sector;
        let end = usize::try_from(data)
            .ok()
            .and_then(|data| start.checked_add(data));
        let Some(end) = end.filter(|end| *end <= bytes.len()) else {
            break;
        };
        let mut push = |kind| {
            entries.push(Entry {
                kind,
                end: end as u64,
            });
        };
        // A flush that comes with data is done before the data is written.
        if flags & FLUSH != 0 {
            push(Kind::Flush);
        }
        if flags & DISCARD != 0 {
            push(Kind::Discard { offset, length });
        } else if count > 0 {
            push(Kind::Write {
                offset,
                data: start..end,
                forced: flags & FORCED != 0,
            });
        }
        at = end;
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: usize = 512;

    /// A log of these entries: sector on the disk, sectors of data, flags.
    fn log(entries: &[(u64, u64, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; SECTOR];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[24..28].copy_from_slice(&512_u32.to_le_bytes());
        for (number, (place, count, flags)) in entries.iter().enumerate() {
            let mut head = vec![0; SECTOR];
            for (at, value) in [(0, place), (8, count), (16, flags)] {
                head[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            bytes.extend(head);
            if flags & DISCARD == 0 {
                let fill = u8::try_from(number + 1).unwrap();
                bytes.extend(vec![fill; usize::try_from(*count).unwrap() * SECTOR]);
            }
        }
        bytes
    }

    fn places(kept: &[&Entry]) -> Vec<u64> {
        kept.iter()
            .map(|entry| match entry.kind {
                Kind::Write { offset, .. } | Kind::Discard { offset, .. } => offset / 512,
                Kind::Flush => panic!("a flush is no data"),
            })
            .collect()
    }

    fn kept(log: &WriteLog, flushes: Flushes, seed: u64) -> Vec<u64> {
        places(&log.survivors(u64::MAX, flushes, &mut Dice::new(seed)))
    }

    #[test]
    fn a_log_is_writes_discards_and_flushes() {
        let log = WriteLog::parse(log(&[
            (8, 2, 0),
            (0, 0, FLUSH),
            (16, 100, DISCARD),
            (24, 1, FORCED),
        ]));
        let log = log.unwrap();
        let kinds: Vec<&Kind> = log.entries.iter().map(|entry| &entry.kind).collect();
        assert_eq!(
            kinds[0],
            &Kind::Write {
                offset: 4096,
                data: 1024..2048,
                forced: false
            }
        );
        assert_eq!(kinds[1], &Kind::Flush);
        assert_eq!(
            kinds[2],
            &Kind::Discard {
                offset: 8192,
                length: 51_200
            }
        );
        assert!(matches!(
            kinds[3],
            Kind::Write {
                offset: 12_288,
                forced: true,
                ..
            }
        ));
        assert_eq!(log.data(&(1024..1026)), [1, 1]);
    }

    #[test]
    fn what_was_flushed_stays_and_of_the_rest_a_part() {
        let writes: Vec<_> = (0..64).map(|place| (place, 1, 0)).collect();
        let mut entries = writes.clone();
        entries.insert(32, (0, 0, FLUSH));
        entries.push((100, 1, FORCED));
        let log = WriteLog::parse(log(&entries)).unwrap();
        let first = kept(&log, Flushes::Obeyed, 1);
        assert_eq!(first[..32], (0..32).collect::<Vec<u64>>());
        assert_eq!(first.last(), Some(&100));
        assert!((40..60).contains(&first.len()), "{first:?}");
        assert_eq!(first, kept(&log, Flushes::Obeyed, 1));
        assert_ne!(first, kept(&log, Flushes::Obeyed, 2));
        let lying = kept(&log, Flushes::Ignored, 1);
        assert!(
            lying.iter().filter(|place| **place < 32).count() < 30,
            "{lying:?}"
        );
    }

    #[test]
    fn a_moment_is_a_length_of_the_log() {
        let log =
            WriteLog::parse(log(&[(1, 1, 0), (0, 0, FLUSH), (2, 1, 0), (0, 0, FLUSH)])).unwrap();
        for (length, expected) in [(0, &[][..]), (1536, &[]), (2048, &[1]), (5000, &[1, 2])] {
            // Tails for whatever was not flushed.
            let dice = (0..).map(Dice::new).find(|dice| !dice.clone().coin());
            let kept = log.survivors(length, Flushes::Obeyed, &mut dice.unwrap());
            assert_eq!(places(&kept), expected, "{length}");
        }
    }

    #[test]
    fn what_does_not_survive_is_lost() {
        let log = WriteLog::parse(log(&[(1, 1, 0), (0, 0, FLUSH), (2, 1, 0), (3, 1, 0)])).unwrap();
        let mut losses = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let lost = log.lost(u64::MAX, Flushes::Obeyed, &mut Dice::new(seed));
            assert_eq!(lost + kept(&log, Flushes::Obeyed, seed).len(), 3);
            losses.insert(lost);
        }
        assert_eq!(losses, [0, 1, 2].into());
        assert_eq!(log.lost(2048, Flushes::Obeyed, &mut Dice::new(1)), 0);
    }

    #[test]
    fn a_log_that_ends_in_the_middle_and_one_with_a_hole_are_read_as_far_as_they_go() {
        let whole = log(&[(1, 1, 0), (2, 4, 0)]);
        let cut = WriteLog::parse(whole[..whole.len() - 1].to_vec()).unwrap();
        assert_eq!(cut.entries.len(), 1);
        let mut hole = whole.clone();
        hole[SECTOR..3 * SECTOR].fill(0);
        let hole = WriteLog::parse(hole).unwrap();
        assert!(matches!(
            hole.entries[..],
            [Entry {
                kind: Kind::Write { offset: 1024, .. },
                ..
            }]
        ));
        assert_eq!(WriteLog::parse(Vec::new()).unwrap().entries, []);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        assert_eq!(WriteLog::parse(vec![7; 600]), Err(WriteLogError::Magic));
        assert_eq!(WriteLog::parse(vec![0; 5]), Err(WriteLogError::Magic));
        let mut strange = log(&[]);
        strange[24] = 1;
        assert_eq!(
            WriteLog::parse(strange),
            Err(WriteLogError::SectorSize(513))
        );
    }
}
