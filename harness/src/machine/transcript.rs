//! A record of what went over a channel, line by line, kept in the run folder as evidence.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Longer lines (file contents, command outputs) are cut; what they held is kept elsewhere.
const LONGEST: usize = 16 * 1024;

/// Which way a line went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the harness.
    Sent,
    /// To the harness.
    Received,
    /// A remark of the harness itself: connected, closed, gave up.
    Note,
}

/// A file of time-stamped lines. Clones write to the same file.
#[derive(Debug, Clone)]
pub struct Transcript {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    file: File,
    error: Option<io::Error>,
}

impl Transcript {
    /// Starts a new file, replacing one that is there.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let shared = Arc::new(Mutex::new(Shared { file, error: None }));
        Ok(Transcript { shared })
    }

    /// Appends a line. A channel must not fail because its record cannot be written, so the first
    /// error is kept for [`Transcript::take_error`] and nothing is written after it.
    pub fn record(&self, direction: Direction, line: &str) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.error.is_some() {
            return;
        }
        let mark = match direction {
            Direction::Sent => "->",
            Direction::Received => "<-",
            Direction::Note => "--",
        };
        let line = line.trim_end();
        let mut cut = LONGEST.min(line.len());
        while !line.is_char_boundary(cut) {
            cut -= 1;
        }
        let mut text = format!("{:.3} {mark} {}", jiff::Timestamp::now(), &line[..cut]);
        if cut < line.len() {
            text.push_str(&format!("… ({} bytes in all)", line.len()));
        }
        text.push('\n');
        // One write for the whole line, straight to the file: what a killed harness has recorded
        // is there.
        if let Err(error) = shared.file.write_all(text.as_bytes()) {
            shared.error = Some(error);
        }
    }

    /// The error after which nothing was written any more, if there was one.
    pub fn take_error(&self) -> Option<io::Error> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.error.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_holds_what_clones_wrote_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.log");
        let transcript = Transcript::create(&path).unwrap();
        transcript.record(Direction::Sent, "ask\n");
        transcript.clone().record(Direction::Received, "answer");
        transcript.record(Direction::Sent, &"ä".repeat(LONGEST));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("Z -> ask"), "{}", lines[0]);
        assert!(lines[1].ends_with("Z <- answer"), "{}", lines[1]);
        assert!(lines[2].ends_with("… (32768 bytes in all)"));
        assert!(transcript.take_error().is_none());
    }

    #[test]
    fn a_transcript_that_cannot_be_written_remembers_why() {
        let transcript = Transcript::create(Path::new("/dev/full")).unwrap();
        transcript.record(Direction::Note, "lost");
        assert!(transcript.take_error().is_some());
    }
}
