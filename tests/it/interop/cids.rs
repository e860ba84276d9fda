//! The names that `dunlin` gives are those that `ipfs add` and Helia give.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::helia::Helia;
use super::kubo::Kubo;
use super::{need_helia, need_kubo};
use crate::support::args;
use crate::support::home::Home;
use crate::support::tree::{Rng, awkward_tree, random_file};

/// Files of the sizes at which the shape of a DAG changes, an awkward tree, a folder that becomes a HAMT.
fn make(root: &Path) {
    fs::create_dir(root).unwrap();
    for len in [0, 1, 262_143, 262_144, 262_145, 1 << 20, 174 * 262_144, 174 * 262_144 + 1] {
        random_file(&root.join(format!("{len}")), len, len);
    }
    fs::create_dir(root.join("tree")).unwrap();
    awkward_tree(&root.join("tree"));
    fs::write(root.join(".hidden"), b"too").unwrap();
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for i in 0..6_000u64 {
        let name = format!("{i:05} of a folder that becomes a HAMT");
        fs::write(many.join(name), Rng(i).bytes((i % 40) as usize)).unwrap();
    }
}

#[test]
fn a_tree_has_the_cid_that_kubo_gives_it_in_each_profile() {
    let (program, home) = (need_kubo!(), Home::new());
    let (kubo, root) = (Kubo::new(&program, &[]), home.join("root"));
    make(&root);
    for (profile, theirs) in
        [("v1-256k", ["--cid-version=1", "-n"].as_slice()), ("unixfs-v0-2015", &["--cid-version=0", "-n"])]
    {
        let ours =
            home.ok(&args!["add", "-q", "--hidden", "--only-hash", "--profile", profile, &root]).stdout;
        assert_eq!(ours.trim_end(), kubo.add(&root, theirs), "{profile}");
    }
    kubo.ok(&args!["config", "profile", "apply", "unixfs-v1-2025"]);
    let ours =
        home.ok(&args!["add", "-q", "--hidden", "--only-hash", "--profile", "unixfs-v1-2025", &root]).stdout;
    assert_eq!(ours.trim_end(), kubo.add(&root, &["-n"]), "unixfs-v1-2025");
}

#[test]
fn mode_and_mtime_make_the_cid_that_kubo_gives() {
    let (program, home) = (need_kubo!(), Home::new());
    let (kubo, file) = (Kubo::new(&program, &[]), home.join("file"));
    random_file(&file, 7, 600_000);
    let options = ["--preserve-mode", "--preserve-mtime"];
    let ours = home.ok(&args!["add", "-q", "--only-hash", options[0], options[1], &file]).stdout;
    assert_eq!(ours.trim_end(), kubo.add(&file, &["--cid-version=1", "-n", options[0], options[1]]));
}

#[test]
fn a_file_has_the_cid_that_helia_gives_it() {
    let (folder, home) = (need_helia!(), Home::new());
    let (mut helia, file) = (Helia::start(&folder), home.join("file"));
    for len in [1, (1 << 20) + 1, 3_000_000] {
        random_file(&file, len, len);
        let profile = "unixfs-v1-2025";
        let ours = home.ok(&args!["add", "-q", "--only-hash", "--profile", profile, &file]).stdout;
        assert_eq!(ours.trim_end(), helia.add(&file, json!({})), "{len} bytes");
    }
}
