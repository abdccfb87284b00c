//! A unix socket with a deadline on every read and write.

use std::{
    convert::Infallible,
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::{poll, text::errno_text};

/// One connection. Failures are in Proxmox's words, without the command's name.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Channel {
    /// Connects; a socket whose queue is full is tried again until the deadline.
    pub fn connect(path: &Path, what: &str, limit: Duration) -> Result<Self, String> {
        let failed = |reason: &str| format!("unable to connect to {what} socket - {reason}");
        let address =
            SocketAddrUnix::new(path).map_err(|error| failed(&errno_text(&error.into())))?;
        let attempt = || -> io::Result<UnixStream> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            connect(&socket, &address)?;
            let stream = UnixStream::from(socket);
            stream.set_nonblocking(false)?;
            Ok(stream)
        };
        let mut tries = 0;
        let connected = poll::until::<_, Infallible>(limit, || {
            tries += 1;
            Ok(match attempt() {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
                {
                    None
                }
                done => Some(done),
            })
        });
        match connected {
            Ok(Some(Ok(stream))) => Ok(Self {
                stream,
                buffer: Vec::new(),
            }),
            Ok(Some(Err(error))) => Err(failed(&errno_text(&error))),
            Ok(None) | Err(_) => Err(failed(&format!("timeout after {tries} retries"))),
        }
    }

    /// Sends everything before the deadline.
    pub fn send(&mut self, data: &[u8], deadline: Instant) -> Result<(), String> {
        let sent = self
            .stream
            .set_write_timeout(Some(left(deadline)?))
            .and_then(|()| self.stream.write_all(data));
        sent.map_err(|error| reason(&error))
    }

    /// What stands before the next `delimiter`, which is consumed.
    pub fn until(&mut self, delimiter: u8, deadline: Instant) -> Result<Vec<u8>, String> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.buffer[seen..]
                .iter()
                .position(|byte| *byte == delimiter)
            {
                let rest = self.buffer.split_off(seen + at + 1);
                let mut part = std::mem::replace(&mut self.buffer, rest);
                part.pop();
                return Ok(part);
            }
            seen = self.buffer.len();
            let mut chunk = [0; 16 * 1024];
            let count = self
                .stream
                .set_read_timeout(Some(left(deadline)?))
                .and_then(|()| self.stream.read(&mut chunk))
                .or_else(|error| {
                    if error.kind() == ErrorKind::Interrupted {
                        Ok(usize::MAX)
                    } else {
                        Err(error)
                    }
                })
                .map_err(|error| reason(&error))?;
            match count {
                0 => return Err("client closed connection".to_owned()),
                usize::MAX => {}
                count => self.buffer.extend_from_slice(&chunk[..count]),
            }
        }
    }
}

fn left(deadline: Instant) -> Result<Duration, String> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err("got timeout".to_owned())
    } else {
        Ok(left)
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "got timeout".to_owned(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => "client closed connection".to_owned(),
        _ => errno_text(error),
    }
}
