//! What every store must do.

use crate::content::profile::Profile;
use crate::store::{MemTree, NewFetch, Store, StoreError};
use crate::units::{ChunkRange, FileIndex};

use super::bench::*;

macro_rules! both {
    ($($name:ident),* $(,)?) => {
        mod mem { $(#[test] fn $name() { super::$name::<super::MemBench>(); })* }
        mod fs { $(#[test] fn $name() { super::$name::<super::FsBench>(); })* }
    };
}

both!(
    a_tree_arrives_identical_by_every_profile,
    every_kind_of_root_arrives_identical,
    a_fetched_content_is_served_on,
    what_was_checkpointed_survives_a_crash_and_the_rest_can_be_fetched,
    items_told_again_change_nothing,
    a_changed_file_is_never_served_wrong_and_comes_back_by_verify,
    bytes_that_lie_in_two_files_outlive_one_of_them,
    a_destination_that_is_something_else_is_refused,
    a_destination_that_is_the_content_already_needs_no_fetch,
    force_replaces_what_is_there,
    a_fetch_begun_twice_is_the_same_fetch,
    two_contents_cannot_be_fetched_to_one_place_at_once,
    a_fetched_file_that_was_deleted_is_fetched_again,
    finishing_too_early_is_an_error_that_counts_what_is_missing,
    removing_forgets_but_keeps_the_users_files,
    chunks_of_a_file_are_found_by_their_bytes,
    relocate_believes_only_what_it_hashed,
    blocks_are_found_by_their_hash_while_they_are_held,
    unknown_things_are_errors,
    notes_outlive_a_crash_and_kinds_are_kept_apart,
);

fn a_tree_arrives_identical_by_every_profile<B: Bench>() {
    for profile in Profile::ALL {
        let (a, b) = (B::new(), B::new());
        a.put("tree", &sampler());
        let ka = a.import("tree", profile).unwrap();
        let kb = fetch(&a, ka, &b, "there");
        assert_eq!(b.at("there").unwrap(), sampler(), "{}", profile.name);
        let (ia, ib) = (a.store().info(ka).unwrap(), b.store().info(kb).unwrap());
        assert_eq!((ia.size, ia.files, ia.chunks), (ib.size, ib.files, ib.chunks), "{}", profile.name);
        assert_eq!((ib.held, ib.held_bytes, ib.complete), (ib.chunks, ib.size, true), "{}", profile.name);
        assert_eq!((ia.held, ia.held_bytes, ia.complete), (ia.chunks, ia.size, true), "{}", profile.name);
    }
}

fn every_kind_of_root_arrives_identical<B: Bench>() {
    for profile in Profile::ALL {
        for tree in [file(0, 0), file(1, 1), file(2, 262_144), file(3, 262_145), file(4, 3_000_000), dir([])]
        {
            let (a, b) = (B::new(), B::new());
            a.put("x", &tree);
            let ka = a.import("x", profile).unwrap();
            let kb = fetch(&a, ka, &b, "y");
            assert!(b.at("y").unwrap() == tree, "{}", profile.name);
            let (ia, ib) = (a.store().info(ka).unwrap(), b.store().info(kb).unwrap());
            assert_eq!((ia.size, ia.held_bytes), (ib.size, ib.held_bytes));
        }
    }
}

fn a_fetched_content_is_served_on<B: Bench>() {
    let (a, mut b, c) = (B::new(), B::new(), B::new());
    a.put("tree", &sampler());
    let ka = a.import("tree", &Profile::V0_2015).unwrap();
    let kb = fetch(&a, ka, &b, "there");
    b.crash();
    fetch(&b, kb, &c, "third");
    assert_eq!(c.at("third").unwrap(), sampler());
}

fn what_was_checkpointed_survives_a_crash_and_the_rest_can_be_fetched<B: Bench>() {
    let (a, mut b) = (B::new(), B::new());
    a.put("tree", &sampler());
    for profile in Profile::ALL {
        let ka = a.import("tree", profile).unwrap();
        let root = a.store().info(ka).unwrap().root;
        let new = fetch_of(root, b.path(profile.name));
        let kb = b.store().begin_fetch(&new).unwrap();
        learn(a.store(), b.store(), kb);
        carry(a.store(), ka, b.store(), kb, 0).unwrap();
        carry(a.store(), ka, b.store(), kb, 2).unwrap();
        b.store().checkpoint().unwrap();
        carry(a.store(), ka, b.store(), kb, 1).unwrap();
        b.crash();
        let held = b.store().have(kb).unwrap();
        assert!(held.contains(chunk(0)) && held.contains(chunk(2)), "{}", profile.name);
        assert_eq!(b.store().begin_fetch(&new).unwrap(), kb);
        learn(a.store(), b.store(), kb);
        carry_all(a.store(), ka, b.store(), kb);
        b.store().finish_fetch(kb).unwrap();
        assert_eq!(b.at(profile.name).unwrap(), sampler());
        let info = b.store().info(kb).unwrap();
        assert_eq!(info.held_bytes, info.size);
    }
}

fn items_told_again_change_nothing<B: Bench>() {
    let (a, b) = (B::new(), B::new());
    a.put("tree", &sampler());
    let ka = a.import("tree", &Profile::V0_2015).unwrap();
    let root = a.store().info(ka).unwrap().root;
    let kb = b.store().begin_fetch(&fetch_of(root, b.path("there"))).unwrap();
    learn(a.store(), b.store(), kb);
    carry(a.store(), ka, b.store(), kb, 1).unwrap();
    let before = b.store().info(kb).unwrap();
    learn(a.store(), b.store(), kb);
    let after = b.store().info(kb).unwrap();
    assert_eq!(
        (before.size, before.files, before.chunks, before.held, before.held_bytes),
        (after.size, after.files, after.chunks, after.held, after.held_bytes)
    );
    carry_all(a.store(), ka, b.store(), kb);
    b.store().finish_fetch(kb).unwrap();
    assert_eq!(b.at("there").unwrap(), sampler());
}

fn a_changed_file_is_never_served_wrong_and_comes_back_by_verify<B: Bench>() {
    let a = B::new();
    let right = dir([("f", file(1, 600_000)), ("g", file(2, 10))]);
    a.put("tree", &right);
    let ka = a.import("tree", &Profile::V1_256K).unwrap();
    let total = a.store().info(ka).unwrap().chunks;
    a.put("tree", &dir([("f", file(9, 600_000)), ("g", file(2, 10))]));
    let mut buf = Vec::new();
    let read = a.store().read_chunk(ka, chunk(1), &mut buf);
    assert!(matches!(&read, Err(StoreError::Changed { path }) if path.ends_with("f")), "{read:?}");
    assert!(!a.store().have(ka).unwrap().contains(chunk(1)));
    assert!(a.store().info(ka).unwrap().changed.iter().any(|p| p.ends_with("f")));
    let (_, blamed) = a.store().verify(ka, &mut |_| ()).unwrap();
    assert_eq!(blamed, [a.path("tree").join("f")]);
    assert_eq!(a.store().have(ka).unwrap().len(), 1, "the other file is as it was");
    a.put("tree", &right);
    let (lost, blamed) = a.store().verify(ka, &mut |_| ()).unwrap();
    assert_eq!((lost.len(), blamed.len()), (0, 0));
    let info = a.store().info(ka).unwrap();
    assert_eq!((info.held, info.held_bytes, info.changed.len()), (total, info.size, 0));
    a.store().read_chunk(ka, chunk(1), &mut buf).unwrap();
}

fn bytes_that_lie_in_two_files_outlive_one_of_them<B: Bench>() {
    let a = B::new();
    a.put("tree", &dir([("f", file(1, 600_000)), ("g", file(1, 600_000))]));
    let ka = a.import("tree", &Profile::V1_256K).unwrap();
    a.put("tree", &dir([("f", file(2, 600_000)), ("g", file(1, 600_000))]));
    // Verified, since putting the tree has touched both files.
    let (lost, blamed) = a.store().verify(ka, &mut |_| ()).unwrap();
    assert_eq!((lost.len(), blamed.len()), (0, 1));
    let mut buf = Vec::new();
    for n in 0..3 {
        a.store().read_chunk(ka, chunk(n), &mut buf).unwrap();
    }
    assert_eq!(buf, bytes(1, 600_000)[2 * 262_144..]);
}

fn a_destination_that_is_something_else_is_refused<B: Bench>() {
    let (a, b) = (B::new(), B::new());
    a.put("f", &file(1, 300_000));
    let ka = a.import("f", &Profile::V1_256K).unwrap();
    let root = a.store().info(ka).unwrap().root;
    for other in [file(2, 300_000), file(1, 299_999), dir([]), MemTree::Symlink("elsewhere".into())] {
        b.put("g", &other);
        let begun = b.store().begin_fetch(&fetch_of(root, b.path("g")));
        assert!(matches!(begun, Err(StoreError::Exists { .. })), "{begun:?}");
        assert_eq!(b.at("g").unwrap(), other);
        if let MemTree::File(_) | MemTree::Symlink(_) = other {
            let _ = std::fs::remove_file(b.path("g"));
        }
    }
    assert!(b.store().list().unwrap().is_empty());
}

fn a_destination_that_is_the_content_already_needs_no_fetch<B: Bench>() {
    for profile in Profile::ALL {
        let (a, b) = (B::new(), B::new());
        a.put("tree", &sampler());
        b.put("there", &sampler());
        let ka = a.import("tree", profile).unwrap();
        let root = a.store().info(ka).unwrap().root;
        let kb = b.store().begin_fetch(&fetch_of(root, b.path("there"))).unwrap();
        let info = b.store().info(kb).unwrap();
        assert!(info.complete && info.held == info.chunks, "{}", profile.name);
        let c = B::new();
        fetch(&b, kb, &c, "third");
        assert_eq!(c.at("third").unwrap(), sampler());
    }
}

fn force_replaces_what_is_there<B: Bench>() {
    let (tree, single) = (dir([("x", file(1, 10))]), file(2, 10));
    for (new, old) in
        [(&single, &tree), (&tree, &single), (&tree, &dir([("y", file(3, 3))])), (&single, &file(4, 4))]
    {
        let (a, b) = (B::new(), B::new());
        a.put("new", new);
        b.put("dest", old);
        let ka = a.import("new", &Profile::V1_256K).unwrap();
        let root = a.store().info(ka).unwrap().root;
        let begin = NewFetch { force: true, ..fetch_of(root, b.path("dest")) };
        let kb = b.store().begin_fetch(&begin).unwrap();
        learn(a.store(), b.store(), kb);
        carry_all(a.store(), ka, b.store(), kb);
        assert_eq!(&b.at("dest").unwrap(), old, "until it is complete");
        b.store().finish_fetch(kb).unwrap();
        assert_eq!(&b.at("dest").unwrap(), new);
    }
}

fn a_fetch_begun_twice_is_the_same_fetch<B: Bench>() {
    let (a, b) = (B::new(), B::new());
    a.put("f", &file(1, 600_000));
    let ka = a.import("f", &Profile::V1_256K).unwrap();
    let new = fetch_of(a.store().info(ka).unwrap().root, b.path("g"));
    let kb = b.store().begin_fetch(&new).unwrap();
    learn(a.store(), b.store(), kb);
    carry(a.store(), ka, b.store(), kb, 1).unwrap();
    assert_eq!(b.store().begin_fetch(&new).unwrap(), kb);
    assert!(b.store().have(kb).unwrap().contains(chunk(1)));
    carry_all(a.store(), ka, b.store(), kb);
    b.store().finish_fetch(kb).unwrap();
    assert_eq!(b.store().finish_fetch(kb).unwrap(), b.path("g"), "finishing twice does no harm");
    assert_eq!(b.store().begin_fetch(&new).unwrap(), kb);
    assert!(b.store().info(kb).unwrap().complete);
}

fn two_contents_cannot_be_fetched_to_one_place_at_once<B: Bench>() {
    let (a, b) = (B::new(), B::new());
    a.put("f", &file(1, 10));
    a.put("g", &file(2, 10));
    let roots = ["f", "g"].map(|n| {
        let key = a.import(n, &Profile::V1_256K).unwrap();
        a.store().info(key).unwrap().root
    });
    b.store().begin_fetch(&fetch_of(roots[0], b.path("x"))).unwrap();
    let second = b.store().begin_fetch(&fetch_of(roots[1], b.path("x")));
    assert!(matches!(second, Err(StoreError::Busy { root, .. }) if root == roots[0]));
}

fn a_fetched_file_that_was_deleted_is_fetched_again<B: Bench>() {
    let (a, b) = (B::new(), B::new());
    a.put("tree", &sampler());
    let ka = a.import("tree", &Profile::V0_2015).unwrap();
    let kb = fetch(&a, ka, &b, "there");
    b.put("there", &dir([]));
    let new = fetch_of(a.store().info(ka).unwrap().root, b.path("there"));
    assert!(matches!(b.store().begin_fetch(&new), Err(StoreError::Exists { .. })));
    let again = b.store().begin_fetch(&NewFetch { force: true, ..new }).unwrap();
    assert_eq!(again, kb);
    assert_eq!(b.store().have(kb).unwrap().len(), 0);
    learn(a.store(), b.store(), kb);
    carry_all(a.store(), ka, b.store(), kb);
    b.store().finish_fetch(kb).unwrap();
    assert_eq!(b.at("there").unwrap(), sampler());
}

fn finishing_too_early_is_an_error_that_counts_what_is_missing<B: Bench>() {
    let (a, b) = (B::new(), B::new());
    a.put("f", &file(1, 600_000));
    let ka = a.import("f", &Profile::V1_256K).unwrap();
    let kb = b.store().begin_fetch(&fetch_of(a.store().info(ka).unwrap().root, b.path("g"))).unwrap();
    assert!(matches!(b.store().finish_fetch(kb), Err(StoreError::Incomplete { missing: 1 })));
    learn(a.store(), b.store(), kb);
    carry(a.store(), ka, b.store(), kb, 0).unwrap();
    assert!(matches!(b.store().finish_fetch(kb), Err(StoreError::Incomplete { missing: 2 })));
    assert!(b.at("g").is_none());
}

fn removing_forgets_but_keeps_the_users_files<B: Bench>() {
    let (a, b) = (B::new(), B::new());
    a.put("tree", &sampler());
    let ka = a.import("tree", &Profile::V0_2015).unwrap();
    let root = a.store().info(ka).unwrap().root;
    let kb = fetch(&a, ka, &b, "there");
    a.store().remove(ka, true).unwrap();
    b.store().remove(kb, true).unwrap();
    assert_eq!((a.at("tree").unwrap(), b.at("there").unwrap()), (sampler(), sampler()));
    assert!(a.store().list().unwrap().is_empty());
    assert_eq!(a.store().find(&root).unwrap(), None);
    assert_eq!(a.store().node(&root).unwrap(), None, "no content uses its nodes");
    assert!(matches!(a.store().have(ka), Err(StoreError::UnknownContent(_))));
    let again = a.import("tree", &Profile::V0_2015).unwrap();
    assert_ne!(again, ka, "keys are not used twice");
}

fn chunks_of_a_file_are_found_by_their_bytes<B: Bench>() {
    let a = B::new();
    let k = 262_144;
    a.put(
        "tree",
        &dir([
            ("a", file(1, 10)),
            ("b", file(2, 5 * 262_144 + 1)),
            ("c", file(2, 5 * 262_144 + 1)),
            ("z", MemTree::File(vec![0; 3 * 262_144])),
        ]),
    );
    let ka = a.import("tree", &Profile::V1_256K).unwrap();
    let of = |file, start, end| {
        let runs = a.store().chunks_of(ka, FileIndex(file), start, end).unwrap();
        runs.into_iter().map(|r| (r.start(), r.end())).collect::<Vec<_>>()
    };
    assert_eq!(of(0, 0, u64::MAX), [(0, 1)]);
    for file in [1, 2] {
        assert_eq!(of(file, 0, u64::MAX), [(1, 7)]);
        assert_eq!(of(file, k, 3 * k), [(2, 4)]);
        assert_eq!(of(file, k - 1, k + 1), [(1, 3)]);
        assert_eq!(of(file, 5 * k, 5 * k + 1), [(6, 7)]);
        assert_eq!(of(file, 5 * k + 1, u64::MAX), []);
    }
    assert_eq!(of(3, k, 2 * k), [(7, 8)]);
}

fn relocate_believes_only_what_it_hashed<B: Bench>() {
    let a = B::new();
    a.put("tree", &sampler());
    let ka = a.import("tree", &Profile::V0_2015).unwrap();
    a.put("moved", &sampler());
    let mut wrong = sampler();
    wrong.put("a/b.txt", file(99, 300_000));
    a.put("wrong", &wrong);
    a.put("tree", &dir([]));
    let refused = a.store().relocate(ka, &a.path("wrong"));
    assert!(
        matches!(&refused, Err(StoreError::Changed { path }) if path.ends_with("a/b.txt")),
        "{refused:?}"
    );
    a.store().relocate(ka, &a.path("moved")).unwrap();
    let info = a.store().info(ka).unwrap();
    assert_eq!((info.held, info.held_bytes, info.origin.path()), (info.chunks, info.size, &*a.path("moved")));
    let b = B::new();
    fetch(&a, ka, &b, "there");
    assert_eq!(b.at("there").unwrap(), sampler());
}

fn blocks_are_found_by_their_hash_while_they_are_held<B: Bench>() {
    let a = B::new();
    a.put("f", &file(1, 600_000));
    let ka = a.import("f", &Profile::V1_256K).unwrap();
    for n in 0..3 {
        let spec = a.store().chunk(ka, chunk(n)).unwrap();
        assert_eq!(a.store().find_block(spec.cid.hash()).unwrap(), Some((ka, chunk(n), 0)));
    }
    let hash = *a.store().chunk(ka, chunk(0)).unwrap().cid.hash();
    a.store().remove(ka, false).unwrap();
    assert_eq!(a.store().find_block(&hash).unwrap(), None);
}

fn unknown_things_are_errors<B: Bench>() {
    let a = B::new();
    a.put("f", &file(1, 600_000));
    let ka = a.import("f", &Profile::V1_256K).unwrap();
    let mut buf = Vec::new();
    assert!(matches!(a.store().chunk(ka, chunk(3)), Err(StoreError::UnknownChunk(_))));
    assert!(matches!(a.store().read_chunk(ka, chunk(3), &mut buf), Err(StoreError::UnknownChunk(_))));
    assert!(a.store().chunks_of(ka, FileIndex(1), 0, 1).is_err());
    let b = B::new();
    let kb = b.store().begin_fetch(&fetch_of(a.store().info(ka).unwrap().root, b.path("g"))).unwrap();
    learn(a.store(), b.store(), kb);
    assert!(matches!(b.store().read_chunk(kb, chunk(0), &mut buf), Err(StoreError::NotHeld { .. })));
    // A chunk that is right, under another's number.
    let read = a.store().read_chunk(ka, chunk(0), &mut buf).unwrap();
    let spec = a.store().chunk(ka, chunk(0)).unwrap();
    let verified = crate::content::chunk::verify_chunk(&spec, &buf, &read.block_lens).unwrap();
    assert!(b.store().write_chunk(kb, chunk(1), &verified).is_err());
    assert!(b.store().have(kb).unwrap().is_empty());
    assert_eq!(ChunkRange::one(chunk(0)).len(), 1);
}

fn notes_outlive_a_crash_and_kinds_are_kept_apart<B: Bench>() {
    let mut a = B::new();
    assert!(a.store().notes("peer").unwrap().is_empty());
    let put = |key: &str, text: &str| (key.as_bytes().to_vec(), Some(text.as_bytes().to_vec()));
    a.store().note("peer", &[put("a", "1"), put("b", "2"), put("", "3")]).unwrap();
    a.store().note("pee", &[put("c", "4")]).unwrap();
    a.store().note("peers", &[put("d", "5")]).unwrap();
    a.store().note("peer", &[(b"a".to_vec(), None), put("b", "6")]).unwrap();
    a.crash();
    let want = vec![(b"".to_vec(), b"3".to_vec()), (b"b".to_vec(), b"6".to_vec())];
    assert_eq!(a.store().notes("peer").unwrap(), want);
    assert_eq!(a.store().notes("pee").unwrap().len(), 1);
}
