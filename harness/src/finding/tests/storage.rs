//! Cases of what the host keeps on the controller's disks, and in which order it lets go of it.

use super::guest::{call_host, disk_on_controller, pool_on, pulled};
use super::*;
use crate::finding::mask;
use crate::probe::host_storage::{HostStorageFacts, Storage, StorageKind, UseKind};

fn host_storage(book: &mut FactBook) -> &mut HostStorageFacts {
    book.facts.host_storage.as_mut().unwrap()
}

fn storage(book: &mut FactBook, kind: StorageKind, id: &str, place: &str) {
    host_storage(book).storages.push(Storage {
        id: id.to_owned(),
        kind,
        place: place.to_owned(),
        nodes: Vec::new(),
        disabled: false,
    });
}

/// The pool is imported, a storage of Proxmox's, and imported by a unit of its own.
fn pool_of_proxmox(book: &mut FactBook) {
    disk_on_controller(book, &[(UseKind::Zfs, "tank")]);
    pool_on(book, "sda");
    let pool = &mut host_storage(book).pools.as_mut().unwrap()[0];
    pool.import_unit = Some("zfs-import@tank.service".to_owned());
    storage(book, StorageKind::Zfspool, "vms", "tank/vms");
}

/// The volumes of a thin pool, as the device mapper has them.
const THIN: [&str; 4] = [
    "data-data",
    "data-data_tdata",
    "data-data_tmeta",
    "data-vm--101--disk--0",
];

pub(super) fn cases() -> Vec<Case> {
    vec![
        error("pool-imported-on-host", pool_of_proxmox),
        error("disk-in-use-on-host", |book| {
            disk_on_controller(book, &THIN.map(|name| (UseKind::Lvm, name)));
            storage(book, StorageKind::Lvmthin, "thin", "data");
        }),
    ]
}

#[test]
fn a_pool_that_is_a_storage_is_let_go_of_by_proxmox_first() {
    let book = changed(pool_of_proxmox);
    let found = finding(&book, "pool-imported-on-host");
    assert_eq!(
        found.fix,
        [
            "pvesm set vms --disable 1   # or remove it under Datacenter, Storage",
            "systemctl disable zfs-import@tank.service",
            "zpool export tank",
            "# have the controller at vfio-pci from boot on, so that the host never sees its disks",
        ]
    );
    let proof = found.proof.last().map(|one| one.quote.as_str());
    let quote = "storage.cfg: zfspool: vms, pool tank/vms";
    assert_eq!(proof, Some(quote));
    // Its disks were taken while it was imported.
    let book = changed(|book| {
        pulled(book);
        storage(book, StorageKind::Zfspool, "vms", "tank");
    });
    let fix = &finding(&book, "pool-imported-on-host").fix;
    assert!(fix[1].starts_with("pvesm set vms"), "{fix:?}");
}

#[test]
fn a_storage_that_is_not_active_here_is_left_alone() {
    let fix = |change: fn(&mut FactBook, &mut Storage)| {
        let book = changed(|book| {
            disk_on_controller(book, &[(UseKind::Zfs, "tank")]);
            pool_on(book, "sda");
            storage(book, StorageKind::Zfspool, "vms", "tank");
            let mut one = host_storage(book).storages.pop().unwrap();
            change(book, &mut one);
            host_storage(book).storages.push(one);
        });
        finding(&book, "pool-imported-on-host").fix.remove(0)
    };
    let exported = "zpool export tank";
    assert_eq!(fix(|_, one| one.disabled = true), exported);
    assert_eq!(fix(|_, one| one.place = "tank2".to_owned()), exported);
    assert_eq!(fix(|_, one| one.nodes = vec!["node8".to_owned()]), exported);
    let here = fix(|book, one| {
        call_host(book, "node7.example.com");
        one.nodes = vec!["node8".to_owned(), "node7".to_owned()];
    });
    assert!(here.starts_with("pvesm set vms"), "{here}");
    // Which node this is, is not known.
    let unknown = fix(|book, one| {
        book.facts.platform = None;
        one.nodes = vec!["node7".to_owned()];
    });
    assert_eq!(unknown, exported);
}

/// What is to be done about two disks with these uses each.
fn let_go(uses: &[(UseKind, &str)], storages: &[(StorageKind, &str, &str)]) -> Vec<String> {
    let book = changed(|book| {
        disk_on_controller(book, uses);
        disk_on_controller(book, uses);
        host_storage(book).disks.last_mut().unwrap().name = "sdb".to_owned();
        for (kind, id, place) in storages {
            storage(book, *kind, id, place);
        }
    });
    finding(&book, "disk-in-use-on-host").fix
}

