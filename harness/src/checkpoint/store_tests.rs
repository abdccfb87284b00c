//! Damage, room, and two runs at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::super::meta::{Frozen, FrozenDisk};
use super::*;

fn key(number: u8) -> Key {
    Key::try_from(hex::encode([number; 32])).unwrap()
}

fn store(cache: &Path, budget: u64) -> Store {
    Store::open(cache, budget).unwrap()
}

/// A checkpoint with one disk of one layer over those of `parent`, and RAM.
fn take(store: &Store, number: u8, parent: Option<&Checkpoint>) -> Checkpoint {
    let draft = store.begin(&key(number)).unwrap();
    let disk = draft.path().join("written-to");
    fs::write(&disk, vec![number; 64 << 10]).unwrap();
    let mut files = BTreeMap::new();
    files.insert(
        "disk0-0.qcow2".to_owned(),
        draft.adopt(&disk, "disk0-0.qcow2").unwrap(),
    );
    fs::remove_file(&disk).unwrap();
    for name in ["devices.zst", "ram-0.zst"] {
        let path = draft.path().join(name);
        fs::write(&path, vec![number; 64 << 10]).unwrap();
        files.insert(name.to_owned(), digest(&path).unwrap());
    }
    let mut layers = parent.map_or_else(Vec::new, |parent| parent.meta.disks[0].layers.clone());
    layers.push(LayerRef {
        folder: draft.name().to_owned(),
        file: "disk0-0.qcow2".to_owned(),
    });
    let meta = Meta {
        key: key(number),
        taken: jiff::Timestamp::now(),
        seconds: 1.0,
        boot_id: Some("boot".to_owned()),
        nas: None,
        saved: BTreeMap::new(),
        measured: Vec::new(),
        disks: vec![FrozenDisk { bytes: 1, layers }],
        frozen: Some(Frozen {
            devices: "devices.zst".to_owned(),
            ram: vec!["ram-0.zst".to_owned()],
        }),
        files,
        console: Vec::new(),
    };
    store.finish(draft, &meta).unwrap()
}

const PLENTY: u64 = 1 << 40;

#[test]
fn what_was_taken_is_found_and_whole() {
    let cache = tempfile::tempdir().unwrap();
    let store = store(cache.path(), PLENTY);
    assert!(store.find(&key(1)).is_none());
    let first = take(&store, 1, None);
    let second = take(&store, 2, Some(&first));
    let found = store.find(&key(2)).unwrap();
    assert_eq!(found.meta, second.meta);
    store.check(&found).unwrap();
    assert_eq!(store.keys(), [key(1), key(2)].into());
    assert_eq!(store.usage().running, 2);
}

#[test]
fn damage_is_noticed_wherever_it_is() {
    let file = |one: &Checkpoint, name: &str| one.file(name);
    let cut = |path: &Path| fs::write(path, "short").unwrap();
    let alter = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[1000] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let lose = |path: &Path| fs::remove_file(path).unwrap();
    for (what, harm) in [
        ("cut", &cut as &dyn Fn(&Path)),
        ("altered", &alter),
        ("lost", &lose),
    ] {
        for parent_too in [false, true] {
            let cache = tempfile::tempdir().unwrap();
            let store = store(cache.path(), PLENTY);
            let first = take(&store, 1, None);
            let second = take(&store, 2, Some(&first));
            let harmed = if parent_too { &first } else { &second };
            harm(&file(harmed, "disk0-0.qcow2"));
            let found = store.find(&key(2)).unwrap();
            assert!(store.check(&found).is_err(), "{what} {parent_too}");
        }
    }
    for name in ["devices.zst", "ram-0.zst"] {
        let cache = tempfile::tempdir().unwrap();
        let store = store(cache.path(), PLENTY);
        let one = take(&store, 1, None);
        cut(&file(&one, name));
        assert!(store.check(&one).is_err(), "{name}");
    }
}

#[test]
fn a_description_that_cannot_be_read_removes_its_checkpoint() {
    let cache = tempfile::tempdir().unwrap();
    let store = store(cache.path(), PLENTY);
    let one = take(&store, 1, None);
    let meta = one.file(META);
    drop(one);
    fs::write(&meta, "{").unwrap();
    assert!(store.find(&key(1)).is_none());
    assert!(!meta.exists());
}

