//! Where things are on the host, and how patient to be: everything that another root can stand in for in a test.

use std::{env, fs, path::PathBuf, time::Duration};

/// The folders that this program reads and writes.
#[derive(Debug, Clone)]
pub struct Host {
    /// `/etc/pve`.
    pub config_root: PathBuf,
    /// `/var/run/qemu-server`: pid files and sockets.
    pub run: PathBuf,
    /// `/var/lock/qemu-server`.
    pub lock: PathBuf,
    /// `/sys`.
    pub sysfs: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
    /// `/usr/share`, for firmware.
    pub share: PathBuf,
    /// The QEMU to run.
    pub qemu: PathBuf,
    /// Every time limit is multiplied by this.
    pub patience: f64,
}

impl Host {
    /// The host under another root; `/` is the real one.
    pub fn under(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self {
            config_root: root.join("etc/pve"),
            run: root.join("var/run/qemu-server"),
            lock: root.join("var/lock/qemu-server"),
            sysfs: root.join("sys"),
            proc: root.join("proc"),
            dev: root.join("dev"),
            share: root.join("usr/share"),
            qemu: root.join("usr/bin/qemu-system-x86_64"),
            patience: 1.0,
        }
    }

    /// The real host, unless `QM_ROOT`, `QM_SYSFS`, `QM_PROC`, `QM_DEV` or `QM_QEMU` say otherwise.
    /// `QM_TIMEOUT_SCALE` multiplies every time limit, for guests that run under emulation.
    pub fn from_env() -> Self {
        let path = |name: &str| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let mut host = Self::under(path("QM_ROOT").unwrap_or_else(|| "/".into()));
        for (name, slot) in [
            ("QM_SYSFS", &mut host.sysfs),
            ("QM_PROC", &mut host.proc),
            ("QM_DEV", &mut host.dev),
            ("QM_QEMU", &mut host.qemu),
        ] {
            if let Some(value) = path(name) {
                *slot = value;
            }
        }
        host.patience = env::var("QM_TIMEOUT_SCALE")
            .ok()
            .and_then(|value| value.parse().ok())
            .map_or(1.0, |value: f64| value.clamp(1.0, 100.0));
        host
    }

    /// A time limit, stretched by the host's patience.
    pub fn limit(&self, time: Duration) -> Duration {
        Duration::try_from_secs_f64(time.as_secs_f64() * self.patience).unwrap_or(Duration::MAX)
    }

    /// `<VMID>.conf`.
    pub fn config_file(&self, vmid: u32) -> PathBuf {
        self.config_root.join(format!("qemu-server/{vmid}.conf"))
    }

    /// A file of a VM in the run folder: `pid`, `qmp`, `qga`, `serial0`.
    pub fn run_file(&self, vmid: u32, extension: &str) -> PathBuf {
        self.run.join(format!("{vmid}.{extension}"))
    }

    /// The name of this node, as Proxmox uses it in messages.
    pub fn node(&self) -> String {
        let name = fs::read_to_string(self.proc.join("sys/kernel/hostname")).unwrap_or_default();
        match name.trim().split('.').next() {
            Some(first) if !first.is_empty() => first.to_owned(),
            _ => "localhost".to_owned(),
        }
    }
}
