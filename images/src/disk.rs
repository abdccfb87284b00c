//! Disks: a tree becomes an image that SeaBIOS boots through GRUB, made without root, without loop devices, and without
//! running anything of the tree.
//!
//! Sector 0 is GRUB's boot.img and the partition table, sectors 1 and up its core image, and from sector 2048 one ext4
//! file system. That is what `grub-install` leaves on a real host, so `update-grub` inside works as it does there.

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
    let kibibytes = (bytes - FIRST_SECTOR * SECTOR) / 1024;
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
        boot_sectors(&read(&grub.join("boot.img"))?, &read(&core)?, bytes).map_err(unusable)?;
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

/// Everything before the partition.
fn boot_sectors(boot: &[u8], core: &[u8], disk_bytes: u64) -> Result<Vec<u8>, String> {
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
    let sectors = u32::try_from(disk_bytes / SECTOR - FIRST_SECTOR)
        .map_err(|_| "the disk is too large for its partition table".to_owned())?;
    let mut bytes = boot[..CODE_BYTES].to_vec();
    bytes.extend(*b"LAB\0\0\0"); // The disk's signature and two bytes of padding.
    bytes.extend([0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff]); // Bootable, Linux, addressed by LBA alone.
    bytes.extend((FIRST_SECTOR as u32).to_le_bytes());
    bytes.extend(sectors.to_le_bytes());
    bytes.resize(SECTOR as usize - 2, 0);
    bytes.extend([0x55, 0xaa]);
    bytes.extend(core);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_sector_is_grub_and_one_partition() {
        let boot = vec![0xeb; 512];
        let bytes = boot_sectors(&boot, b"core", 64 << 20).unwrap();
        assert_eq!(bytes[..440], [0xeb; 440]);
        assert_eq!(&bytes[440..444], b"LAB\0");
        assert_eq!(bytes[446], 0x80);
        assert_eq!(bytes[450], 0x83);
        assert_eq!(bytes[454..458], 2048_u32.to_le_bytes());
        assert_eq!(bytes[458..462], (64_u32 * 2048 - 2048).to_le_bytes());
        assert_eq!(bytes[462..510], [0; 48]);
        assert_eq!(bytes[510..512], [0x55, 0xaa]);
        assert_eq!(&bytes[512..], b"core");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let boot = [0; 512];
        assert!(
            boot_sectors(&boot, &vec![0; 2047 * 512 + 1], 64 << 20)
                .unwrap_err()
                .contains("room")
        );
        assert!(
            boot_sectors(&boot[..440], b"", 64 << 20)
                .unwrap_err()
                .contains("boot.img")
        );
        assert!(
            boot_sectors(&boot, b"", 4 << 40)
                .unwrap_err()
                .contains("too large")
        );
    }
}