#[test]
fn what_a_dead_run_left_half_made_is_swept_and_what_a_living_one_makes_is_not() {
    let cache = tempfile::tempdir().unwrap();
    let store = store(cache.path(), PLENTY);
    let living = store.begin(&key(1)).unwrap();
    let dead = store.begin(&key(2)).unwrap();
    let path = dead.path().to_owned();
    fs::write(path.join("ram-0.zst"), "half").unwrap();
    // As after kill -9: the lock goes with the process, the folder stays.
    dead._alive.unlock().unwrap();
    std::mem::forget(dead);
    let again = Store::open(cache.path(), PLENTY).unwrap();
    assert!(!path.exists());
    assert!(living.path().exists());
    assert!(again.find(&key(2)).is_none());
}

#[test]
fn two_labs_that_take_the_same_checkpoint_keep_their_own() {
    let cache = tempfile::tempdir().unwrap();
    let (one, other) = (store(cache.path(), PLENTY), store(cache.path(), PLENTY));
    let first = take(&one, 1, None);
    let second = take(&other, 1, None);
    assert_ne!(first.name(), second.name());
    let child = take(&one, 2, Some(&first));
    assert_eq!(child.meta.disks[0].layers[0].folder, first.name());
    assert_eq!(other.find(&key(1)).unwrap().name(), second.name());
    other.check(&child).unwrap();
}

#[test]
fn the_longest_unused_leaf_gives_way_first_and_never_what_is_needed() {
    let cache = tempfile::tempdir().unwrap();
    let full = store(cache.path(), PLENTY);
    let root = take(&full, 1, None);
    let old = take(&full, 2, Some(&root));
    let new = take(&full, 3, Some(&root));
    let used = take(&full, 4, Some(&root));
    let size = full.usage().bytes / 4;
    let hours_ago = |one: &Checkpoint, hours: u64| {
        let lock = fs::File::open(one.file(LOCK)).unwrap();
        let time = SystemTime::now() - Duration::from_secs(hours * 3600);
        lock.set_modified(time).unwrap();
    };
    for (one, hours) in [(&root, 9), (&used, 8), (&old, 5), (&new, 1)] {
        hours_ago(one, hours);
    }
    drop((root, old, new));
    let tight = store(cache.path(), size * 3);
    let before = tight.keys();
    drop(tight.begin(&key(9)).unwrap());
    // The oldest leaf is in use, the root is a parent.
    assert_eq!(before.len(), 4);
    assert_eq!(tight.keys(), [key(1), key(3), key(4)].into());
    drop(used);
    assert_eq!(tight.clear(), 3);
    assert_eq!(tight.usage().bytes, 0);
}

#[test]
fn what_is_of_no_use_goes_with_all_that_is_built_on_it() {
    let cache = tempfile::tempdir().unwrap();
    let store = store(cache.path(), PLENTY);
    let root = take(&store, 1, None);
    drop(take(&store, 2, Some(&root)));
    drop(take(&store, 3, None));
    store.discard(root);
    assert_eq!(store.keys(), [key(3)].into());
}

#[test]
fn the_budget_holds_after_each_checkpoint_too() {
    let cache = tempfile::tempdir().unwrap();
    let plenty = store(cache.path(), PLENTY);
    drop(take(&plenty, 1, None));
    let one = plenty.usage().bytes;
    let tight = store(cache.path(), one + one / 2);
    let second = take(&tight, 2, None);
    assert_eq!(tight.keys(), [key(2)].into());
    assert!(tight.usage().bytes <= tight.usage().budget);
    // What is in use stays, whatever it takes.
    let third = take(&tight, 3, None);
    assert_eq!(tight.keys(), [key(2), key(3)].into());
    drop((second, third));
}

#[test]
fn on_a_disk_that_is_nearly_full_the_unused_give_way_if_that_helps() {
    let cache = tempfile::tempdir().unwrap();
    let mut store = store(cache.path(), PLENTY);
    drop(take(&store, 1, None));
    drop(take(&store, 2, None));
    let used = take(&store, 3, None);
    let bytes = store.usage().bytes;
    let all: BTreeSet<Key> = [key(1), key(2), key(3)].into();
    // There is room, and then all of them would not be enough for anything.
    for free in [RESERVE, 0] {
        store.keep_free(free);
        assert_eq!(store.keys(), all);
    }
    // Not enough for the reserve, and enough for labs.
    store.keep_free(LABS - bytes / 3);
    assert_eq!(store.keys(), [key(2), key(3)].into());
    store.keep_free(RESERVE - bytes / 3);
    assert_eq!(store.keys(), [key(3)].into());
    store.check(&used).unwrap();
    store.reserve = u64::MAX;
    let error = store.begin(&key(4)).unwrap_err();
    assert!(matches!(error, StoreError::NoRoom { .. }), "{error}");
}
