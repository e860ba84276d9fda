//! What only a store on a file system can do, or get wrong.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::content::block::cid_of;
use crate::content::chunk::ChunkSpec;
use crate::content::chunk::verify_chunk;
use crate::content::dagpb::PbNode;
use crate::content::manifest::{Item, Meta, RelPath};
use crate::content::profile::Profile;
use crate::content::{Cid, RAW};
use crate::store::{FsStore, MemTree, NewFetch, Options, Store, StoreError};
use crate::units::{ContentKey, FileIndex};

use super::bench::*;

/// A fetch that is told these items.
fn told(b: &FsBench, items: &[Item]) -> Result<ContentKey, StoreError> {
    let root = cid_of(false, RAW, b"some root");
    let key = b.store().begin_fetch(&fetch_of(root, b.path("dest")))?;
    b.store().extend(key, items)?;
    b.store().manifest_complete(key)?;
    Ok(key)
}

fn rel(path: &str) -> RelPath {
    RelPath::parse(path).unwrap()
}

fn folder(path: &str) -> Item {
    Item::Dir { path: rel(path), meta: Meta::NONE }
}

fn link(path: &str, target: &str) -> Item {
    Item::Symlink { path: rel(path), target: target.into() }
}

/// A file of one chunk: its two items.
fn small(n: u32, path: &str, data: &[u8]) -> [Item; 2] {
    let spec = ChunkSpec { cid: cid_of(false, RAW, data), len: Some(data.len() as u64) };
    let file = FileIndex(n);
    [
        Item::File { file, path: rel(path), size: spec.len, sure: true, meta: Meta::NONE },
        Item::Chunk { index: chunk(n), first: true, spec, file, offset: 0 },
    ]
}

fn write(b: &FsBench, key: ContentKey, n: u32, data: &[u8]) -> Result<(), StoreError> {
    let spec = b.store().chunk(key, chunk(n))?;
    b.store().write_chunk(key, chunk(n), &verify_chunk(&spec, data, &[data.len() as u32]).unwrap())
}

fn shared(len: usize) -> (FsBench, ContentKey) {
    let a = FsBench::new();
    a.put("f", &file(1, len));
    let key = a.import("f", &Profile::V1_256K).unwrap();
    (a, key)
}

fn begun(a: &FsBench, ka: ContentKey, b: &FsBench) -> ContentKey {
    let root = a.store().info(ka).unwrap().root;
    let kb = b.store().begin_fetch(&fetch_of(root, b.path("dest"))).unwrap();
    learn(a.store(), b.store(), kb);
    kb
}

#[test]
fn a_killed_fetch_keeps_what_no_checkpoint_covered() {
    for profile in Profile::ALL {
        let (a, mut b) = (FsBench::new(), FsBench::new());
        a.put("tree", &sampler());
        let ka = a.import("tree", profile).unwrap();
        let kb = begun(&a, ka, &b);
        b.store().checkpoint().unwrap();
        let chunks = b.store().info(kb).unwrap().chunks;
        for n in 0..chunks - 1 {
            carry(a.store(), ka, b.store(), kb, n).unwrap();
        }
        b.crash();
        assert_eq!(b.store().have(kb).unwrap().len(), chunks - 1, "{}", profile.name);
        learn(a.store(), b.store(), kb);
        carry_all(a.store(), ka, b.store(), kb);
        b.store().finish_fetch(kb).unwrap();
        assert_eq!(b.at("dest").unwrap(), sampler());
        let info = b.store().info(kb).unwrap();
        assert_eq!(info.held_bytes, info.size, "{}", profile.name);
    }
}

