//! What is said at a held lab's socket: one request a connection, a line of JSON, and one answer, another.
//! After the answer to [`Request::Enter`] the connection is the way into a guest.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::scenario::GuestName;

/// What a held lab is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Whether somebody would be let in now.
    Knock {
        /// Into which guest.
        guest: GuestName,
    },
    /// To be let in.
    Enter {
        /// Into which guest.
        guest: GuestName,
    },
    /// To end.
    Down,
}

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// It is so, or is being done.
    Yes,
    /// It cannot be.
    No {
        /// Why.
        reason: String,
    },
}

/// A held lab did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// It refused.
    #[error("{0}")]
    Refused(String),
    /// Nobody answers at its socket.
    #[error("the lab does not answer; it has ended, or is about to")]
    Gone(#[source] io::Error),
}

/// Asks a held lab for something. Blocks until it has answered.
///
/// # Errors
/// [`TalkError`].
pub fn ask(control: &Path, request: Request) -> Result<(), TalkError> {
    converse(control, request).map(drop)
}

/// Gets into a guest and carries bytes in and out until either side ends.
///
/// # Errors
/// When nobody is let in, or `output` cannot be written.
pub fn wire(
    control: &Path,
    guest: GuestName,
    mut input: impl Read + Send + 'static,
    mut output: impl Write,
) -> Result<(), TalkError> {
    let mut inside = converse(control, Request::Enter { guest })?;
    let mut writer = inside.get_ref().try_clone().map_err(TalkError::Gone)?;
    // Not joined: it may wait for input for ever, and goes with the process.
    std::thread::spawn(move || {
        // A side that has gone ends the other direction too.
        let _ = io::copy(&mut input, &mut writer);
        let _ = writer.shutdown(std::net::Shutdown::Write);
    });
    let mut piece = [0; 16 * 1024];
    loop {
        let count = inside.read(&mut piece).map_err(TalkError::Gone)?;
        if count == 0 {
            return Ok(());
        }
        // Whoever types waits for each piece.
        let written = output.write_all(&piece[..count]);
        written
            .and_then(|()| output.flush())
            .map_err(TalkError::Gone)?;
    }
}

fn converse(control: &Path, request: Request) -> Result<BufReader<UnixStream>, TalkError> {
    let mut stream = UnixStream::connect(control).map_err(TalkError::Gone)?;
    let mut line = serde_json::to_vec(&request).map_err(|error| TalkError::Gone(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(TalkError::Gone)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).map_err(TalkError::Gone)?;
    match serde_json::from_str(&line) {
        Ok(Answer::Yes) => Ok(reader),
        Ok(Answer::No { reason }) => Err(TalkError::Refused(reason)),
        Err(error) => Err(TalkError::Gone(error.into())),
    }
}
