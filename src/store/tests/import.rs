//! What is imported, what is refused, and what need not be done twice.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::content::profile::Profile;
use crate::store::{
    FsStore, ImportOptions, ImportProgress, Imported, MemTree, Options, Store, StoreError, import,
};

use super::bench::*;

fn add(store: &FsStore, path: &Path, opts: &ImportOptions) -> Result<Imported, StoreError> {
    import(store, path, opts, &|_| (), &AtomicBool::new(false))
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

#[test]
fn an_unchanged_path_is_not_hashed_again() {
    let a = FsBench::new();
    a.put("tree", &sampler());
    let opts = ImportOptions::default();
    let first = add(a.store(), &a.path("tree"), &opts).unwrap();
    let again = add(a.store(), &a.path("tree"), &opts).unwrap();
    assert!(!first.reused && again.reused);
    assert_eq!(
        (first.key, first.root, first.size, first.files),
        (again.key, again.root, again.size, again.files)
    );
    let other = add(a.store(), &a.path("tree"), &ImportOptions { hidden: true, ..opts }).unwrap();
    assert!(!other.reused && other.root != first.root);
}

#[test]
fn a_touched_file_is_hashed_again_under_the_same_key() {
    let a = FsBench::new();
    a.put("tree", &sampler());
    let opts = ImportOptions::default();
    let first = add(a.store(), &a.path("tree"), &opts).unwrap();
    std::fs::write(a.path("tree/one"), bytes(1, 1)).unwrap();
    let mut buf = Vec::new();
    assert!(a.store().check(first.key.unwrap()).unwrap().contains(&a.path("tree/one")));
    let again = add(a.store(), &a.path("tree"), &opts).unwrap();
    assert!(!again.reused);
    assert_eq!((again.key, again.root), (first.key, first.root));
    let info = a.store().info(again.key.unwrap()).unwrap();
    assert_eq!((info.held, info.changed.len(), info.held_bytes), (info.chunks, 0, info.size));
    for n in 0..info.chunks {
        a.store().read_chunk(info.key, chunk(n), &mut buf).unwrap();
    }
    assert_eq!(a.store().list().unwrap().len(), 1);
}

#[test]
fn a_young_file_is_hashed_again_when_added_again() {
    let a = FsBench::with(Options { clock: || 0, ..Options::default() });
    a.put("f", &file(1, 10));
    let opts = ImportOptions::default();
    add(a.store(), &a.path("f"), &opts).unwrap();
    assert!(!add(a.store(), &a.path("f"), &opts).unwrap().reused);
}

#[test]
fn only_hash_says_the_same_and_keeps_nothing() {
    let a = FsBench::new();
    a.put("tree", &sampler());
    for profile in Profile::ALL {
        let opts = ImportOptions { profile, only_hash: true, ..ImportOptions::default() };
        let hashed = add(a.store(), &a.path("tree"), &opts).unwrap();
        assert_eq!(hashed.key, None);
        assert!(a.store().list().unwrap().is_empty());
        let added = add(a.store(), &a.path("tree"), &ImportOptions { only_hash: false, ..opts }).unwrap();
        assert_eq!(hashed.root, added.root);
        a.store().remove(added.key.unwrap(), false).unwrap();
    }
}

#[test]
fn hidden_names_are_left_out_unless_asked_for() {
    let a = FsBench::new();
    a.put("tree", &dir([("f", file(1, 1)), (".h", file(2, 2)), (".d", dir([("x", file(3, 3))]))]));
    let opts = ImportOptions::default();
    assert_eq!(add(a.store(), &a.path("tree"), &opts).unwrap().files, 1);
    assert_eq!(add(a.store(), &a.path("tree"), &ImportOptions { hidden: true, ..opts }).unwrap().files, 3);
    a.put(".top", &file(1, 1));
    assert_eq!(
        add(a.store(), &a.path(".top"), &opts).unwrap().files,
        1,
        "the argument itself is always taken"
    );
}

#[test]
fn an_argument_that_is_a_symlink_stands_for_what_it_points_to() {
    let a = FsBench::new();
    a.put("f", &file(1, 10));
    symlink("f", a.path("l")).unwrap();
    symlink("nowhere", a.path("dangling")).unwrap();
    let opts = ImportOptions::default();
    let direct = add(a.store(), &a.path("f"), &opts).unwrap();
    let through = add(a.store(), &a.path("l"), &opts).unwrap();
    assert_eq!((direct.root, direct.key), (through.root, through.key));
    assert_eq!(through.name.as_deref(), Some("l"));
    assert!(matches!(add(a.store(), &a.path("dangling"), &opts), Err(StoreError::Io { .. })));
}

#[test]
fn special_files_are_refused_as_arguments_and_left_out_of_folders() {
    let a = FsBench::new();
    a.put("tree", &dir([("f", file(1, 1))]));
    fifo(&a.path("tree/pipe"));
    let opts = ImportOptions::default();
    let done = add(a.store(), &a.path("tree"), &opts).unwrap();
    assert_eq!((done.files, done.skipped), (1, vec![a.path("tree/pipe")]));
    let refused = add(a.store(), &a.path("tree/pipe"), &opts).unwrap_err();
    assert!(refused.to_string().contains("a FIFO"), "{refused}");
    let device = add(a.store(), Path::new("/dev/null"), &opts).unwrap_err();
    assert!(matches!(device, StoreError::Unsupported { what: "a device", .. }));
}

#[test]
fn a_name_that_is_not_utf8_is_named_and_refused() {
    use std::os::unix::ffi::OsStrExt;
    let a = FsBench::new();
    a.put("tree", &dir([("f", file(1, 1))]));
    std::fs::write(a.path("tree").join(std::ffi::OsStr::from_bytes(b"a\xff")), "x").unwrap();
    let refused = add(a.store(), &a.path("tree"), &ImportOptions::default()).unwrap_err();
    assert!(matches!(refused, StoreError::NotUtf8 { .. }), "{refused}");
    assert!(a.store().list().unwrap().is_empty());
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let a = FsBench::new();
    a.put("f", &file(1, 10));
    std::fs::set_permissions(a.path("f"), std::fs::Permissions::from_mode(0o0)).unwrap();
    // Who may read everything (root) may read this too.
    if std::fs::File::open(a.path("f")).is_err() {
        let refused = add(a.store(), &a.path("f"), &ImportOptions::default()).unwrap_err();
        assert!(matches!(&refused, StoreError::Io { path, .. } if path.ends_with("f")), "{refused}");
    }
}

#[test]
fn a_cancelled_import_leaves_nothing() {
    let mut a = FsBench::new();
    let tree = MemTree::Dir((0..3000).map(|n| (format!("f{n}"), file(n, 2000))).collect());
    a.put("tree", &tree);
    let cancelled = AtomicBool::new(false);
    let opts = ImportOptions { profile: &Profile::V0_2015, ..ImportOptions::default() };
    let stop = |p: ImportProgress| cancelled.store(p.files > 1000, Ordering::Relaxed);
    let done = import(a.store(), &a.path("tree"), &opts, &stop, &cancelled);
    assert!(matches!(done, Err(StoreError::Cancelled)));
    a.restart();
    assert!(a.store().list().unwrap().is_empty());
}

#[test]
fn progress_goes_up_to_the_end() {
    let a = FsBench::new();
    a.put("tree", &sampler());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let opts = ImportOptions { hidden: true, ..ImportOptions::default() };
    import(a.store(), &a.path("tree"), &opts, &|p| seen.lock().unwrap().push(p), &AtomicBool::new(false))
        .unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.is_sorted_by_key(|p| p.bytes));
    let last = seen.last().unwrap();
    assert_eq!((last.files, last.bytes), (last.total_files, last.total_bytes));
}

