use super::*;
use crate::probe::text::run_on_a_fake_root;

// By hand, after a Proxmox VE 9 host with its root in ZFS on NVMe, and LVM on a SATA disk.
const HOST: &str = "path\tsda\t/sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda
path\tsdb\t/sys/devices/pci0000:00/0000:00:1c.0/0000:01:00.0/host1/target1:0:0/1:0:0:0/block/sdb
path\tnvme0n1\t/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1
nvme\tnvme0\t/sys/devices/pci0000:00/0000:00:1d.0/0000:02:00.0/nvme/nvme0
zfs-root\trpool/ROOT/pve-1
zfs
zpool\trpool\t238G\t2.5G\t235G\t-\t-\t0%\t1%\t1.00x\tONLINE\t-
zpool\t\t/dev/nvme0n1p3\t238G\t2.5G\t235G\t-\t-\t0%\t1.05%\t-\tONLINE
zpool\ttank\t32.7T\t1.1M\t32.7T\t-\t-\t0%\t0%\t1.00x\tONLINE\t-
zpool\t\traidz1-0\t32.7T\t1.1M\t32.7T\t-\t-\t0%\t0.00%\t-\tONLINE
zpool\t\t/dev/sdb1\t10.9T\t-\t-\t-\t-\t-\t-\t-\tONLINE
zpool\tlogs           -      -      -        -         -      -      -      -         -
zpool\t\t/dev/nvme0n1p4\t8G\t0\t8G\t-\t-\t0%\t0.00%\t-\tONLINE
zpool\tcache          -      -      -        -         -      -      -      -         -
zpool\t\t/dev/sdz1\t100G\t0\t100G\t-\t-\t0%\t0.00%\t-\tONLINE
lsblk
{\"blockdevices\": [
 {\"name\":\"loop0\",\"type\":\"loop\",\"size\":4096,\"model\":null,\"serial\":null,\"fstype\":null,\"mountpoints\":[null]},
 {\"name\":\"sda\",\"type\":\"disk\",\"size\":1000,\"model\":\"WD  \",\"serial\":\"X1\",\"fstype\":null,\"mountpoints\":[null],
  \"children\":[{\"name\":\"sda1\",\"type\":\"part\",\"size\":900,\"model\":null,\"serial\":null,\"fstype\":\"LVM2_member\",\"mountpoints\":[null],
   \"children\":[{\"name\":\"pve-data\",\"type\":\"lvm\",\"size\":800,\"model\":null,\"serial\":null,\"fstype\":\"ext4\",\"mountpoints\":[\"/srv\"]}]}]},
 {\"name\":\"sdb\",\"type\":\"disk\",\"size\":2000,\"model\":null,\"serial\":null,\"fstype\":null,\"mountpoints\":[],
  \"children\":[{\"name\":\"sdb1\",\"type\":\"part\",\"size\":1900,\"model\":null,\"serial\":null,\"fstype\":\"zfs_member\",\"mountpoints\":[null]}]},
 {\"name\":\"nvme0n1\",\"type\":\"disk\",\"size\":3000,\"model\":null,\"serial\":null,\"fstype\":null,\"mountpoints\":[null],
  \"children\":[{\"name\":\"nvme0n1p3\",\"type\":\"part\",\"size\":2900,\"model\":null,\"serial\":null,\"fstype\":\"zfs_member\",\"mountpoints\":[null]},
   {\"name\":\"nvme0n1p4\",\"type\":\"part\",\"size\":80,\"model\":null,\"serial\":null,\"fstype\":\"zfs_member\",\"mountpoints\":[null]}]}
]}
end
";

#[test]
fn every_disk_has_its_controller_and_its_uses() {
    let facts = parse(HOST).unwrap();
    let seen: Vec<String> = facts
        .disks
        .iter()
        .map(|disk| {
            let uses: Vec<String> = disk
                .uses
                .iter()
                .map(|one| format!("{} {}", one.kind, one.name))
                .collect();
            let controller = disk.controller.map(|one| one.to_string());
            format!(
                "{} {} {}",
                disk.name,
                controller.unwrap_or_default(),
                uses.join(", ")
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            "nvme0n1 0000:02:00.0 root rpool, zfs tank",
            "sda 0000:00:1f.2 mount /srv, lvm pve-data",
            "sdb 0000:01:00.0 zfs tank",
        ]
    );
    assert_eq!(facts.disks[1].model.as_deref(), Some("WD"));
    assert!(facts.disks[0].is_vital() && !facts.disks[1].is_vital());
    // A device of any class is the pool's.
    let pools = facts.pools.unwrap();
    assert_eq!(pools.len(), 2);
    assert_eq!(pools[1].name, "tank");
    assert_eq!(pools[1].health, "ONLINE");
    assert_eq!(pools[1].disks, ["sdb", "nvme0n1"]);
    assert_eq!(pools[1].missing, ["sdz1"]);
    assert!(pools[0].missing.is_empty() && facts.lost_mounts.is_empty());
}

/// Two paths to one disk, an encrypted root, and a file as a disk.
const LAYERS: &str = "path\tdm-0\t/sys/devices/virtual/block/dm-0
path\tdm-1\t/sys/devices/virtual/block/dm-1
path\tloop0\t/sys/devices/virtual/block/loop0
zfs-root\trpool/ROOT/pve-1
zfs
zpool\trpool\t1G\t1G\t1G\t-\t-\t0%\t1%\t1.00x\tONLINE\t-
zpool\t\t/dev/dm-0\t1G\t1G\t1G\t-\t-\t0%\t1.05%\t-\tONLINE
zpool\ttank\t1G\t1G\t1G\t-\t-\t0%\t0%\t1.00x\tONLINE\t-
zpool\t\t/dev/dm-1\t1G\t1G\t1G\t-\t-\t0%\t0.00%\t-\tONLINE
zpool\ttrial\t1G\t1G\t1G\t-\t-\t0%\t0%\t1.00x\tONLINE\t-
zpool\t\t/dev/loop0\t1G\t1G\t1G\t-\t-\t0%\t0.00%\t-\tONLINE
lsblk
{\"blockdevices\": [
 {\"name\":\"loop0\",\"kname\":\"loop0\",\"type\":\"loop\",\"size\":4096},
 {\"name\":\"sda\",\"kname\":\"sda\",\"type\":\"disk\",\"size\":1000,
  \"children\":[{\"name\":\"sda3\",\"kname\":\"sda3\",\"type\":\"part\",\"size\":900,
   \"children\":[{\"name\":\"luks-root\",\"kname\":\"dm-0\",\"type\":\"crypt\",\"size\":800}]}]},
 {\"name\":\"sdb\",\"kname\":\"sdb\",\"type\":\"disk\",\"size\":2000,
  \"children\":[{\"name\":\"mpatha\",\"kname\":\"dm-1\",\"type\":\"mpath\",\"size\":2000}]},
 {\"name\":\"sdc\",\"kname\":\"sdc\",\"type\":\"disk\",\"size\":2000,
  \"children\":[{\"name\":\"mpatha\",\"kname\":\"dm-1\",\"type\":\"mpath\",\"size\":2000}]}
]}
end
";

#[test]
fn a_pool_on_other_layers_is_on_the_disks_below_them() {
    // A mapper's device may be listed by its own name as well.
    for output in [
        LAYERS.to_owned(),
        LAYERS.replace("/dev/dm-1", "/dev/mapper/mpatha"),
    ] {
        let facts = parse(&output).unwrap();
        let vital: Vec<bool> = facts.disks.iter().map(HostDisk::is_vital).collect();
        assert_eq!(vital, [true, false, false]);
        let pools = facts.pools.unwrap();
        let disks: Vec<_> = pools.iter().map(|pool| pool.disks.join(" ")).collect();
        assert_eq!(disks, ["sda", "sdb sdc", ""]);
        assert!(pools.iter().all(|pool| pool.missing.is_empty()));
    }
}

/// A device that the kernel has is not missing, though `lsblk` should not tell how it is called.
#[test]
fn what_the_kernel_has_is_not_missing() {
    let output = LAYERS.replace("\"kname\":\"dm-1\",", "").replace(
        " {\"name\":\"loop0\",\"kname\":\"loop0\",\"type\":\"loop\",\"size\":4096},\n",
        "",
    );
    assert!(!output.contains("\"loop0\""));
    let pools = parse(&output).unwrap().pools.unwrap();
    assert!(pools.iter().all(|pool| pool.missing.is_empty()));
    assert!(pools[1].disks.is_empty());
}

/// The controller was given away while the host used its disks.
#[test]
fn what_was_pulled_from_under_the_host_is_told() {
    let gone = HOST
        .replace("/dev/sdb1", "/dev/sdc1")
        .replace("zfs-root", "lost\t/dev/sdd1\t/srv\nzfs-root");
    let facts = parse(&gone).unwrap();
    assert_eq!(facts.lost_mounts, ["/dev/sdd1 on /srv"]);
    let pools = facts.pools.unwrap();
    assert_eq!(pools[1].missing, ["sdc1", "sdz1"]);
    assert_eq!(pools[1].disks, ["nvme0n1"]);
}

#[test]
fn no_zfs_is_not_no_pools() {
    let without = |from: &str, to: &str| {
        let (start, end) = (HOST.find(from).unwrap(), HOST.find(to).unwrap());
        format!("{}{}", &HOST[..start], &HOST[end..])
    };
    assert_eq!(parse(&without("zfs-root", "lsblk\n")).unwrap().pools, None);
    // With no pool at all, `zpool` prints an empty line.
    let without = without("zpool", "lsblk\n");
    for none in [without.replace("lsblk\n", "zpool\t\nlsblk\n"), without] {
        assert_eq!(parse(&none).unwrap().pools, Some(Vec::new()));
    }
}

#[test]
fn what_is_not_known_is_refused() {
    for (output, says) in [
        (String::new(), "no output"),
        ("path\tsda\t/sys\nend\n".to_owned(), "lsblk"),
        (HOST.replace("]}\nend\n", "]}\n"), "breaks off"),
        (
            HOST.replace("\"size\":1000", "\"size\":\"1G\""),
            "not the JSON",
        ),
        (HOST.replace("zfs\n", ""), "no zpool was found"),
        (HOST.replace("\t1.00x\tONLINE\t-", ""), "ten fields"),
        (HOST.replace("nvme\t", "nvmes\t"), "`nvmes`"),
        (
            HOST.replace("\"type\":\"disk\"", "\"type\":\"rom\""),
            "any disk",
        ),
    ] {
        let error = parse(&output).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}

/// The installer's Btrfs mirror, whose mount `lsblk` shows at one of its disks.
#[test]
fn each_disk_of_a_file_system_has_its_mounts() {
    let disk = |name: &str, uuid: &str, points: &str| {
        format!(
            "{{\"name\":\"{name}\",\"type\":\"disk\",\"size\":1000,\"children\":[\
             {{\"name\":\"{name}2\",\"type\":\"part\",\"size\":1,\"fstype\":\"vfat\",\"uuid\":\"1B2C-3D4E\",\"mountpoints\":[null]}},\
             {{\"name\":\"{name}3\",\"type\":\"part\",\"size\":900,\"fstype\":\"btrfs\",\"uuid\":\"{uuid}\",\"mountpoints\":[{points}]}}]}}"
        )
    };
    let disks = [
        disk(
            "sda",
            "0b9a4f1e-2d3c-4b5a-8f6e-7a8b9c0d1e2f",
            "\"/srv\",\"/\"",
        ),
        disk("sdb", "0b9a4f1e-2d3c-4b5a-8f6e-7a8b9c0d1e2f", "null"),
        disk("sdc", "11111111-2d3c-4b5a-8f6e-7a8b9c0d1e2f", "null"),
    ];
    let output = format!(
        "zfs\nlsblk\n{{\"blockdevices\": [{}]}}\nend\n",
        disks.join(",")
    );
    let facts = parse(&output).unwrap();
    let uses: Vec<String> = facts
        .disks
        .iter()
        .map(|disk| {
            let uses = disk.uses.iter();
            let uses: Vec<_> = uses
                .map(|one| format!("{} {}", one.kind, one.name))
                .collect();
            uses.join(", ")
        })
        .collect();
    assert_eq!(uses, ["root /, mount /srv", "root /, mount /srv", ""]);
    // A copy of another file system's number says nothing.
    let other = parse(&output.replace("btrfs", "ext4")).unwrap();
    assert!(!other.disks[1].is_vital());
}

// By hand, after a Proxmox VE 9 host.
const STORAGES: &str = "dir: local
	path /var/lib/vz
	content iso,vztmpl,backup

lvmthin: local-lvm
	thinpool data
	vgname pve
	content rootdir,images

# the old disks
zfspool: tank
	pool tank/vms
	content images,rootdir
	nodes node7,node8
	sparse 1

nfs: backup
	export /srv/backup
	path /mnt/pve/backup
	server 192.168.1.9

zfs: elsewhere
	pool other
	portal 192.168.1.9

lvm: old
	vgname old
	disable

btrfs: spare
	path /mnt/spare
	disable 0
";

#[test]
fn proxmoxs_storages_are_read() {
    let lines: String = STORAGES
        .lines()
        .map(|line| format!("storage\t{line}\n"))
        .collect();
    let output = HOST.replace("\nlsblk\n", &format!("\n{lines}lsblk\n"));
    let facts = parse(&output).unwrap();
    let seen: Vec<String> = facts
        .storages
        .iter()
        .map(|one| {
            let (nodes, disabled) = (one.nodes.join(" "), one.disabled);
            format!("{} {} {} [{nodes}] {disabled}", one.kind, one.id, one.place)
        })
        .collect();
    assert_eq!(
        seen,
        [
            "dir local /var/lib/vz [] false",
            "lvmthin local-lvm pve [] false",
            "zfspool tank tank/vms [node7 node8] false",
            "lvm old old [] true",
            "btrfs spare /mnt/spare [] false",
        ]
    );
}

#[test]
fn a_unit_that_imports_a_pool_is_its_pools() {
    let pool = |name: &str| {
        let output = HOST.replace("\ttank\t", &format!("\t{name}\t")).replace(
            "\nlsblk\n",
            "\nimport-unit\tzfs-import@tank.service\nimport-unit\tzfs-import@my\\x2dtank.service\nlsblk\n",
        );
        let pools = parse(&output).unwrap().pools.unwrap();
        assert_eq!(pools[0].import_unit, None);
        pools[1].import_unit.clone()
    };
    assert_eq!(pool("tank").as_deref(), Some("zfs-import@tank.service"));
    let escaped = "zfs-import@my\\x2dtank.service";
    assert_eq!(pool("my-tank").as_deref(), Some(escaped));
    assert_eq!(pool("ank"), None);
}

/// Records of before know neither storages nor units.
#[test]
fn earlier_records_are_read() {
    let text = "{\"disks\": [], \"pools\": [{\"name\": \"tank\", \"health\": \"ONLINE\", \"disks\": [\"sda\"]}]}";
    let facts: HostStorageFacts = serde_json::from_str(text).unwrap();
    assert!(facts.storages.is_empty());
    assert_eq!(facts.pools.unwrap()[0].import_unit, None);
}

#[test]
fn the_script_reads_storages_and_units() {
    let root = tempfile::tempdir().unwrap();
    let wants = root
        .path()
        .join("etc/systemd/system/zfs-import.target.wants");
    std::fs::create_dir_all(&wants).unwrap();
    for folder in ["etc/pve", "sys/block/sda"] {
        std::fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    fake_program::write(
        &root.path().join("bin/lsblk"),
        "#!/bin/sh\necho '{\"blockdevices\": [{\"name\":\"sda\",\"type\":\"disk\",\"size\":1}]}'\n",
    );
    let run = || run_on_a_fake_root("sh", SCRIPT, root.path());
    assert_eq!(parse(&run()).unwrap().storages, []);
    std::fs::write(root.path().join("etc/pve/storage.cfg"), STORAGES).unwrap();
    let unit = "/usr/lib/systemd/system/zfs-import@.service";
    std::os::unix::fs::symlink(unit, wants.join("zfs-import@tank.service")).unwrap();
    let output = run();
    assert_eq!(parse(&output).unwrap().storages.len(), 5);
    let line = "\nimport-unit\tzfs-import@tank.service\n";
    assert!(format!("\n{output}").contains(line), "{output}");
}
