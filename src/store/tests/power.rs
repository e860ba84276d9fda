//! Power cuts after a fetch was finished: what was not synced by then is played as cut off or gone.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::bench::*;
use crate::content::profile::Profile;
use crate::store::{MemTree, NewFetch, Options, Store, StoreError};
use crate::units::ContentKey;

const BIG: usize = 1_300_000;

/// A source, and a store that has just finished a fetch of it to `dest`.
fn finished(what: &MemTree, opts: Options) -> (FsBench, ContentKey, FsBench, ContentKey) {
    let (a, b) = (FsBench::new(), FsBench::with(opts));
    a.put("x", what);
    let ka = a.import("x", &Profile::V1_256K).unwrap();
    let kb = fetch(&a, ka, &b, "dest");
    (a, ka, b, kb)
}

fn options() -> Options {
    Options { clock: late, boot: Some("first".into()), ..Options::default() }
}

/// Cuts a file as a power cut does that comes before its last bytes were written.
fn tear(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(600_000).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
}

/// Brings what is missing; how many chunks that were.
fn complete(a: &FsBench, ka: ContentKey, b: &FsBench, kb: ContentKey) -> u32 {
    let before = b.store().have(kb).unwrap().len();
    learn(a.store(), b.store(), kb);
    carry_all(a.store(), ka, b.store(), kb);
    b.store().finish_fetch(kb).unwrap();
    b.store().have(kb).unwrap().len() - before
}

/// That the index calls it synced: what is torn then is a file that somebody has changed, and no fetch that goes on.
fn assert_synced(b: &mut FsBench, kb: ContentKey, torn: &str) {
    tear(&b.path(torn));
    b.power_cut();
    assert!(b.store().have(kb).unwrap().len() < b.store().info(kb).unwrap().chunks);
    assert!(b.store().info(kb).unwrap().complete);
    assert!(b.at("dest").is_some() && b.at("dest.part").is_none());
}

#[test]
fn a_power_cut_after_the_end_costs_what_was_not_written_yet() {
    let tree = dir([("big", file(1, BIG)), ("small", file(2, 10)), ("none", dir([]))]);
    for (what, torn) in [(file(1, BIG), ""), (tree, "big")] {
        // With its rename, and with that undone too.
        for lies in ["dest", "dest.part"] {
            let (a, ka, mut b, kb) = finished(&what, options());
            tear(&b.path("dest").join(torn).components().collect::<std::path::PathBuf>());
            std::fs::rename(b.path("dest"), b.path(lies)).unwrap();
            b.power_cut();
            let root = a.store().info(ka).unwrap().root;
            assert_eq!(b.store().begin_fetch(&fetch_of(root, b.path("dest"))).unwrap(), kb);
            assert!(!b.store().info(kb).unwrap().complete, "{lies}");
            assert!(b.at("dest").is_none(), "no final name stands for half a file");
            assert_eq!(complete(&a, ka, &b, kb), 3, "two of the five chunks were on the disk");
            assert_eq!(b.at("dest").unwrap(), what);
        }
    }
}

#[test]
fn what_a_power_cut_left_whole_needs_nobody() {
    for what in [file(1, BIG), sampler(), file(0, 0)] {
        for lies in ["dest", "dest.part"] {
            let (_a, _, mut b, kb) = finished(&what, options());
            std::fs::rename(b.path("dest"), b.path(lies)).unwrap();
            b.power_cut();
            let chunks = b.store().info(kb).unwrap().chunks;
            assert_eq!(b.store().have(kb).unwrap().len(), chunks);
            let info = b.store().info(kb).unwrap();
            assert!(info.complete && info.held_bytes == info.size, "{lies}: {info:?}");
            assert_eq!(b.at("dest").unwrap(), what);
            // And once hashed, it is believed at the next cut.
            b.power_cut();
            assert_eq!(b.store().have(kb).unwrap().len(), chunks);
        }
    }
}

#[test]
fn a_checkpoint_after_the_end_syncs_it_in_this_process_or_the_next() {
    let (_a, _, mut b, kb) = finished(&file(1, BIG), options());
    b.store().checkpoint().unwrap();
    assert_synced(&mut b, kb, "dest");

    let (_a, _, mut b, kb) = finished(&dir([("x", file(1, BIG)), ("y", file(2, 5))]), options());
    b.restart();
    b.store().checkpoint().unwrap();
    assert_synced(&mut b, kb, "dest/x");
}

#[test]
fn what_was_moved_away_before_its_sync_fails_no_checkpoint() {
    for what in [file(1, BIG), sampler()] {
        let (a, mut b) = (FsBench::new(), FsBench::with(options()));
        a.put("x", &what);
        let ka = a.import("x", &Profile::V1_256K).unwrap();
        let kb = fetch(&a, ka, &b, "folder/dest");
        std::fs::rename(b.path("folder"), b.path("elsewhere")).unwrap();
        b.store().checkpoint().unwrap();
        b.power_cut();
        assert!(b.store().have(kb).unwrap().is_empty());
        assert_eq!(b.at("elsewhere/dest").unwrap(), what);
    }
}

#[test]
fn a_clean_stop_does_not_wait_for_the_disk_and_says_so() {
    let (a, ka, mut b, kb) = finished(&file(1, BIG), options());
    b.restart();
    tear(&b.path("dest"));
    b.power_cut();
    assert_eq!(b.store().have(kb).unwrap().len(), 2);
    assert_eq!(complete(&a, ka, &b, kb), 3);
}

#[test]
fn a_kill_after_the_end_costs_nothing() {
    let (_a, _, mut b, kb) = finished(&file(1, BIG), options());
    b.crash();
    assert_eq!(b.store().have(kb).unwrap().len(), 5);
    assert!(b.store().info(kb).unwrap().complete);
}

#[test]
fn where_boots_cannot_be_told_apart_the_end_is_synced_first() {
    let (_a, _, mut b, kb) = finished(&file(1, BIG), Options { boot: None, ..options() });
    assert_synced(&mut b, kb, "dest");
}

#[test]
fn what_replaces_something_is_synced_before_it_does() {
    let (a, ka, mut b, kb) = finished(&file(1, BIG), options());
    b.store().remove(kb, false).unwrap();
    b.put("dest", &file(7, 20));
    let root = a.store().info(ka).unwrap().root;
    let new = NewFetch { force: true, ..fetch_of(root, b.path("dest")) };
    let kb = b.store().begin_fetch(&new).unwrap();
    complete(&a, ka, &b, kb);
    assert_synced(&mut b, kb, "dest");
}

#[test]
fn what_the_user_wrote_after_a_power_cut_is_left_alone() {
    let (a, ka, mut b, kb) = finished(&file(1, BIG), options());
    b.put("dest", &file(7, 20));
    b.power_cut();
    assert!(b.store().have(kb).unwrap().is_empty());
    assert_eq!(b.at("dest").unwrap(), file(7, 20));
    let new = fetch_of(a.store().info(ka).unwrap().root, b.path("dest"));
    assert!(matches!(b.store().begin_fetch(&new), Err(StoreError::Exists { .. })));
}