#[test]
fn modes_and_times_are_preserved_when_asked() {
    let (a, b) = (FsBench::new(), FsBench::new());
    a.put("tree", &dir([("f", file(1, 10)), ("d", dir([("g", file(2, 600_000))]))]));
    std::fs::set_permissions(a.path("tree/f"), std::fs::Permissions::from_mode(0o640)).unwrap();
    for profile in Profile::ALL {
        let opts =
            ImportOptions { profile, preserve_mode: true, preserve_mtime: true, ..ImportOptions::default() };
        let ka = add(a.store(), &a.path("tree"), &opts).unwrap().key.unwrap();
        fetch(&a, ka, &b, profile.name);
        assert_eq!(b.at(profile.name), a.at("tree"));
        for name in ["f", "d", "d/g", ""] {
            let [x, y] =
                [a.path("tree"), b.path(profile.name)].map(|p| std::fs::metadata(p.join(name)).unwrap());
            assert_eq!(x.modified().unwrap(), y.modified().unwrap(), "{name}");
            assert_eq!(x.permissions().mode() & 0o755, y.permissions().mode() & 0o755, "{name}");
        }
    }
}

#[test]
fn an_import_killed_on_the_way_is_cleared_away() {
    let mut a = FsBench::new();
    let tree = MemTree::Dir((0..3000).map(|n| (format!("f{n}"), file(n, 2000))).collect());
    a.put("tree", &tree);
    a.put("other", &file(1, 1));
    let index = a.dir.path().join("data/index.redb");
    let left = Mutex::new(Vec::new());
    let opts = ImportOptions { profile: &Profile::V0_2015, ..ImportOptions::default() };
    // Halfway, another import makes durable what there is of this one, and the process is killed.
    let kill = |p: ImportProgress| {
        if p.files > 1000 && left.lock().unwrap().is_empty() {
            add(a.store(), &a.path("other"), &ImportOptions::default()).unwrap();
            *left.lock().unwrap() = std::fs::read(&index).unwrap();
        }
    };
    import(a.store(), &a.path("tree"), &opts, &kill, &AtomicBool::new(false)).unwrap();
    a.store.take().unwrap().crash();
    std::fs::write(&index, left.into_inner().unwrap()).unwrap();
    a.open();
    assert_eq!(a.store().list().unwrap().len(), 1);
    a.restart();
    assert_eq!(a.store().list().unwrap().len(), 1);
}
