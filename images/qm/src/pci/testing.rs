//! A host for tests: a `/sys` in a temporary folder, and a kernel that moves devices between drivers when it is written
//! to.

use std::{
    cell::{Ref, RefCell},
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use super::Sysfs;
use crate::kernel::{End, Kernel};

/// What the fake kernel is to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Loading vfio-pci.
    NoVfio,
    /// Binding this device.
    Bind(&'static str),
    /// Any reset.
    Reset,
}

/// A q35 host with its AHCI controller in a shared group and a second one behind a root port.
pub struct FakeHost {
    root: tempfile::TempDir,
    refusals: RefCell<Vec<Refusal>>,
    loaded: RefCell<Vec<String>>,
    writes: RefCell<Vec<String>>,
    ids: RefCell<Vec<String>>,
    ended: RefCell<Vec<(u32, End)>>,
}

const DEVICES: &[(&str, &str, &str, u32, &str)] = &[
    ("0000:00:02.0", "1af4", "1001", 2, "virtio-pci"),
    ("0000:00:1c.0", "1b36", "000c", 8, "pcieport"),
    ("0000:01:00.0", "8086", "2922", 8, "ahci"),
    ("0000:00:1f.0", "8086", "2918", 9, "lpc_ich"),
    ("0000:00:1f.2", "8086", "2922", 9, "ahci"),
    ("0000:00:1f.3", "8086", "2930", 9, "i801_smbus"),
];

impl FakeHost {
    pub fn q35() -> Self {
        let root = tempfile::tempdir().unwrap();
        let sys = root.path().join("sys");
        fs::create_dir_all(sys.join("class/iommu/dmar0")).unwrap();
        for (id, vendor, device, group, driver) in DEVICES {
            let folder = sys.join("bus/pci/devices").join(id);
            let members = sys.join(format!("kernel/iommu_groups/{group}/devices"));
            let driver = sys.join("bus/pci/drivers").join(driver);
            for folder in [&folder, &members, &driver] {
                fs::create_dir_all(folder).unwrap();
            }
            for (file, text) in [
                ("vendor", vendor),
                ("device", device),
                ("subsystem_vendor", &"1af4"),
                ("subsystem_device", &"1100"),
            ] {
                fs::write(folder.join(file), format!("0x{text}\n")).unwrap();
            }
            fs::write(folder.join("irq"), "16\n").unwrap();
            fs::write(driver.join("unbind"), "").unwrap();
            symlink(
                sys.join(format!("kernel/iommu_groups/{group}")),
                folder.join("iommu_group"),
            )
            .unwrap();
            symlink(&folder, members.join(id)).unwrap();
            symlink(&driver, folder.join("driver")).unwrap();
            symlink(&folder, driver.join(id)).unwrap();
        }
        fs::create_dir(sys.join("bus/pci/devices/0000:00:1c.0/pci_bus")).unwrap();
        fs::write(sys.join("bus/pci/devices/0000:01:00.0/reset"), "").unwrap();
        Self {
            root,
            refusals: RefCell::default(),
            loaded: RefCell::default(),
            writes: RefCell::default(),
            ids: RefCell::default(),
            ended: RefCell::default(),
        }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn sysfs(&self) -> Sysfs {
        Sysfs::new(self.sys())
    }

    pub fn remove_iommu(&self) {
        fs::remove_dir(self.sys().join("class/iommu/dmar0")).unwrap();
        fs::remove_dir_all(self.sys().join("kernel/iommu_groups")).unwrap();
        for (id, ..) in DEVICES {
            fs::remove_file(self.device(id).join("iommu_group")).unwrap();
        }
    }

    pub fn refuse(&self, refusal: Refusal) {
        self.refusals.borrow_mut().push(refusal);
    }

    pub fn driver(&self, id: &str) -> Option<String> {
        let link = fs::read_link(self.device(id).join("driver")).ok()?;
        Some(link.file_name()?.to_str()?.to_owned())
    }

    pub fn unbind(&self, id: &str) {
        if let Some(driver) = self.driver(id) {
            fs::remove_file(self.sys().join("bus/pci/drivers").join(driver).join(id)).unwrap();
            fs::remove_file(self.device(id).join("driver")).unwrap();
        }
    }

    pub fn loaded(&self) -> Ref<'_, Vec<String>> {
        self.loaded.borrow()
    }

    pub fn ended(&self) -> Ref<'_, Vec<(u32, End)>> {
        self.ended.borrow()
    }

    pub fn writes(&self) -> Ref<'_, Vec<String>> {
        self.writes.borrow()
    }

    pub fn written(&self, suffix: &str) -> Option<String> {
        let line = self
            .writes
            .borrow()
            .iter()
            .find(|line| line.contains(&format!("{suffix}=")))?
            .clone();
        Some(line.split_once('=')?.1.to_owned())
    }

    fn sys(&self) -> PathBuf {
        self.root.path().join("sys")
    }

    fn device(&self, id: &str) -> PathBuf {
        self.sys().join("bus/pci/devices").join(id)
    }

    fn take(&self, id: &str) {
        let vfio = self.sys().join("bus/pci/drivers/vfio-pci");
        symlink(&vfio, self.device(id).join("driver")).unwrap();
        symlink(self.device(id), vfio.join(id)).unwrap();
    }

    fn refuses(&self, refusal: Refusal) -> bool {
        self.refusals.borrow().contains(&refusal)
    }
}