#[test]
fn a_rename_that_a_power_cut_undid_is_done_again() {
    for (profile, what) in [(&Profile::V1_256K, file(5, 600_000)), (&Profile::V0_2015, sampler())] {
        let (a, mut b) = (FsBench::new(), FsBench::new());
        a.put("x", &what);
        let ka = a.import("x", profile).unwrap();
        let kb = fetch(&a, ka, &b, "dest");
        // The commit was durable, the rename was not.
        std::fs::rename(b.path("dest"), b.path("dest.part")).unwrap();
        b.crash();
        let chunks = b.store().info(kb).unwrap().chunks;
        assert_eq!(b.store().have(kb).unwrap().len(), chunks, "it is there and held");
        assert_eq!(b.at("dest").unwrap(), what);
        assert!(b.at("dest.part").is_none());
        let root = b.store().info(kb).unwrap().root;
        assert_eq!(b.store().begin_fetch(&fetch_of(root, b.path("dest"))).unwrap(), kb);
    }
}

#[test]
fn what_was_put_at_the_final_path_after_a_lost_rename_is_not_replaced() {
    let (a, ka) = shared(600_000);
    let mut b = FsBench::new();
    let kb = fetch(&a, ka, &b, "dest");
    std::fs::rename(b.path("dest"), b.path("dest.part")).unwrap();
    b.put("dest", &file(6, 10));
    b.crash();
    assert!(b.store().have(kb).unwrap().is_empty());
    assert_eq!(b.at("dest").unwrap(), file(6, 10));
}

#[test]
fn a_killed_fetch_whose_manifest_was_not_committed_keeps_what_it_wrote() {
    let (a, ka) = shared(2_000_000);
    let mut b = FsBench::new();
    let kb = begun(&a, ka, &b);
    for n in 0..5 {
        carry(a.store(), ka, b.store(), kb, n).unwrap();
    }
    b.crash();
    assert_eq!(b.store().info(kb).unwrap().chunks, 0, "nothing was committed but the fetch itself");
    learn(a.store(), b.store(), kb);
    assert_eq!(b.store().have(kb).unwrap().len(), 5);
    assert_eq!(b.store().info(kb).unwrap().held_bytes, 5 * 262_144);
}

