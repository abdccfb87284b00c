//! Disks: a tree becomes an image that SeaBIOS boots through GRUB, made without root, without loop devices, and without
//! running anything of the tree.
//!
//! Sector 0 is GRUB's boot.img and the partition table, sectors 1 and up its core image, and from sector 2048 one ext4
//! file system. That is what `grub-install` leaves on a real host, so `update-grub` inside works as it does there. Where
//! the recipe wants one, the end of the disk is an EFI system partition, empty.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::merge::{self, Overlay, Wins};
use crate::process::Job;
use crate::recipe::Recipe;
use crate::toolbox::Toolbox;
use crate::tree::EPOCH;

/// The disk's file in its folder.
pub(crate) const DISK: &str = "disk.raw";

const SECTOR: u64 = 512;
const FIRST_SECTOR: u64 = 2048;
/// Where the partition table's four fields stand; GRUB's code ends before.
const CODE_BYTES: usize = 440;

/// What GRUB needs until it reads the rest from `/boot/grub/i386-pc`. Not `serial`, which looks through the whole PCI bus as
/// soon as it is there: that costs a nested guest seconds.
pub(crate) const GRUB_MODULES: &[&str] = &[
    "biosdisk",
    "part_msdos",
    "ext2",
    "normal",
    "configfile",
    "linux",
    "linux16",
    "echo",
    "search",
    "search_fs_uuid",
    "test",
    "gzio",
    "minicmd",
    "loadenv",
];

/// GRUB's files in a tree.
const GRUB_FOLDER: &str = "usr/lib/grub/i386-pc";

/// What a disk is made of.
pub(crate) struct DiskSources<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) tree: PathBuf,
    pub(crate) modules: Option<PathBuf>,
    pub(crate) programs: BTreeMap<String, PathBuf>,
}

/// Makes the disk in `content`, working in `work`.
pub(crate) fn build(
    sources: &DiskSources<'_>,
    toolbox: &Toolbox,
    work: &Path,
    content: &Path,
    log: &Path,
    cancel: &Cancel,
    line: &dyn Fn(&str),
) -> Result<()> {
    let recipe = sources.recipe;
    let unusable = |reason: String| Error::Recipe {
        path: recipe.dir.join("recipe.toml"),
        reason,
    };
    let Some(disk) = &recipe.disk else {
        return Err(unusable("it describes no disk".to_owned()));
    };
    let grub = work.join("grub");
    fs::create_dir(&grub).map_err(Error::io("make the folder", &grub))?;
    merge::extract_flat(&sources.tree, GRUB_FOLDER, &grub)?;
    let core = work.join("core.img");
    let modules: Vec<_> = GRUB_MODULES
        .iter()
        .filter(|name| grub.join(format!("{name}.mod")).exists())
        .collect();
    job(toolbox, "grub-mkimage", "usr/bin/grub-mkimage")
        .arg("--directory")
        .arg(&grub)
        .args([
            "--format=i386-pc",
            "--prefix=(hd0,msdos1)/boot/grub",
            "--output",
        ])
        .arg(&core)
        .args(modules)
        .run(log, cancel, line)?;

    let mut overlay = Overlay::from_folder(&recipe.dir.join(&disk.files))?;
    for (name, target) in &disk.programs {
        let from = sources
            .programs
            .get(name)
            .ok_or_else(|| unusable(format!("`{name}` is no guest program")))?;
        overlay.add_program(target, from.clone());
    }
    for unit in &disk.mask {
        overlay.add_link(&format!("etc/systemd/system/{unit}"), "/dev/null");
    }
    // Newer than /usr, they tell systemd that nothing was updated offline; else the first boot redoes its caches.
    for folder in ["etc", "var"] {
        overlay.add_text(
            &format!("{folder}/.updated"),
            format!("TIMESTAMP_NSEC={EPOCH}000000000\n"),
        );
    }
    let archive = work.join("merged.tar");
    let from: Vec<&Path> = [Some(&sources.tree), sources.modules.as_ref()]
        .into_iter()
        .flatten()
        .map(PathBuf::as_path)
        .collect();
    let wins = match disk.own_module_index {
        true => Wins::First,
        false => Wins::Later,
    };
    merge::write(&archive, &from, wins, &overlay, &disk.leave_out)?;
    cancel.check()?;

    let path = content.join(DISK);
    let bytes = disk.size_mib << 20;
    let file = File::create(&path).map_err(Error::io("write", &path))?;
    file.set_len(bytes).map_err(Error::io("write", &path))?;
    let layout = Layout::new(disk.size_mib, disk.esp_mib).map_err(unusable)?;
    let kibibytes = u64::from(layout.root_sectors) * SECTOR / 1024;
    job(toolbox, "mke2fs", "usr/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-m", "1", "-L", "root", "-U", &disk.uuid, "-d"])
        .arg(&archive)
        .arg("-E")
        .arg(format!(
            "offset={},hash_seed={},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard",
            FIRST_SECTOR * SECTOR,
            disk.uuid
        ))
        .arg(&path)
        .arg(format!("{kibibytes}k"))
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
        .env("MKE2FS_CONFIG", toolbox.root().join("etc/mke2fs.conf"))
        .run(log, cancel, line)?;

    let read = |path: &Path| fs::read(path).map_err(Error::io("read", path));
    let boot =
        boot_sectors(&read(&grub.join("boot.img"))?, &read(&core)?, layout).map_err(unusable)?;
    file.write_all_at(&boot, 0)
        .map_err(Error::io("write", &path))?;
    file.set_permissions(fs::Permissions::from_mode(0o444))
        .map_err(Error::io("write", &path))?;
    Ok(())
}

