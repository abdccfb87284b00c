//! Writes to a block node that QEMU exports by NBD: the one way to put data on a disk image from outside
//! of a guest. Only what that takes of the protocol.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const GREETING: u64 = 0x4e42_444d_4147_4943;
const OPTIONS: u64 = 0x4948_4156_454f_5054;
const EXPORT_NAME: u32 = 1;
/// Fixed newstyle, and no padding after the export's data.
const CLIENT_FLAGS: u32 = 0b11;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const WRITE_ZEROES: u16 = 6;

/// A connection to an export.
pub(super) struct Nbd {
    stream: UnixStream,
    requests: u64,
}

impl Nbd {
    /// Connects to an export behind a socket.
    pub(super) fn connect(socket: &Path, export: &str, limit: Duration) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        let expected = [GREETING.to_be_bytes(), OPTIONS.to_be_bytes()].concat();
        if greeting[..16] != expected {
            return Err(io::Error::other("the greeting is not NBD's"));
        }
        let length = u32::try_from(export.len()).map_err(io::Error::other)?;
        let mut hello = CLIENT_FLAGS.to_be_bytes().to_vec();
        hello.extend(OPTIONS.to_be_bytes());
        hello.extend(EXPORT_NAME.to_be_bytes());
        hello.extend(length.to_be_bytes());
        hello.extend(export.as_bytes());
        stream.write_all(&hello)?;
        // The export's size and what it can do.
        let mut about = [0; 10];
        stream.read_exact(&mut about)?;
        Ok(Nbd {
            stream,
            requests: 0,
        })
    }

    /// Writes data.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let length = u32::try_from(data.len()).map_err(io::Error::other)?;
        self.request(WRITE, offset, length, data)
    }

    /// Writes zeroes.
    pub(super) fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        // Whatever is left over is less than the server takes at once.
        const MOST: u64 = 1 << 30;
        let mut at = offset;
        while at < offset + length {
            let part = (offset + length - at).min(MOST);
            let length = u32::try_from(part).map_err(io::Error::other)?;
            self.request(WRITE_ZEROES, at, length, &[])?;
            at += part;
        }
        Ok(())
    }

    /// Says goodbye. Everything that was answered is in the image.
    pub(super) fn close(mut self) -> io::Result<()> {
        self.send(DISCONNECT, 0, 0, &[])
    }

    fn send(&mut self, kind: u16, offset: u64, length: u32, data: &[u8]) -> io::Result<()> {
        self.requests += 1;
        let mut request = REQUEST.to_be_bytes().to_vec();
        request.extend(0_u16.to_be_bytes());
        request.extend(kind.to_be_bytes());
        request.extend(self.requests.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(length.to_be_bytes());
        self.stream.write_all(&request)?;
        self.stream.write_all(data)
    }

    fn request(&mut self, kind: u16, offset: u64, length: u32, data: &[u8]) -> io::Result<()> {
        self.send(kind, offset, length, data)?;
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        let mut expected = REPLY.to_be_bytes().to_vec();
        expected.extend(0_u32.to_be_bytes());
        expected.extend(self.requests.to_be_bytes());
        if reply[..] == expected {
            return Ok(());
        }
        let number = u32::from_be_bytes([reply[4], reply[5], reply[6], reply[7]]);
        Err(io::Error::other(format!(
            "the server answered error {number}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A server that takes one request and answers with an error number. Gives what it was sent.
    fn server(listener: UnixListener, error: u32) -> thread::JoinHandle<Vec<u8>> {
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let greeting = [GREETING.to_be_bytes(), OPTIONS.to_be_bytes()].concat();
            stream.write_all(&greeting).unwrap();
            stream.write_all(&[0, 3]).unwrap();
            let mut hello = [0; 24];
            stream.read_exact(&mut hello).unwrap();
            assert_eq!(&hello[20..], b"disk");
            stream.write_all(&[0; 10]).unwrap();
            let mut request = [0; 28 + 3];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&REPLY.to_be_bytes()).unwrap();
            stream.write_all(&error.to_be_bytes()).unwrap();
            stream.write_all(&request[8..16]).unwrap();
            request.to_vec()
        })
    }

    #[test]
    fn a_write_is_one_request_and_its_error_is_told() {
        for error in [0, 28] {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("nbd");
            let served = server(UnixListener::bind(&socket).unwrap(), error);
            let mut nbd = Nbd::connect(&socket, "disk", Duration::from_secs(10)).unwrap();
            let written = nbd.write(0x1000, b"abc");
            let request = served.join().unwrap();
            assert_eq!(request[6..8], WRITE.to_be_bytes());
            assert_eq!(request[16..24], 0x1000_u64.to_be_bytes());
            assert_eq!(&request[28..], b"abc");
            match error {
                0 => written.unwrap(),
                _ => assert!(written.unwrap_err().to_string().contains("error 28")),
            }
        }
    }

    #[test]
    fn who_does_not_greet_as_nbd_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nbd");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&[7; 18]).unwrap();
        });
        assert!(Nbd::connect(&socket, "disk", Duration::from_secs(10)).is_err());
        server.join().unwrap();
    }
}
