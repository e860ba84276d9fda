//! DAGs that other programs make, and no dunlin.

use std::fs;
use std::sync::Arc;

use dunlin::content::block::cid_of;
use dunlin::content::dagpb::{NewLink, encode};
use dunlin::content::{DAG_PB, RAW};

use crate::support::args;
use crate::support::dag::{Dag, Folder, varint};
use crate::support::home::{Home, address, number};
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

/// A file of so many links to one chunk, in a single node.
fn many_links(links: usize) -> (Dag, Vec<u8>) {
    const CHUNK: &[u8] = b"of a chunk";
    let cid = cid_of(false, RAW, CHUNK);
    let links: Vec<NewLink> = (0..links).map(|_| NewLink { cid, name: String::new(), tsize: 10 }).collect();
    // UnixFS: a file (1: 2), its length (3), and that of each child (4).
    let mut message = vec![8, 2, 3 << 3];
    varint(&mut message, (CHUNK.len() * links.len()) as u64);
    links.iter().for_each(|_| message.extend([4 << 3, CHUNK.len() as u8]));
    let node = encode(&links, &message);
    let root = cid_of(false, DAG_PB, &node);
    let data = CHUNK.repeat(links.len());
    (Dag { root, nodes: vec![(root, node.into())], chunks: vec![CHUNK.into()] }, data)
}

#[test]
fn an_inner_node_as_long_as_a_block_may_be_is_fetched_and_served() {
    let (dag, data) = many_links(43_000);
    let len = dag.nodes[0].1.len();
    assert!((1_900_000..2 << 20).contains(&len), "{len}");
    let cid = dag.root.to_string();
    let peer = Peer::serve(Arc::new(dag), Manners::honest());
    let (a, b, c) = (Home::new(), Home::new(), Home::new());
    let (daemon, line) = a.daemon(&[]);
    a.ok(&args!["get", &cid, "-o", a.join("copy"), "--peer", &peer.addr]);
    assert!(fs::read(a.join("copy")).unwrap() == data);
    // From dunlin, and by Bitswap.
    b.start(&args!["get", &cid, "-o", "copy", "--peer", address(&line)]).wait().ok();
    assert!(fs::read(b.join("copy")).unwrap() == data);
    c.start(&args!["get", &cid, "--no-exchange", "-o", "copy", "--peer", address(&line)]).wait().ok();
    assert!(fs::read(c.join("copy")).unwrap() == data);
    daemon.interrupt().ok();
}

#[test]
fn a_chunk_longer_than_a_block_may_be_is_refused_by_its_name() {
    let long = vec![0; (2 << 20) + 1];
    let leaf = cid_of(false, RAW, &long);
    let mut message = vec![8, 2, 3 << 3];
    varint(&mut message, long.len() as u64);
    message.push(4 << 3);
    varint(&mut message, long.len() as u64);
    let node = encode(&[NewLink { cid: leaf, name: String::new(), tsize: long.len() as u64 }], &message);
    let root = cid_of(false, DAG_PB, &node);
    let dag = Dag { root, nodes: vec![(root, node.into())], chunks: vec![] };
    let peer = Peer::serve(Arc::new(dag), Manners::honest());
    let done = Home::new().start(&args!["get", root.to_string(), "--peer", &peer.addr]).wait().code(1);
    assert!(done.error().contains(&leaf.to_string()) && done.error().contains("2 MiB"), "{}", done.error());
}
