//! What this program asks of the kernel and cannot be a plain read: writes to sysfs, loading a module, ending a process.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// The kernel's side of binding a device; a test has one of its own.
pub trait Kernel {
    /// Writes to an existing sysfs file.
    fn write(&self, path: &Path, data: &str) -> io::Result<()>;
    /// Tries to load a module; whether it worked shows in sysfs.
    fn modprobe(&self, module: &str);
    /// Waits until every device that was found has been handed to its driver and has its links.
    fn settle(&self);
    /// Lets time pass.
    fn pause(&self, time: Duration);
    /// Asks a process to end, or ends it. One that has gone already is what was wanted.
    fn end(&self, pid: u32, how: End);
}

/// How a process is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
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

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn settle(&self) {
        // Without udev there is nothing to wait for.
        let _ = Command::new("/usr/bin/udevadm")
            .arg("settle")
            .stdin(Stdio::null())
            .status();
    }

    fn end(&self, pid: u32, how: End) {
        let signal = match how {
            End::Terminate => Signal::TERM,
            End::Kill => Signal::KILL,
        };
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // The only failure that can be met is that there is no such process any more.
            let _ = kill_process(pid, signal);
        }
    }
}
