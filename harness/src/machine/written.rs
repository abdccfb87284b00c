//! What guests have written to a disk: read from its frozen layers, by `qemu-img map`.

use std::io;
use std::ops::Range;

use serde::Deserialize;
use serde_json::{Value, json};

use super::disks::{Blanks, DiskChain, DiskError};

impl DiskChain {
    /// The frozen part of the disk, as QEMU is told a block node; none when nothing is frozen yet.
    pub fn frozen(&self) -> Option<Value> {
        let file = |path: &std::path::Path| json!({ "driver": "file", "filename": path.to_string_lossy(), "cache": { "no-flush": true } });
        let base = self.base.as_deref();
        let base =
            base.map(|base| json!({ "driver": "raw", "read-only": true, "file": file(base) }));
        self.layers.iter().fold(base, |below, layer| {
            Some(json!({
                "driver": "qcow2", "read-only": true, "file": file(layer), "backing": below,
            }))
        })
    }
}

impl Blanks {
    /// The parts of a disk that its frozen layers have data for, in order.
    ///
    /// # Errors
    /// When `qemu-img` cannot be run, refuses, or prints what is not understood.
    pub fn written(&self, chain: &DiskChain) -> Result<Vec<Range<u64>>, DiskError> {
        let Some(frozen) = chain.frozen() else {
            return Ok(Vec::new());
        };
        let path = chain.layers.last().or(chain.base.as_ref());
        let path = path.cloned().unwrap_or_default();
        let output = self
            .qemu_img()
            .args(["map", "--output=json"])
            .arg(format!("json:{frozen}"))
            .output();
        let failed = |source| DiskError::Io {
            path: path.clone(),
            source,
        };
        let output = output.map_err(failed)?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(DiskError::Refused { path, message });
        }
        parse(&output.stdout).map_err(|error| failed(io::Error::other(error)))
    }
}

#[derive(Deserialize)]
struct Extent {
    start: u64,
    length: u64,
    data: bool,
    zero: bool,
}

fn parse(text: &[u8]) -> serde_json::Result<Vec<Range<u64>>> {
    let extents: Vec<Extent> = serde_json::from_slice(text)?;
    let data = extents.into_iter().filter(|one| one.data && !one.zero);
    Ok(data.map(|one| one.start..one.start + one.length).collect())
}

/// So many blocks of a size, spread evenly over those that lie in `written` and in `within`.
pub fn spread(written: &[Range<u64>], within: Range<u64>, size: u64, count: u64) -> Vec<u64> {
    let blocks = |range: &Range<u64>| {
        let first = range.start.max(within.start).div_ceil(size);
        let end = range.end.min(within.end) / size;
        first..end.max(first)
    };
    let ranges: Vec<Range<u64>> = written.iter().map(blocks).collect();
    let all: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let count = count.min(all);
    let mut chosen: Vec<u64> = Vec::new();
    let mut passed = 0;
    for range in ranges {
        let length = range.end - range.start;
        while let Some(rank) = (chosen.len() as u64)
            .lt(&count)
            .then(|| chosen.len() as u64 * all / count)
            .filter(|rank| *rank < passed + length)
        {
            chosen.push((range.start + rank - passed) * size);
        }
        passed += length;
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_its_data() {
        let text = br#"[
            { "start": 0, "length": 65536, "depth": 0, "present": true, "zero": false, "data": true, "compressed": false, "offset": 327680},
            { "start": 65536, "length": 131072, "depth": 1, "present": false, "zero": true, "data": false, "compressed": false},
            { "start": 196608, "length": 65536, "depth": 1, "present": true, "zero": false, "data": true, "compressed": false, "offset": 1}]"#;
        assert_eq!(parse(text).unwrap(), [0..65536, 196_608..262_144]);
        assert!(parse(b"{}").is_err());
    }

    #[test]
    fn blocks_are_spread_over_what_is_written() {
        let written = [0..40, 100..140, 1000..1001];
        assert_eq!(spread(&written, 0..2000, 10, 4), [0, 20, 100, 120]);
        assert_eq!(spread(&written, 10..125, 10, 100), [10, 20, 30, 100, 110]);
        assert_eq!(spread(&written, 200..900, 10, 3), Vec::<u64>::new());
        assert_eq!(spread(&[], 0..900, 10, 3), Vec::<u64>::new());
    }

    #[test]
    fn layers_are_nested_oldest_first() {
        let chain = DiskChain {
            base: Some("base".into()),
            layers: vec!["one".into(), "two".into()],
            active: "active".into(),
            bytes: 0,
        };
        let frozen = chain.frozen().unwrap();
        assert_eq!(frozen["file"]["filename"], "two");
        assert_eq!(frozen["backing"]["file"]["filename"], "one");
        assert_eq!(frozen["backing"]["backing"]["driver"], "raw");
        let empty = DiskChain {
            base: None,
            layers: Vec::new(),
            ..chain
        };
        assert_eq!(empty.frozen(), None);
    }
}
