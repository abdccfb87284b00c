//! A machine's RAM: a file without a name that QEMU maps. Whoever freezes the machine or brings it back reads and fills
//! it beside QEMU, in place of passing each page through a socket.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fd::AsRawFd;
use rustix::fs::{FallocateFlags, MemfdFlags};

/// RAM. It is freed when the machine and everybody who looks at it have gone.
#[derive(Debug, Clone)]
pub(super) struct Memory(Arc<File>);

impl Memory {
    /// So many bytes, all zero. None of them takes memory before it is written to.
    pub(super) fn new(bytes: u64) -> io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("ram", MemfdFlags::CLOEXEC)?);
        file.set_len(bytes)?;
        Ok(Memory(Arc::new(file)))
    }

    /// Under which name QEMU opens it. It inherits nothing: another child of this process would too.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// What is in it.
    pub(super) fn file(&self) -> &File {
        &self.0
    }

    /// Makes all of it zero again.
    pub(super) fn clear(&self) -> io::Result<()> {
        let all = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&*self.0, all, 0, self.0.metadata()?.len())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn others_open_the_same_memory_by_its_path() {
        let memory = Memory::new(1 << 20).unwrap();
        let theirs = File::options()
            .read(true)
            .write(true)
            .open(memory.path())
            .unwrap();
        theirs.write_all_at(b"page", 4096).unwrap();
        let mut seen = [0; 4];
        memory.file().read_exact_at(&mut seen, 4096).unwrap();
        assert_eq!(&seen, b"page");
        memory.clear().unwrap();
        theirs.read_exact_at(&mut seen, 4096).unwrap();
        assert_eq!(seen, [0; 4]);
        assert_eq!(theirs.metadata().unwrap().len(), 1 << 20);
    }
}
