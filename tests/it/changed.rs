//! A shared file that changes is withdrawn, and never served wrong.

use std::fs::{self, File, FileTimes};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::Value;

use crate::support::args;
use crate::support::home::{Home, address, text};
use crate::support::tree::{MIB, assert_no_wrong_byte, assert_same, random_file};
use crate::transfer::share;

/// Overwrites some bytes in the middle; with `secretly`, the modification time is put back.
fn change(file: &Path, secretly: bool) {
    let before = fs::metadata(file).unwrap().modified().unwrap();
    let mut f = File::options().write(true).open(file).unwrap();
    f.seek(SeekFrom::Start(MIB + 17)).unwrap();
    f.write_all(b"these bytes were not there when it was shared").unwrap();
    if secretly {
        f.set_times(FileTimes::new().set_modified(before)).unwrap();
    }
}

fn names(list: &Value, file: &Path) -> bool {
    list.as_array().is_some_and(|l| l.iter().any(|p| p.as_str() == file.to_str()))
}

/// One changed file: fetchers get an error and no wrong byte, status and verify name it.
fn is_noticed(secretly: bool) {
    let (a, b) = (Home::new(), Home::new());
    let (file, copy) = (a.join("file"), a.join("as it was"));
    random_file(&file, 5, 20 * MIB);
    fs::copy(&file, &copy).unwrap();
    let (_a, lines) = share(&a, &[&file]);
    change(&file, secretly);

    let (peer, cid) = (address(&lines[0]), text(&lines[0], "cid"));
    let done = b.start(&args!["get", cid, "-o", "copy", "--peer", &peer, "--timeout", "5"]).wait().code(1);
    assert!(done.error().len() > 20, "{}", done.error());
    assert!(!b.join("copy").exists());
    if b.join("copy.part").exists() {
        assert_no_wrong_byte(&copy, &b.join("copy.part"));
    }

    let status = a.status();
    assert!(names(&status["contents"][0]["changed"], &file), "{status}");
    assert!(text(&status["contents"][0], "state").starts_with("changed"), "{status}");
    let verify = a.run(&args!["verify", cid]).code(1);
    assert!(verify.error().contains(file.to_str().unwrap()), "{}", verify.error());
    let json = a.run(&args!["verify", "--json", cid]).code(1);
    assert!(names(&json.json()[0]["changed"], &file), "{}", json.stdout);
}

#[test]
fn a_changed_file_is_never_served_and_is_named() {
    is_noticed(false);
}

#[test]
fn a_change_that_keeps_size_and_time_is_noticed_too() {
    is_noticed(true);
}

#[test]
fn when_a_source_has_changed_the_others_serve() {
    let (a, good, b) = (Home::new(), Home::new(), Home::new());
    let (file, other) = (a.join("file"), good.join("file"));
    random_file(&file, 6, 40 * MIB);
    fs::copy(&file, &other).unwrap();
    let (_a, a_lines) = share(&a, &[&file]);
    let (_good, good_lines) = share(&good, &[&other]);
    assert_eq!(a_lines[0]["cid"], good_lines[0]["cid"]);
    change(&file, false);
    let (from_a, from_good) = (address(&a_lines[0]), address(&good_lines[0]));
    let cid = text(&a_lines[0], "cid");
    b.start(&args!["get", cid, "-o", "copy", "--peer", &from_a, "--peer", &from_good]).wait().ok();
    assert_same(&other, &b.join("copy"));
}

#[test]
fn a_file_removed_from_a_shared_tree_fails_that_fetch_and_no_other() {
    let (a, b) = (Home::new(), Home::new());
    fs::create_dir(a.join("tree")).unwrap();
    random_file(&a.join("tree/stays"), 1, 2 * MIB);
    random_file(&a.join("tree/goes"), 2, 2 * MIB);
    let (_a, lines) = share(&a, &[&a.join("tree")]);
    fs::remove_file(a.join("tree/goes")).unwrap();
    let (peer, cid) = (address(&lines[0]), text(&lines[0], "cid"));
    b.start(&args!["get", format!("{cid}/stays"), "-o", "stays", "--peer", &peer]).wait().ok();
    assert_same(&a.join("tree/stays"), &b.join("stays"));
    b.start(&args!["get", format!("{cid}/goes"), "-o", "goes", "--peer", &peer, "--timeout", "4"])
        .wait()
        .code(1);
    assert!(!b.join("goes").exists());
    let status = a.status();
    assert!(names(&status["contents"][0]["changed"], &a.join("tree/goes")), "{status}");
}

#[test]
fn a_changed_file_that_is_shared_again_is_served_as_it_is_now() {
    let (a, b) = (Home::new(), Home::new());
    let file = a.join("file");
    random_file(&file, 8, 5 * MIB);
    let (first, old) = share(&a, &[&file]);
    first.interrupt().ok();
    change(&file, false);
    let (_second, new) = share(&a, &[&file]);
    assert_ne!(old[0]["cid"], new[0]["cid"]);
    let peer = address(&new[0]);
    b.start(&args!["get", text(&new[0], "cid"), "-o", "copy", "--peer", &peer]).wait().ok();
    assert_same(&file, &b.join("copy"));
}