#[test]
fn what_an_unclean_stop_left_half_written_is_not_believed() {
    let (a, ka) = shared(2_000_000);
    let mut b = FsBench::new();
    let kb = begun(&a, ka, &b);
    for n in 0..3 {
        carry(a.store(), ka, b.store(), kb, n).unwrap();
    }
    b.store().checkpoint().unwrap();
    let part = OpenOptions::new().write(true).open(b.path("dest.part")).unwrap();
    part.write_all_at(&bytes(77, 262_144), 4 * 262_144).unwrap();
    b.crash();
    let held = b.store().have(kb).unwrap();
    assert_eq!(held.iter().map(|n| n.get()).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_part_changed_between_two_runs_is_looked_through_again() {
    let (a, ka) = shared(2_000_000);
    let mut b = FsBench::new();
    let kb = begun(&a, ka, &b);
    for n in 0..4 {
        carry(a.store(), ka, b.store(), kb, n).unwrap();
    }
    b.restart();
    assert_eq!(b.store().have(kb).unwrap().len(), 4);
    b.store = None;
    let part = OpenOptions::new().write(true).open(b.path("dest.part")).unwrap();
    part.write_all_at(b"x", 262_144 + 5).unwrap();
    drop(part);
    b.open();
    let held = b.store().have(kb).unwrap();
    assert_eq!(held.iter().map(|n| n.get()).collect::<Vec<_>>(), [0, 2, 3]);
    learn(a.store(), b.store(), kb);
    carry_all(a.store(), ka, b.store(), kb);
    b.store().finish_fetch(kb).unwrap();
    assert_eq!(b.at("dest").unwrap(), file(1, 2_000_000));
}

#[test]
fn a_part_that_was_deleted_is_fetched_from_the_start() {
    for profile in Profile::ALL {
        let (a, mut b) = (FsBench::new(), FsBench::new());
        a.put("tree", &sampler());
        let ka = a.import("tree", profile).unwrap();
        let kb = begun(&a, ka, &b);
        carry(a.store(), ka, b.store(), kb, 0).unwrap();
        b.store = None;
        std::fs::remove_dir_all(b.path("dest.part")).unwrap();
        b.open();
        assert_eq!(b.store().have(kb).unwrap().len(), 0);
        learn(a.store(), b.store(), kb);
        carry_all(a.store(), ka, b.store(), kb);
        b.store().finish_fetch(kb).unwrap();
        assert_eq!(b.at("dest").unwrap(), sampler(), "{}", profile.name);
    }
}

/// Finishes a fetch, and stops as a process that is killed as soon as something is at the final path.
fn killed_after_the_rename(b: &mut FsBench, key: ContentKey) {
    let (index, dest) = (b.dir.path().join("data/index.redb"), b.path("dest"));
    let over = AtomicBool::new(false);
    let left = std::thread::scope(|s| {
        let watch = s.spawn(|| {
            while std::fs::symlink_metadata(&dest).is_err() && !over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            std::fs::read(&index).unwrap()
        });
        let finished = b.store().finish_fetch(key);
        over.store(true, Ordering::Relaxed);
        finished.unwrap();
        watch.join().unwrap()
    });
    b.store.take().unwrap().crash();
    std::fs::write(&index, left).unwrap();
    b.open();
}

#[test]
fn a_fetch_killed_after_its_rename_is_complete() {
    let link = MemTree::Symlink("where/ever".into());
    for what in [file(5, 600_000), file(5, 0), sampler(), link] {
        let (a, mut b) = (FsBench::new(), FsBench::new());
        a.put("in", &dir([("x", what.clone())]));
        let ka = a.import("in", &Profile::V1_256K).unwrap();
        // The whole folder, then what is in it.
        let node = a.store().node(&a.store().info(ka).unwrap().root).unwrap().unwrap();
        let inner = PbNode::decode(&node).unwrap().links().next().unwrap().cid;
        for root in [a.store().info(ka).unwrap().root, inner] {
            let kb = b.store().begin_fetch(&fetch_of(root, b.path("dest"))).unwrap();
            learn(a.store(), b.store(), kb);
            for n in 0..b.store().info(kb).unwrap().chunks {
                let hash = *b.store().chunk(kb, chunk(n)).unwrap().cid.hash();
                let (ka, from, _) = a.store().find_block(&hash).unwrap().unwrap();
                bring((a.store(), ka, from.get()), (b.store(), kb, n)).unwrap();
            }
            killed_after_the_rename(&mut b, kb);
            assert_eq!(b.store().begin_fetch(&fetch_of(root, b.path("dest"))).unwrap(), kb);
            let info = b.store().info(kb).unwrap();
            assert!(info.complete && info.held == info.chunks, "{info:?}");
            assert_eq!(b.store().have(kb).unwrap().len(), info.chunks);
            b.store().remove(kb, false).unwrap();
            let dest = b.path("dest");
            let folder = std::fs::symlink_metadata(&dest).unwrap().is_dir();
            if folder { std::fs::remove_dir_all(dest).unwrap() } else { std::fs::remove_file(dest).unwrap() }
        }
    }
}

#[test]
fn a_finished_fetch_that_the_index_knows_nothing_of_is_found_at_its_destination() {
    for what in [file(5, 600_000), sampler()] {
        let (a, mut b) = (FsBench::new(), FsBench::new());
        a.put("x", &what);
        let ka = a.import("x", &Profile::V1_256K).unwrap();
        let kb = begun(&a, ka, &b);
        let index = b.dir.path().join("data/index.redb");
        let before = std::fs::read(&index).unwrap();
        carry_all(a.store(), ka, b.store(), kb);
        b.store().finish_fetch(kb).unwrap();
        b.store.take().unwrap().crash();
        std::fs::write(&index, before).unwrap();
        b.open();
        let root = a.store().info(ka).unwrap().root;
        let found = b.store().begin_fetch(&fetch_of(root, b.path("dest"))).unwrap();
        let info = b.store().info(found).unwrap();
        assert!(info.complete && info.held == info.chunks && info.held_bytes == info.size, "{info:?}");
        assert_eq!(b.store().list().unwrap().len(), 1, "what was begun is forgotten");
        assert!(b.at("dest.part").is_none());
        fetch(&b, found, &FsBench::new(), "on");
    }
}

#[test]
fn a_fetch_whose_destination_was_taken_meanwhile_says_so_before_it_fetches() {
    let (a, ka) = shared(600_000);
    let b = FsBench::new();
    let kb = begun(&a, ka, &b);
    b.put("dest", &file(9, 9));
    let new = fetch_of(a.store().info(ka).unwrap().root, b.path("dest"));
    assert!(matches!(b.store().begin_fetch(&new), Err(StoreError::Exists { .. })));
    assert_eq!(b.store().begin_fetch(&NewFetch { force: true, ..new }).unwrap(), kb);
    assert_eq!(b.at("dest").unwrap(), file(9, 9));
}

#[test]
fn a_forged_time_does_not_pass() {
    let (a, ka) = shared(600_000);
    let mut buf = Vec::new();
    a.store().read_chunk(ka, chunk(0), &mut buf).unwrap();
    let meta = std::fs::metadata(a.path("f")).unwrap();
    let file = OpenOptions::new().write(true).open(a.path("f")).unwrap();
    file.write_all_at(b"!", 3).unwrap();
    file.set_times(std::fs::FileTimes::new().set_modified(meta.modified().unwrap())).unwrap();
    // Size and mtime are as they were, so only the ctime tells: it is hashed, found wrong, and withdrawn.
    assert!(matches!(a.store().read_chunk(ka, chunk(0), &mut buf), Err(StoreError::Changed { .. })));
}

#[test]
fn a_changed_mode_costs_a_hash_and_not_the_file() {
    let (mut a, ka) = shared(600_000);
    std::fs::set_permissions(a.path("f"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut buf = Vec::new();
    for n in 0..3 {
        a.store().read_chunk(ka, chunk(n), &mut buf).unwrap();
    }
    a.restart();
    assert_eq!(a.store().have(ka).unwrap().len(), 3);
    a.store().read_chunk(ka, chunk(0), &mut buf).unwrap();
}

#[test]
fn a_file_replaced_under_its_name_is_noticed_while_it_is_open() {
    let (a, ka) = shared(600_000);
    let mut buf = Vec::new();
    a.store().read_chunk(ka, chunk(0), &mut buf).unwrap();
    a.put("new", &file(2, 600_000));
    std::fs::rename(a.path("new"), a.path("f")).unwrap();
    assert!(matches!(a.store().read_chunk(ka, chunk(1), &mut buf), Err(StoreError::Changed { .. })));
    assert_eq!(a.store().have(ka).unwrap().len(), 0);
    assert_eq!(a.store().info(ka).unwrap().changed, [a.path("f")]);
}

#[test]
fn a_file_cut_off_deleted_or_turned_into_something_else_is_withdrawn() {
    type Harm = fn(&std::path::Path);
    let harms: [Harm; 4] = [
        |p| File::options().write(true).open(p).unwrap().set_len(10).unwrap(),
        |p| std::fs::remove_file(p).unwrap(),
        |p| {
            std::fs::rename(p, p.with_extension("x")).unwrap();
            symlink(p.with_extension("x"), p).unwrap();
        },
        |p| {
            std::fs::remove_file(p).unwrap();
            std::fs::create_dir(p).unwrap();
        },
    ];
    for (n, harm) in harms.iter().enumerate() {
        let (mut a, ka) = shared(600_000);
        harm(&a.path("f"));
        let mut buf = Vec::new();
        let read = a.store().read_chunk(ka, chunk(2), &mut buf);
        assert!(matches!(read, Err(StoreError::Changed { .. })), "{n}: {read:?}");
        a.restart();
        assert_eq!(a.store().have(ka).unwrap().len(), 0, "{n}: it is remembered");
        assert_eq!(a.store().info(ka).unwrap().changed.len(), 1);
    }
}

#[test]
fn files_changed_while_the_store_was_closed_are_found_by_their_signatures() {
    let mut a = FsBench::new();
    a.put("tree", &sampler());
    let ka = a.import("tree", &Profile::V1_256K).unwrap();
    a.store = None;
    std::fs::write(a.path("tree/a/b/c"), "changed").unwrap();
    a.open();
    let held = a.store().have(ka).unwrap().len();
    assert_eq!(held, a.store().info(ka).unwrap().chunks - 1);
    assert_eq!(a.store().info(ka).unwrap().changed, [a.path("tree/a/b/c")]);
}

#[test]
fn a_changed_part_is_not_served_and_its_chunk_is_wanted_again() {
    let (a, ka) = shared(600_000);
    let b = FsBench::new();
    let kb = begun(&a, ka, &b);
    carry_all(a.store(), ka, b.store(), kb);
    let part = OpenOptions::new().write(true).open(b.path("dest.part")).unwrap();
    part.write_all_at(b"!", 262_144).unwrap();
    let mut buf = Vec::new();
    assert!(b.store().read_chunk(kb, chunk(1), &mut buf).is_err());
    assert!(!b.store().have(kb).unwrap().contains(chunk(1)));
    b.store().read_chunk(kb, chunk(0), &mut buf).unwrap();
    carry_all(a.store(), ka, b.store(), kb);
    b.store().finish_fetch(kb).unwrap();
    assert_eq!(b.at("dest").unwrap(), file(1, 600_000));
}

#[test]
fn a_part_cut_off_under_the_store_is_not_finished() {
    let (a, ka) = shared(600_000);
    let b = FsBench::new();
    let kb = begun(&a, ka, &b);
    carry_all(a.store(), ka, b.store(), kb);
    OpenOptions::new().write(true).open(b.path("dest.part")).unwrap().set_len(1000).unwrap();
    assert!(matches!(b.store().finish_fetch(kb), Err(StoreError::Incomplete { missing: 3 })));
    carry_all(a.store(), ka, b.store(), kb);
    b.store().finish_fetch(kb).unwrap();
    assert_eq!(b.at("dest").unwrap(), file(1, 600_000));
}

#[test]
fn a_symlink_planted_in_the_part_never_leads_outside() {
    let b = FsBench::new();
    std::fs::create_dir(b.path("outside")).unwrap();
    let items = [&[folder(""), folder("a")][..], &small(0, "a/f", b"hello")].concat();
    let key = told(&b, &items).unwrap();
    std::fs::create_dir(b.path("dest.part")).unwrap();
    symlink(b.path("outside"), b.path("dest.part/a")).unwrap();
    assert!(matches!(write(&b, key, 0, b"hello"), Err(StoreError::InTheWay { .. })));
    assert!(b.store().finish_fetch(key).is_err());
    assert_eq!(std::fs::read_dir(b.path("outside")).unwrap().count(), 0);
}

#[test]
fn a_symlink_and_a_file_through_it_never_leads_outside() {
    // The manifest's walk refuses two entries of one name; this is the store on its own, told so all the same.
    let b = FsBench::new();
    std::fs::create_dir(b.path("outside")).unwrap();
    let target = b.path("outside").to_str().unwrap().to_owned();
    let items = [&[folder(""), link("a", &target)][..], &small(0, "a/f", b"hello")].concat();
    let key = told(&b, &items).unwrap();
    write(&b, key, 0, b"hello").unwrap();
    assert!(matches!(b.store().finish_fetch(key), Err(StoreError::Collision { .. })));
    assert_eq!(std::fs::read_dir(b.path("outside")).unwrap().count(), 0);
    assert!(b.at("dest").is_none());
}

#[test]
fn names_that_fold_together_are_a_clear_error_and_never_escape() {
    let fold = || FsBench::with(Options { fold_case: true, clock: late, ..Options::default() });
    let b = fold();
    let items = [&[folder("")][..], &small(0, "Readme", b"one"), &small(1, "README", b"two")].concat();
    let key = told(&b, &items).unwrap();
    write(&b, key, 0, b"one").unwrap();
    write(&b, key, 1, b"two").unwrap();
    assert!(matches!(b.store().finish_fetch(key), Err(StoreError::Collision { .. })));
    assert!(b.at("dest").is_none());

    let b = fold();
    std::fs::create_dir(b.path("outside")).unwrap();
    let target = b.path("outside").to_str().unwrap().to_owned();
    let items = [&[folder(""), link("A", &target), folder("a")][..], &small(0, "a/f", b"hello")].concat();
    let key = told(&b, &items).unwrap();
    write(&b, key, 0, b"hello").unwrap();
    assert!(matches!(b.store().finish_fetch(key), Err(StoreError::Collision { .. })));
    assert_eq!(std::fs::read_dir(b.path("outside")).unwrap().count(), 0);

    let b = fold();
    let key = told(&b, &[folder(""), folder("a"), folder("A")]).unwrap();
    assert!(matches!(b.store().finish_fetch(key), Err(StoreError::Collision { .. })));
}

#[test]
fn oddities_that_linux_allows_arrive() {
    let (a, b) = (FsBench::new(), FsBench::new());
    let long = "x".repeat(255);
    let tree = dir([
        ("CON", file(1, 1)),
        ("a\x1b[31m", file(2, 2)),
        ("A", file(3, 3)),
        ("a", file(4, 4)),
        (&long, file(5, 5)),
    ]);
    a.put("tree", &tree);
    let ka = a.import("tree", &Profile::V1_256K).unwrap();
    fetch(&a, ka, &b, "there");
    assert_eq!(b.at("there").unwrap(), tree);
}

#[test]
fn a_part_that_nobody_knows_is_not_overwritten() {
    let (a, ka) = shared(10);
    let b = FsBench::new();
    b.put("dest.part", &file(9, 9));
    let new = fetch_of(a.store().info(ka).unwrap().root, b.path("dest"));
    assert!(matches!(b.store().begin_fetch(&new), Err(StoreError::Exists { .. })));
    assert_eq!(b.at("dest.part").unwrap(), file(9, 9));
}

#[test]
fn a_destination_made_meanwhile_is_not_overwritten() {
    let (a, ka) = shared(600_000);
    let b = FsBench::new();
    let kb = begun(&a, ka, &b);
    carry_all(a.store(), ka, b.store(), kb);
    b.put("dest", &file(9, 9));
    assert!(matches!(b.store().finish_fetch(kb), Err(StoreError::Exists { .. })));
    assert_eq!(b.at("dest").unwrap(), file(9, 9));
    std::fs::remove_file(b.path("dest")).unwrap();
    b.store().finish_fetch(kb).unwrap();
    assert_eq!(b.at("dest").unwrap(), file(1, 600_000));
}

#[test]
fn removing_a_fetch_deletes_its_part_if_told_to() {
    for delete in [false, true] {
        let (a, ka) = shared(600_000);
        let b = FsBench::new();
        let kb = begun(&a, ka, &b);
        carry(a.store(), ka, b.store(), kb, 0).unwrap();
        b.store().remove(kb, delete).unwrap();
        assert_eq!(b.path("dest.part").exists(), !delete);
    }
}

#[test]
fn modes_and_times_are_restored_within_the_umask() {
    let b = FsBench::new();
    let meta = |mode| Meta { mode: Some(mode), mtime: Some((1_000_000_000, 5)) };
    let data = b"hello";
    let mut items = vec![
        Item::Dir { path: rel(""), meta: meta(0o755) },
        Item::Dir { path: rel("ro"), meta: meta(0o555) },
    ];
    items.extend(small(0, "ro/f", data));
    if let Item::File { meta: m, .. } = &mut items[2] {
        *m = meta(0o4777);
    }
    let key = told(&b, &items).unwrap();
    write(&b, key, 0, data).unwrap();
    b.store().finish_fetch(key).unwrap();
    let file = std::fs::metadata(b.path("dest/ro/f")).unwrap();
    assert_eq!(file.permissions().mode() & 0o5000, 0, "never setuid");
    assert_eq!(file.permissions().mode() & 0o700, 0o700);
    assert_eq!((file.mtime(), file.mtime_nsec()), (1_000_000_000, 5));
    let folder = std::fs::metadata(b.path("dest/ro")).unwrap();
    assert_eq!((folder.permissions().mode() & 0o777, folder.mtime()), (0o555, 1_000_000_000));
    assert_eq!(std::fs::metadata(b.path("dest")).unwrap().mtime(), 1_000_000_000);
    let mut buf = Vec::new();
    b.store().read_chunk(key, chunk(0), &mut buf).unwrap();
    std::fs::set_permissions(b.path("dest/ro"), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn manifests_that_do_not_follow_are_refused() {
    let b = FsBench::new();
    let [f0, c0] = small(0, "f", b"x");
    let [f1, c1] = small(1, "g", b"y");
    assert!(matches!(told(&b, &[folder(""), f1.clone()]), Err(StoreError::OutOfOrder(_))));
    assert!(matches!(told(&b, &[folder(""), f0.clone(), f1.clone(), c1]), Err(StoreError::OutOfOrder(_))));
    assert!(matches!(told(&b, &[folder(""), c0.clone()]), Err(StoreError::OutOfOrder(_))));
    let key = told(&b, &[folder(""), f0, c0, f1]).unwrap();
    assert_eq!(b.store().info(key).unwrap().files, 2, "a refused call leaves nothing");
}

#[test]
fn checkpoints_go_on_beside_writes_and_reads() {
    let (a, ka) = shared(20_000_000);
    let mut b = FsBench::new();
    let kb = begun(&a, ka, &b);
    let chunks = b.store().info(kb).unwrap().chunks;
    let done = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|s| {
        for half in 0..2 {
            let (a, b, done) = (&a, &b, &done);
            s.spawn(move || {
                let mut buf = Vec::new();
                for n in (half..chunks).step_by(2) {
                    carry(a.store(), ka, b.store(), kb, n).unwrap();
                    b.store().read_chunk(kb, chunk(n), &mut buf).unwrap();
                }
                done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            });
        }
        while done.load(std::sync::atomic::Ordering::Relaxed) < 2 {
            b.store().checkpoint().unwrap();
        }
    });
    b.store().checkpoint().unwrap();
    b.crash();
    assert_eq!(b.store().have(kb).unwrap().len(), chunks);
    b.store().finish_fetch(kb).unwrap();
    assert_eq!(b.at("dest").unwrap(), file(1, 20_000_000));
}

#[test]
fn two_stores_cannot_open_one_index() {
    let a = FsBench::new();
    assert!(FsStore::open(&a.dir.path().join("data"), Options::default()).is_err());
}

#[test]
fn a_content_found_twice_is_the_complete_one() {
    let (a, ka) = shared(600_000);
    let root: Cid = a.store().info(ka).unwrap().root;
    let kb = a.store().begin_fetch(&fetch_of(root, a.path("elsewhere"))).unwrap();
    assert_ne!(ka, kb);
    assert_eq!(a.store().find(&root).unwrap(), Some(ka));
    assert_eq!(a.at("f").unwrap(), MemTree::File(bytes(1, 600_000)));
}
