//! What the DHT is told of contents that came in an unusual way, or share a name.

use crate::interop::wait_for;
use crate::support::args;
use crate::support::home::{Home, address, number, text};
use crate::support::tree::random_file;
use crate::transfer::share;

/// Waits until a look-up from `at` names the peer as a provider.
fn is_found(at: &Home, cid: &str, peer: &str) {
    wait_for("provider in a look-up", || at.ok(&args!["find", "--json", cid]).stdout.contains(peer));
}

#[test]
fn a_content_of_which_nothing_came_over_the_network_is_provided_as_well() {
    let (boot, a, b) = (Home::new(), Home::new(), Home::new());
    let (_boot, line) = boot.daemon(&[]);
    let (tree, empty) = (a.join("tree"), a.join("empty"));
    std::fs::create_dir(&tree).unwrap();
    random_file(&tree.join("file"), 80, 600_000);
    std::fs::write(&empty, b"").unwrap();
    let (_a, lines) = share(&a, &[&tree, &tree.join("file"), &empty]);
    let (_b, running) = b.daemon(&args!["--bootstrap", address(&line)]);
    for (n, shared) in lines.iter().enumerate() {
        let cid = text(shared, "cid");
        b.ok(&args!["get", cid, "-q", "-o", b.join(&n.to_string()), "--peer", address(shared)]);
        is_found(&boot, cid, text(&running, "peer_id"));
    }
    assert_eq!(number(&b.status(), "downloaded") / 100_000, 6, "the file's bytes came once");
}

#[test]
fn a_block_of_two_contents_is_provided_until_both_are_gone() {
    let a = Home::new();
    let (_a, _) = a.daemon(&[]);
    // Three chunks each, of which the first two are the same.
    let cids = [("one", 1), ("other", 2)].map(|(name, last)| {
        let file = a.join(name);
        random_file(&file, 81, 600_000);
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() = last;
        std::fs::write(&file, bytes).unwrap();
        a.ok(&args!["add", "-q", "--provide", "all", &file]).stdout.trim().to_owned()
    });
    let keys = |n: u64| wait_for("such number of keys", || number(&a.status()["dht"]["lan"], "keys") == n);
    keys(6);
    a.ok(&args!["rm", &cids[0]]);
    keys(4);
    a.ok(&args!["rm", &cids[1]]);
    keys(0);
}