impl Kernel for FakeHost {
    fn write(&self, path: &Path, data: &str) -> io::Result<()> {
        let invalid = || io::Error::from_raw_os_error(22);
        if !path.exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.writes
            .borrow_mut()
            .push(format!("{}={data}", path.display()));
        match path.file_name().and_then(|name| name.to_str()) {
            Some("new_id") if self.ids.borrow().iter().any(|id| id == data) => {
                Err(io::ErrorKind::AlreadyExists.into())
            }
            Some("new_id") => {
                self.ids.borrow_mut().push(data.to_owned());
                // As the kernel does: whatever is unbound and fits is taken at once.
                for (id, vendor, device, ..) in DEVICES {
                    let refused = self
                        .refusals
                        .borrow()
                        .iter()
                        .any(|r| matches!(r, Refusal::Bind(bad) if bad == id));
                    if data == format!("{vendor} {device}") && self.driver(id).is_none() && !refused
                    {
                        self.take(id);
                    }
                }
                Ok(())
            }
            Some("unbind") => {
                self.unbind(data);
                Ok(())
            }
            Some("bind")
                if self
                    .refusals
                    .borrow()
                    .iter()
                    .any(|r| matches!(r, Refusal::Bind(bad) if *bad == data)) =>
            {
                Err(invalid())
            }
            Some("bind") => {
                self.take(data);
                Ok(())
            }
            Some("reset") if self.refuses(Refusal::Reset) => Err(invalid()),
            _ => Ok(()),
        }
    }

    fn pause(&self, time: Duration) {
        let seconds = time.as_secs();
        self.loaded.borrow_mut().push(format!("paused {seconds} s"));
    }

    fn settle(&self) {
        self.loaded.borrow_mut().push("settled".to_owned());
    }

    fn modprobe(&self, module: &str) {
        self.loaded.borrow_mut().push(module.to_owned());
        if module == "vfio-pci" && !self.refuses(Refusal::NoVfio) {
            let folder = self.sys().join("bus/pci/drivers/vfio-pci");
            fs::create_dir_all(&folder).unwrap();
            for file in ["new_id", "bind", "unbind"] {
                fs::write(folder.join(file), "").unwrap();
            }
        }
    }

    fn end(&self, pid: u32, how: End) {
        self.ended.borrow_mut().push((pid, how));
        // Only SIGKILL works on this one.
        if how == End::Kill {
            fs::remove_dir_all(self.root.path().join(format!("proc/{pid}"))).unwrap();
        }
    }
}
