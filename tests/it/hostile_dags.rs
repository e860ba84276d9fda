//! Contents whose names want to be somewhere else: nothing is ever written outside the destination.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::args;
use crate::support::dag::{Dag, Folder};
use crate::support::home::{Done, Home};
use crate::support::peer::{Manners, Peer};

/// What stands around the destination: a folder and a file that must stay as they are.
struct Place {
    home: Home,
    before: BTreeMap<PathBuf, Vec<u8>>,
}

/// Every file beneath, but for the data directory and the destination.
fn around(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        if ["data", "out", "out.part"].iter().any(|n| name == *n) {
            continue;
        }
        match entry.file_type().unwrap() {
            t if t.is_dir() => around(&path, found),
            t if t.is_file() => drop(found.insert(path.clone(), fs::read(path).unwrap())),
            _ => drop(found.insert(path, b"something else".to_vec())),
        }
    }
}

impl Place {
    fn new() -> Place {
        let home = Home::new();
        fs::create_dir_all(home.join("victim")).unwrap();
        fs::write(home.join("victim/file"), b"precious").unwrap();
        let mut before = BTreeMap::new();
        around(home.path(), &mut before);
        Place { home, before }
    }

    /// Fetches `dag` to `out` from a peer that serves it faithfully.
    fn fetch(&self, what: &str, dag: Dag) -> Done {
        let cid = dag.root.to_string();
        let peer = Peer::serve(Arc::new(dag), Manners::honest());
        let done =
            self.home.start(&args!["get", &cid, "-o", "out", "--peer", &peer.addr, "--timeout", "10"]).wait();
        println!("{what}: {:?}, {}", done.code, done.stderr.escape_debug());
        let mut after = BTreeMap::new();
        around(self.home.path(), &mut after);
        assert_eq!(after, self.before, "{what}: written outside the destination");
        let unprintable = |c: char| c.is_control() && c != '\n';
        assert!(!done.stderr.contains(unprintable), "{what}: the terminal gets {:?}", done.stderr);
        done
    }
}

#[test]
fn names_that_lead_out_of_the_destination_are_refused() {
    let place = Place::new();
    let absolute = place.home.join("absolute").to_str().unwrap().to_owned();
    let long = "n".repeat(300);
    for name in ["..", "../out-of-it", "../victim/file", &absolute, ".", "", "a/b", "nul\0byte", &long] {
        for nested in [false, true] {
            let folder = Folder::default().file("a good one", b"good").file(name, b"bad");
            let folder = if nested { Folder::default().folder("deeper", folder) } else { folder };
            let done = place.fetch(&name.escape_debug().to_string(), folder.finish());
            let error = done.code(1);
            assert!(error.error().len() > "dunlin: ".len(), "no reason given");
            assert!(!place.home.join("out").exists(), "{name:?}: taken as complete");
        }
        let dag = Folder::default().folder(name, Folder::default().file("inside", b"bad")).finish();
        place.fetch(&format!("folder {}", name.escape_debug()), dag).code(1);
        let dag = Folder::default().symlink(name, "victim/file").finish();
        place.fetch(&format!("symlink {}", name.escape_debug()), dag).code(1);
    }
}

#[test]
fn nothing_is_written_through_a_symlink_of_the_content() {
    let place = Place::new();
    let victim = place.home.join("victim").to_str().unwrap().to_owned();
    let to_file = format!("{victim}/file");
    for target in [&*victim, "../victim", ".."] {
        let inside = Folder::default().file("file", b"overwritten").file("new", b"new");
        let twice = Folder::default().symlink("x", target).folder("x", inside).finish();
        place.fetch("a symlink, then a folder of its name", twice).code(1);
        let inside = Folder::default().file("file", b"overwritten").file("new", b"new");
        let twice = Folder::default().folder("x", inside).symlink("x", target).finish();
        place.fetch("a folder, then a symlink of its name", twice).code(1);
        let through = Folder::default().symlink("x", target).file("x/file", b"overwritten").finish();
        place.fetch("a symlink, then a file beneath it", through).code(1);
    }
    for target in [&*to_file, "../victim/file"] {
        let twice = Folder::default().symlink("x", target).file("x", b"overwritten").finish();
        place.fetch("a symlink, then a file of its name", twice).code(1);
        let twice = Folder::default().file("x", b"overwritten").symlink("x", target).finish();
        place.fetch("a file, then a symlink of its name", twice).code(1);
    }
}

#[test]
fn nothing_is_written_through_a_symlink_that_waits_at_the_destination() {
    let place = Place::new();
    let folder = || Folder::default().folder("x", Folder::default().file("file", b"overwritten")).finish();
    // The destination itself, its `.part`, and a folder in that.
    for (link, target) in [("out", "victim"), ("out.part", "victim"), ("out.part/x", "../victim")] {
        let path = place.home.join(link);
        if let Some(parent) = path.parent().filter(|p| !p.exists()) {
            fs::create_dir(parent).unwrap();
        }
        std::os::unix::fs::symlink(target, &path).unwrap();
        let done = place.fetch(&format!("a symlink at {link}"), folder());
        if done.code != Some(0) {
            done.error();
        }
        assert_eq!(fs::read(place.home.join("victim/file")).unwrap(), b"precious");
        for left in ["out", "out.part"] {
            let left = place.home.join(left);
            let _ = fs::remove_file(&left).or_else(|_| fs::remove_dir_all(&left));
        }
        place.home.run(&args!["rm", folder().root.to_string()]);
    }
}

#[test]
fn odd_names_arrive_and_the_terminal_gets_them_escaped() {
    let place = Place::new();
    let names =
        ["\x1b[31mred\x1b]0;title\x07", "\u{202e}gpj.exe", "CON", "-rf", "new\nline", "Same", "same", "SAME"];
    let mut folder = Folder::default();
    for (i, name) in names.iter().enumerate() {
        folder = folder.file(name, format!("file {i}").as_bytes());
    }
    place.fetch("odd names", folder.finish()).ok();
    for (i, name) in names.iter().enumerate() {
        assert_eq!(fs::read(place.home.join("out").join(name)).unwrap(), format!("file {i}").as_bytes());
    }
    assert_eq!(fs::read_dir(place.home.join("out")).unwrap().count(), names.len());
    let listed = place.home.ok(&args!["list"]);
    assert!(!listed.stdout.contains('\x1b'), "{:?}", listed.stdout);
}

#[test]
fn a_symlink_in_a_content_is_kept_as_it_is_and_followed_by_nobody() {
    let place = Place::new();
    let folder =
        Folder::default().symlink("up", "../victim/file").symlink("self", "self").file("plain", b"text");
    place.fetch("symlinks", folder.finish()).ok();
    assert_eq!(fs::read_link(place.home.join("out/up")).unwrap(), Path::new("../victim/file"));
    assert_eq!(fs::read_link(place.home.join("out/self")).unwrap(), Path::new("self"));
}
