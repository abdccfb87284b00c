//! A root with block devices for tests.

use std::{cell::Cell, fs, os::unix::fs::symlink, path::PathBuf};

use super::Host;

/// The root.
pub struct Fake {
    root: tempfile::TempDir,
    next_minor: Cell<u32>,
}

/// One disk.
pub struct Disk<'a> {
    pub name: &'a str,
    /// The folder of the device that it hangs on, below `/sys/devices`, and its subsystem.
    pub parent: (&'a str, &'a str),
    pub blocks: u64,
    pub rotational: bool,
    pub rate: Option<u16>,
    pub properties: &'a [(&'a str, &'a str)],
}

impl Fake {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["sys/class/block", "run/udev/data", "dev", "sbin"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        Self {
            root,
            next_minor: Cell::new(0),
        }
    }

    pub fn host(&self) -> Host {
        Host::under(self.root.path())
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// A disk of no particular kind.
    pub fn plain(&self, name: &str) {
        self.disk(&Disk {
            name,
            parent: ("virtual", "none"),
            blocks: 8,
            rotational: false,
            rate: None,
            properties: &[],
        });
    }

    /// A SATA disk behind the AHCI driver.
    pub fn ata(&self, name: &str, serial: &str, wwn: &str) {
        self.disk(&Disk {
            name,
            parent: (
                &format!("pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/{name}-hctl"),
                "scsi",
            ),
            blocks: 23_437_770_752,
            rotational: true,
            rate: Some(7200),
            properties: &[
                ("ID_BUS", "ata"),
                ("ID_MODEL", "ST12000NM0008-2H3101"),
                ("ID_SERIAL", &format!("ST12000NM0008-2H3101_{serial}")),
                ("ID_SERIAL_SHORT", serial),
                ("ID_WWN", wwn),
            ],
        });
    }

    /// A virtual disk of QEMU on virtio-scsi.
    pub fn qemu_scsi(&self, name: &str, extra: &[(&str, &str)]) {
        let mut properties = vec![
            ("ID_BUS", "scsi"),
            ("ID_MODEL", "QEMU_HARDDISK"),
            ("ID_VENDOR", "QEMU"),
        ];
        properties.extend_from_slice(extra);
        self.disk(&Disk {
            name,
            parent: (
                &format!("pci0000:00/virtio0/host1/target1:0:0/{name}-hctl"),
                "scsi",
            ),
            blocks: 8_388_608,
            rotational: true,
            rate: None,
            properties: &properties,
        });
    }

    pub fn disk(&self, disk: &Disk<'_>) {
        let parent = self.path("sys/devices").join(disk.parent.0);
        let bus = self.path("sys/bus").join(disk.parent.1);
        let folder = parent.join("block").join(disk.name);
        for needed in [&folder.join("queue"), &bus] {
            fs::create_dir_all(needed).unwrap();
        }
        if !parent.join("subsystem").exists() {
            symlink(&bus, parent.join("subsystem")).unwrap();
        }
        symlink(&parent, folder.join("device")).unwrap();
        symlink(&folder, self.path("sys/class/block").join(disk.name)).unwrap();
        fs::write(folder.join("size"), format!("{}\n", disk.blocks)).unwrap();
        fs::write(
            folder.join("queue/rotational"),
            format!("{}\n", u8::from(disk.rotational)),
        )
        .unwrap();
        if let Some(rate) = disk.rate {
            let [high, low] = rate.to_be_bytes();
            fs::write(parent.join("vpd_pgb1"), [0, 0xb1, 0, 60, high, low, 0, 0]).unwrap();
        }
        self.register(&folder, disk.properties);
    }

    /// A partition of a disk.
    pub fn partition(&self, disk: &str, number: u32, properties: &[(&str, &str)]) {
        let name = format!("{disk}{number}");
        let folder = fs::canonicalize(self.path("sys/class/block").join(disk))
            .unwrap()
            .join(&name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("partition"), format!("{number}\n")).unwrap();
        symlink(&folder, self.path("sys/class/block").join(&name)).unwrap();
        fs::write(self.path("dev").join(&name), "").unwrap();
        self.register(&folder, properties);
    }

    /// A `zpool` that runs this shell script, and a loaded module.
    pub fn zpool(&self, script: &str) {
        fs::create_dir_all(self.path("sys/module/zfs")).unwrap();
        fake_program::write(&self.path("sbin/zpool"), &format!("#!/bin/sh\n{script}\n"));
    }

    fn register(&self, folder: &std::path::Path, properties: &[(&str, &str)]) {
        let minor = self.next_minor.replace(self.next_minor.get() + 16);
        fs::write(folder.join("dev"), format!("8:{minor}\n")).unwrap();
        let text: String = properties
            .iter()
            .map(|(key, value)| format!("E:{key}={value}\n"))
            .collect();
        fs::write(self.path("run/udev/data").join(format!("b8:{minor}")), text).unwrap();
    }
}
