//! What this program asks of the kernel and cannot be a plain read: writes to sysfs, and loading a module.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
};

/// The kernel's side of binding a device; a test has one of its own.
pub trait Kernel {
    /// Writes to an existing sysfs file.
    fn write(&self, path: &Path, data: &str) -> io::Result<()>;
    /// Tries to load a module; whether it worked shows in sysfs.
    fn modprobe(&self, module: &str);
}

/// The kernel that runs this program.
#[derive(Debug, Clone, Copy)]
pub struct RealKernel;

impl Kernel for RealKernel {
    fn write(&self, path: &Path, data: &str) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all(data.as_bytes())
    }

    fn modprobe(&self, module: &str) {
        // Its exit status is ignored as in Proxmox: the caller looks for what the module brings.
        let _ = Command::new("/sbin/modprobe")
            .arg(module)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}
