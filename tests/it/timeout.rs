//! `--timeout`: it covers the look-up of a path as well as the fetch, and what is said names what was tried.

use std::sync::Arc;

use crate::support::args;
use crate::support::dag::Dag;
use crate::support::home::Home;
use crate::support::peer::{Manners, Peer};
use crate::support::tree::Rng;

/// A folder that nobody has.
const NOBODYS: &str = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi";

#[test]
fn a_path_that_nobody_can_look_up_is_given_up_in_time() {
    let home = Home::new();
    let path = format!("/ipfs/{NOBODYS}/some/file");
    for command in [
        args!["get", &path, "--timeout", "1"],
        args!["get", NOBODYS, "--timeout", "1"],
        args!["ls", &path, "--timeout", "1"],
        args!["ls", NOBODYS, "--timeout", "1"],
        args!["cat", &path, "--timeout", "1"],
    ] {
        let done = home.start(&command).wait().code(1);
        let said = done.error();
        assert!(said.contains("no progress for ") && said.contains("look-up"), "{command:?}: {said}");
    }
}

#[test]
fn a_daemon_gives_up_a_look_up_in_time_too() {
    let home = Home::new();
    let (daemon, _) = home.daemon(&[]);
    let path = format!("/ipfs/{NOBODYS}/some/file");
    for command in ["get", "cat", "ls"] {
        let done = home.run(&args![command, &path, "--timeout", "1"]).code(1);
        assert!(done.error().contains("no progress for "), "{command}: {}", done.error());
    }
    daemon.interrupt().ok();
}

#[test]
fn a_file_whose_chunks_do_not_come_is_given_up_while_it_is_read() {
    let dag = Arc::new(Dag::file(&Rng(3).bytes(600_000)));
    let peer = Peer::serve(dag.clone(), Manners::on_chunk(|_, _| Vec::new()));
    let home = Home::new();
    let cat = args!["cat", dag.root.to_string(), "--timeout", "1", "--peer", &peer.addr];
    let done = home.start(&cat).wait().code(1);
    assert!(done.error().contains("1 peer has what is missing"), "{}", done.error());
}
