//! Every case of `tests/vectors/unixfs.json` (made with kubo) under all three profiles. The inputs
//! are made here, from the rules that the file's cases follow:
//!
//! File bytes are the concatenation of SHA-256("<seed>:<counter>") for counter 0, 1, 2, ..., cut to
//! `size`. A tree is a list of entries with a `path` and one of `file` {seed, size}, `dir`, `link`
//! target; `repeat` {from, to} stands for many, `{i}` replaced by each number.

use std::collections::BTreeMap;

use dunlin::content::builder::{Built, DirBuilder, FileBuilder, leaf, small_file, symlink};
use dunlin::content::profile::Profile;
use dunlin::content::{Meta, block};
use serde_json::Value;
use sha2::{Digest, Sha256};

const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/unixfs.json"));

enum Node {
    File { seed: String, size: u64 },
    Link(String),
    Dir(BTreeMap<String, Node>),
}

fn file_of(v: &Value) -> Node {
    let (seed, size) = (&v["seed"], &v["size"]);
    Node::File { seed: seed.as_str().unwrap().to_owned(), size: size.as_u64().unwrap() }
}

fn expand(entry: &Value) -> Vec<Value> {
    let Some(repeat) = entry.get("repeat") else { return vec![entry.clone()] };
    let text = serde_json::to_string(entry).unwrap();
    (repeat["from"].as_u64().unwrap()..repeat["to"].as_u64().unwrap())
        .map(|i| serde_json::from_str(&text.replace("{i}", &i.to_string())).unwrap())
        .collect()
}

fn tree_of(entries: &[Value], hidden: bool) -> Node {
    let mut root = BTreeMap::new();
    for entry in entries.iter().flat_map(expand) {
        let path: Vec<&str> = entry["path"].as_str().unwrap().split('/').collect();
        if !hidden && path.iter().any(|name| name.starts_with('.')) {
            continue;
        }
        let (name, folders) = path.split_last().unwrap();
        let mut dir = &mut root;
        for folder in folders {
            let Node::Dir(next) = dir.entry(folder.to_string()).or_insert_with(|| Node::Dir(BTreeMap::new()))
            else {
                panic!("{folder} is a file and a folder")
            };
            dir = next;
        }
        let node = match (entry.get("file"), entry.get("link")) {
            (Some(file), _) => file_of(file),
            (_, Some(target)) => Node::Link(target.as_str().unwrap().to_owned()),
            _ => Node::Dir(BTreeMap::new()),
        };
        dir.insert(name.to_string(), node);
    }
    Node::Dir(root)
}

/// The file's bytes, chunk by chunk.
fn chunks(seed: &str, size: u64, chunk_len: usize) -> impl Iterator<Item = Vec<u8>> {
    let (mut counter, mut left) = (0u64, size);
    std::iter::from_fn(move || {
        let len = left.min(chunk_len as u64) as usize;
        left -= len as u64;
        let mut chunk = Vec::with_capacity(len + 32);
        while chunk.len() < len {
            chunk.extend(Sha256::digest(format!("{seed}:{counter}")));
            counter += 1;
        }
        chunk.truncate(len);
        (len > 0).then_some(chunk)
    })
}

fn build(profile: &Profile, node: &Node) -> Built {
    let sink = &mut |cid, node: bytes::Bytes| block::verify_block(&cid, &node).unwrap();
    match node {
        Node::Link(target) => symlink(profile, target.as_bytes(), sink),
        Node::Dir(entries) => {
            let mut dir = DirBuilder::new(profile, Meta::NONE);
            for (name, child) in entries {
                dir.entry(name, &build(profile, child));
            }
            dir.finish(sink)
        }
        Node::File { seed, size } => {
            let mut chunks = chunks(seed, *size, profile.chunk_len as usize);
            if *size <= u64::from(profile.chunk_len) {
                return small_file(profile, Meta::NONE, &chunks.next().unwrap_or_default(), sink);
            }
            let mut file = FileBuilder::new(profile, Meta::NONE);
            chunks.for_each(|chunk| file.push(leaf(profile, &chunk), sink));
            file.finish(sink)
        }
    }
}

#[test]
fn every_case_has_the_cid_that_kubo_gives_it_under_every_profile() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    let mut wrong = Vec::new();
    let mut checked = 0;
    for case in cases {
        for (field, hidden) in [("cid", false), ("cid_hidden", true)] {
            let Some(expected) = case.get(field) else { continue };
            let node = match case.get("tree") {
                Some(entries) => tree_of(entries.as_array().unwrap(), hidden),
                None => file_of(&case["file"]),
            };
            for profile in Profile::ALL {
                checked += 1;
                let (cid, kubo) = (build(profile, &node).cid.to_string(), &expected[profile.name]);
                if *kubo != *cid {
                    wrong.push(format!("{} {} {field}: {cid}, kubo: {kubo}", case["name"], profile.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(checked, (cases.len() + 1) * 3, "cases or profiles went missing");
}
