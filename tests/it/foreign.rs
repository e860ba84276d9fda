//! DAGs that other programs make, and no dunlin.

use std::fs;
use std::sync::Arc;

use crate::support::args;
use crate::support::dag::Folder;
use crate::support::home::{Home, number};
use crate::support::peer::{Manners, Peer};
use crate::support::tree::Rng;

/// What links claim of what they lead to.
const CLAIMS: [Option<u64>; 7] = [Some(300), Some(0), Some(1), Some(299), Some(2 << 20), Some(1 << 63), None];

#[test]
fn what_a_folders_links_claim_of_the_sizes_of_their_files_is_a_hint() {
    let data = |i: usize| Rng(i as u64 + 1).bytes(300);
    let mut inner = Folder::default();
    for (i, claim) in CLAIMS.iter().enumerate() {
        inner = inner.claimed(&format!("file {i}"), &data(i), *claim);
    }
    // The same file again, with another claim.
    let inner = inner.claimed("same", &data(0), Some(77)).claimed("empty", b"", Some(5));
    let mut folder = Folder::default().folder_claimed("inner", inner, Some(3));
    folder = folder.claimed("beside", &data(20), Some(1_000_000));
    let dag = Arc::new(folder.finish());
    let peer = Peer::serve(dag.clone(), Manners::honest());
    let (home, cid) = (Home::new(), dag.root.to_string());
    let get = args!["get", &cid, "--json", "-o", "out", "--peer", &peer.addr, "--timeout", "20"];
    let line = home.start(&get).wait().ok().json().remove(0);
    let files = CLAIMS.len() as u64 + 2;
    assert_eq!(number(&line, "size"), 300 * files, "{line}");
    for i in 0..CLAIMS.len() {
        assert_eq!(fs::read(home.join(&format!("out/inner/file {i}"))).unwrap(), data(i), "file {i}");
    }
    assert_eq!(fs::read(home.join("out/inner/same")).unwrap(), data(0));
    assert_eq!(fs::read(home.join("out/inner/empty")).unwrap(), b"");
    assert_eq!(fs::read(home.join("out/beside")).unwrap(), data(20));
    let list = home.ok(&args!["list", "--json"]).json().remove(0);
    assert_eq!((number(&list, "size"), number(&list, "held_bytes")), (300 * files, 300 * files), "{list}");

    let other = Home::new();
    let path = format!("{cid}/inner/file 2");
    let read = other.start(&args!["cat", &path, "--peer", &peer.addr]).wait().ok();
    assert_eq!(read.stdout, String::from_utf8_lossy(&data(2)));
}
