//! A Unix socket that carries one JSON value a line, as QMP and the guest agent do.
//!
//! The `qapi` crate gives the commands and their answers their types; its own stream is not used.
//! Measured with qapi 0.15: an event that its schema does not know closes the stream, and a call
//! that is cut short leaves its place in the table of pending calls taken, which poisons a mutex
//! at the next call. Here whoever owns the socket reads line by line and decides what a line is.

use std::io;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::transcript::{Direction, Transcript};

/// No peer sends a longer line: the guest agent's largest answer is 16 MiB of output, twice, in
/// base64. Beyond it the peer is not one of ours, or broken.
const LONGEST: usize = 64 << 20;

/// The socket and what was read ahead from it.
pub(crate) struct Wire {
    stream: UnixStream,
    ahead: Vec<u8>,
    /// How much of `ahead` is known to hold no line end.
    searched: usize,
    transcript: Option<Transcript>,
}

impl Wire {
    pub(crate) async fn connect(path: &Path, transcript: Option<Transcript>) -> io::Result<Self> {
        let stream = UnixStream::connect(path).await?;
        Ok(Wire {
            stream,
            ahead: Vec::new(),
            searched: 0,
            transcript,
        })
    }

    /// Sends one line; `prefix` goes before it and not into the transcript.
    pub(crate) async fn send(&mut self, prefix: &[u8], line: &str) -> io::Result<()> {
        self.record(Direction::Sent, line);
        let mut bytes = Vec::with_capacity(prefix.len() + line.len() + 1);
        bytes.extend_from_slice(prefix);
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        self.stream.write_all(&bytes).await
    }

    /// The next line without its end, or `None` when the peer hung up. Dropping the future loses
    /// nothing: what was read so far stays in the buffer.
    pub(crate) async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = find(&self.ahead[self.searched..], b'\n') {
                let mut line: Vec<u8> = self.ahead.drain(..=self.searched + end).collect();
                line.truncate(line.trim_ascii_end().len());
                self.searched = 0;
                self.record(Direction::Received, &String::from_utf8_lossy(&line));
                return Ok(Some(line));
            }
            self.searched = self.ahead.len();
            if self.searched > LONGEST {
                return Err(io::Error::other("a line without end"));
            }
            if self.stream.read_buf(&mut self.ahead).await? == 0 {
                self.note("the other side hung up");
                return Ok(None);
            }
        }
    }

    /// Whether nothing came in while nobody was reading: no bytes and no hang-up.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0];
        self.ahead.is_empty()
            && matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    pub(crate) fn note(&self, text: &str) {
        self.record(Direction::Note, text);
    }

    fn record(&self, direction: Direction, line: &str) {
        if let Some(transcript) = &self.transcript {
            transcript.record(direction, line);
        }
    }
}

fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    bytes.iter().position(|byte| *byte == wanted)
}