fn job(toolbox: &Toolbox, what: &str, program: &str) -> Job {
    let argv = toolbox.argv_prefix(program);
    Job::new(what, &argv[0]).args(&argv[1..])
}

/// The disk's partitions: the root file system from [`FIRST_SECTOR`], and after it the EFI system partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    root_sectors: u32,
    esp_sectors: u32,
}

impl Layout {
    fn new(size_mib: u64, esp_mib: Option<u64>) -> Result<Self, String> {
        const SECTORS_PER_MIB: u64 = (1 << 20) / SECTOR;
        let too_large = |_| "the disk is too large for its partition table".to_owned();
        let esp = esp_mib.unwrap_or(0) * SECTORS_PER_MIB;
        let root = (size_mib * SECTORS_PER_MIB)
            .checked_sub(FIRST_SECTOR + esp)
            .filter(|sectors| *sectors > 0)
            .ok_or("its EFI system partition leaves no room for the root file system")?;
        Ok(Layout {
            root_sectors: root.try_into().map_err(too_large)?,
            esp_sectors: esp.try_into().map_err(too_large)?,
        })
    }
}

/// An entry of the partition table, addressed by sectors alone.
fn partition(active: bool, kind: u8, first: u32, sectors: u32) -> Vec<u8> {
    let status = if active { 0x80 } else { 0 };
    let mut entry = vec![status, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff];
    entry.extend(first.to_le_bytes());
    entry.extend(sectors.to_le_bytes());
    entry
}

/// Everything before the partitions.
fn boot_sectors(boot: &[u8], core: &[u8], layout: Layout) -> Result<Vec<u8>, String> {
    const LINUX: u8 = 0x83;
    const EFI_SYSTEM: u8 = 0xef;
    let room = ((FIRST_SECTOR - 1) * SECTOR) as usize;
    if core.len() > room {
        return Err(format!(
            "GRUB's core image has {} bytes, and there is room for {room}",
            core.len()
        ));
    }
    if boot.len() != SECTOR as usize {
        return Err(format!(
            "GRUB's boot.img has {} bytes in place of {SECTOR}",
            boot.len()
        ));
    }
    let mut bytes = boot[..CODE_BYTES].to_vec();
    bytes.extend(*b"LAB\0\0\0"); // The disk's signature and two bytes of padding.
    let first = FIRST_SECTOR as u32;
    bytes.extend(partition(true, LINUX, first, layout.root_sectors));
    if layout.esp_sectors > 0 {
        let after = first + layout.root_sectors;
        bytes.extend(partition(false, EFI_SYSTEM, after, layout.esp_sectors));
    }
    bytes.resize(SECTOR as usize - 2, 0);
    bytes.extend([0x55, 0xaa]);
    bytes.extend(core);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_sector_is_grub_and_the_partitions() {
        let boot = vec![0xeb; 512];
        let bytes = |esp| boot_sectors(&boot, b"core", Layout::new(64, esp).unwrap()).unwrap();
        let alone = bytes(None);
        assert_eq!(alone[..440], [0xeb; 440]);
        assert_eq!(&alone[440..444], b"LAB\0");
        assert_eq!(alone[446], 0x80);
        assert_eq!(alone[450], 0x83);
        assert_eq!(alone[454..458], 2048_u32.to_le_bytes());
        assert_eq!(alone[458..462], (64_u32 * 2048 - 2048).to_le_bytes());
        assert_eq!(alone[462..510], [0; 48]);
        assert_eq!(alone[510..512], [0x55, 0xaa]);
        assert_eq!(&alone[512..], b"core");

        let both = bytes(Some(16));
        assert_eq!(both[458..462], (48_u32 * 2048 - 2048).to_le_bytes());
        assert_eq!((both[462], both[466]), (0, 0xef));
        assert_eq!(both[470..474], (48_u32 * 2048).to_le_bytes());
        assert_eq!(both[474..478], (16_u32 * 2048).to_le_bytes());
        assert_eq!(both[478..510], [0; 32]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let boot = [0; 512];
        let refused = |boot: &[u8], core: &[u8]| {
            boot_sectors(boot, core, Layout::new(64, None).unwrap()).unwrap_err()
        };
        assert!(refused(&boot, &vec![0; 2047 * 512 + 1]).contains("room"));
        assert!(refused(&boot[..440], b"").contains("boot.img"));
        let layout = |size, esp| Layout::new(size, esp).unwrap_err();
        assert!(layout(4 << 20, None).contains("too large"));
        assert!(layout(64, Some(63)).contains("no room"));
    }
}