#[test]
fn a_volume_group_is_let_go_of_once() {
    let mut uses = THIN.map(|name| (UseKind::Lvm, name)).to_vec();
    uses.push((UseKind::Lvm, "my--old--vg-srv"));
    uses.push((UseKind::Mount, "/srv"));
    uses.push((UseKind::Mount, "/srv/a"));
    let storages = [
        (StorageKind::Lvmthin, "thin", "data"),
        (StorageKind::Lvm, "other", "data2"),
        (StorageKind::Dir, "files", "/srv/a/files"),
        (StorageKind::Dir, "local", "/var/lib/vz"),
    ];
    assert_eq!(
        let_go(&uses, &storages),
        [
            "pvesm set files --disable 1   # or remove it under Datacenter, Storage",
            "umount /srv/a   # and take it out of /etc/fstab",
            "umount /srv   # and take it out of /etc/fstab",
            "pvesm set thin --disable 1   # or remove it under Datacenter, Storage",
            "# stop the VMs and containers that have volumes in data",
            "vgchange -an data",
            "# stop the VMs and containers that have volumes in my-old-vg",
            "vgchange -an my-old-vg",
        ]
    );
    let raid = let_go(&[(UseKind::Raid, "md0"), (UseKind::Crypt, "luks")], &[]);
    assert_eq!(raid, ["mdadm --stop /dev/md0", "cryptsetup close luks"]);
}

const OSD: &str = "ceph--0b9a4f1e--2d3c--4b5a--8f6e--7a8b9c0d1e2f-osd--block--6d1c2f0e--31d5--4b57--9a5e--5f0a1c9b7e01";

#[test]
fn a_disk_of_ceph_is_its_osds() {
    let group = "ceph-0b9a4f1e-2d3c-4b5a-8f6e-7a8b9c0d1e2f";
    assert_eq!(
        let_go(&[(UseKind::Lvm, OSD)], &[]),
        [
            format!("# stop and destroy the OSD in {group}, under this node, Ceph, OSD"),
            format!("vgchange -an {group}"),
        ]
    );
}

/// The device mapper writes each `-` of a name twice, those of UUIDs as well.
#[test]
fn a_masked_record_shows_no_uuids_of_volumes() {
    let book = changed(|book| {
        disk_on_controller(book, &[(UseKind::Lvm, OSD)]);
        words(book, "root=UUID=0b9a4f1e-2d3c-4b5a-8f6e-7a8b9c0d1e2f");
    });
    let masked = mask(&book).unwrap();
    let uuid = masked.facts.cmdline.as_ref().unwrap().words[0].clone();
    let uuid = uuid.strip_prefix("root=UUID=").unwrap();
    let disks = &masked.facts.host_storage.as_ref().unwrap().disks;
    let name = &disks.last().unwrap().uses[0].name;
    assert!(
        !name.contains("0b9a4f1e") && !name.contains("6d1c2f0e"),
        "{name}"
    );
    let doubled = format!("ceph--{}-osd--block--", uuid.replace('-', "--"));
    assert!(name.starts_with(&doubled), "{name}");
    let fix = finding(&masked, "disk-in-use-on-host").fix.pop();
    assert_eq!(fix, Some(format!("vgchange -an ceph-{uuid}")));
    assert_eq!(mask(&masked).unwrap(), masked);
}

#[test]
fn a_masked_record_shows_no_nodes_of_storages() {
    let book = changed(|book| {
        call_host(book, "basement");
        pool_of_proxmox(book);
        let one = &mut host_storage(book).storages[0];
        one.nodes = vec!["basement".to_owned(), "attic".to_owned()];
        one.id = "basement-vms".to_owned();
    });
    let masked = mask(&book).unwrap();
    let json = masked.to_json();
    assert!(
        !json.contains("basement") && !json.contains("attic"),
        "{json}"
    );
    let one = &masked.facts.host_storage.as_ref().unwrap().storages[0];
    let host = &masked.facts.platform.as_ref().unwrap().host_name;
    assert_eq!(one.nodes[0], *host);
    assert_eq!(one.id, format!("{host}-vms"));
    let fix = finding(&masked, "pool-imported-on-host").fix;
    assert!(fix[0].starts_with("pvesm set HOST-"), "{fix:?}");
}
