//! Walks over DAGs of every shape, whole, piecemeal and hostile.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::block::cid_of;
use super::super::builder::{Built, DirBuilder, FileBuilder, Leaf, leaf, small_file, symlink};
use super::super::dagpb::PbFault;
use super::super::hamt::HamtFault;
use super::super::names::NameFault;
use super::super::profile::{HamtRule, Profile};
use super::super::testing::{Dag, chunks, file_message, identity, node_bytes, some_raw};
use super::super::unixfs::UnixFsFault;
use super::*;

const K256: u64 = 262_144;
const MIB: u64 = 1 << 20;

fn fake_leaf(n: u64, len: u64) -> Leaf {
    Leaf { cid: some_raw(n), data_len: len as u32, block_len: len as u32 }
}

/// A file of `count` full chunks of which nobody has the bytes.
fn big_file(dag: &mut Dag, profile: &Profile, count: u64) -> Built {
    let mut sink = dag.sink();
    let mut builder = FileBuilder::new(profile, Meta::NONE);
    (0..count).for_each(|n| builder.push(fake_leaf(n, profile.chunk_len.into()), &mut sink));
    builder.finish(&mut sink)
}

fn file_item(path: &str, size: u64) -> Item {
    let path = RelPath::parse(path).unwrap();
    Item::File { file: FileIndex(0), path, size: Some(size), sure: true, meta: Meta::NONE }
}

#[test]
fn a_raw_root_is_one_file_with_one_chunk_of_unknown_length() {
    let root = some_raw(1);
    let items = Dag::default().walk(root).unwrap();
    let (file, path) = (FileIndex(0), RelPath::root());
    let file = Item::File { file, path, size: None, sure: false, meta: Meta::NONE };
    assert_eq!(items[0], file);
    assert_eq!(chunks(&items), [(0, true, None, 0, 0)]);
}

#[test]
fn a_small_dag_pb_file_is_inline() {
    let mut dag = Dag::default();
    let root = small_file(&Profile::V0_2015, Meta::NONE, b"hello", &mut dag.sink()).cid;
    let data = Bytes::from_static(b"hello");
    let inline = Item::Inline { file: FileIndex(0), offset: 0, data };
    assert_eq!(dag.walk(root).unwrap(), [file_item("", 5), inline]);
    let empty = small_file(&Profile::V0_2015, Meta::NONE, b"", &mut dag.sink()).cid;
    assert_eq!(dag.walk(empty).unwrap(), [file_item("", 0)]);
}

#[test]
fn a_cid_that_occurs_again_keeps_its_number() {
    let mut dag = Dag::default();
    let (a, b) = (some_raw(1), some_raw(2));
    let file = dag.file(b"", &[(a, K256), (b, K256), (a, K256), (b, K256)]);
    let root = dag.dir(&[("x", file), ("y", file)]);
    let want: Vec<_> =
        (0..8u64).map(|i| (i as u32 % 2, i < 2, Some(K256), i as u32 / 4, i % 4 * K256)).collect();
    assert_eq!(chunks(&dag.walk(root).unwrap()), want);
}

#[test]
fn a_tail_of_three_levels_counts_as_one_chunk() {
    let mut dag = Dag::default();
    let mut sink = dag.sink();
    let mut builder = FileBuilder::new(&Profile::V1_256K, Meta::NONE);
    (0..174).for_each(|n| builder.push(fake_leaf(n, K256), &mut sink));
    builder.push(fake_leaf(174, 1), &mut sink);
    let root = builder.finish(&mut sink);
    drop(sink);
    let items = dag.walk(root.cid).unwrap();
    let found = chunks(&items);
    assert_eq!(found.len(), 175);
    assert_eq!(found[174], (174, true, Some(1), 0, 174 * K256));
    let Item::Chunk { spec, .. } = items[175] else { panic!("{:?}", items[175]) };
    assert_eq!(spec.cid.codec(), DAG_PB);
}

#[test]
fn leaves_and_subtrees_may_be_mixed_as_trickle_does() {
    let mut dag = Dag::default();
    let big = dag.file(b"", &[(some_raw(1), 2 * MIB), (some_raw(2), 1)]);
    let small = dag.file(b"", &[(some_raw(3), MIB), (some_raw(4), MIB)]);
    let root = dag.file(b"ab", &[(some_raw(0), 7), (big, 2 * MIB + 1), (small, 2 * MIB), (some_raw(5), 3)]);
    let items = dag.walk(root).unwrap();
    assert_eq!(items[1], Item::Inline { file: FileIndex(0), offset: 0, data: Bytes::from_static(b"ab") });
    let at = 9 + 2 * MIB;
    let want = [
        (0, true, Some(7), 0, 2),
        (1, true, Some(2 * MIB), 0, 9),
        (2, true, Some(1), 0, at),
        (3, true, Some(2 * MIB), 0, at + 1),
        (4, true, Some(3), 0, at + 1 + 2 * MIB),
    ];
    assert_eq!(chunks(&items), want);
}

#[test]
fn identity_cids_are_read_out_of_the_links() {
    let mut dag = Dag::default();
    let inner = identity(DAG_PB, &node_bytes(&[], &file_message(b"inner", &[])));
    let linking = {
        let bytes = node_bytes(&[("", identity(RAW, b"in"), 2)], &file_message(b"", &[(inner, 2)]));
        identity(DAG_PB, &bytes)
    };
    let root = dag.file(b"", &[(identity(RAW, b"leaf"), 4), (inner, 5), (linking, 2), (some_raw(1), 3)]);
    let items = dag.walk(root).unwrap();
    let inline = |offset, data: &'static [u8]| Item::Inline {
        file: FileIndex(0),
        offset,
        data: Bytes::from_static(data),
    };
    assert_eq!(items[1..4], [inline(0, b"leaf"), inline(4, b"inner"), inline(9, b"in")]);
    assert_eq!(chunks(&items), [(0, true, Some(3), 0, 11)]);
    // As a root, too.
    assert_eq!(dag.walk(identity(RAW, b"root")).unwrap(), [file_item("", 4), inline(0, b"root")]);
    assert_eq!(dag.walk(inner).unwrap(), [file_item("", 5), inline(0, b"inner")]);
}

#[test]
fn a_raw_entry_is_of_unknown_length_unless_it_is_empty() {
    let mut dag = Dag::default();
    let empty = cid_of(false, RAW, b"");
    let root = dag.node(&[("a", some_raw(1), 0), ("b", empty, 0), ("c", some_raw(2), 5)], b"\x08\x01");
    let sizes: Vec<_> = chunks(&dag.walk(root).unwrap()).iter().map(|c| c.2).collect();
    assert_eq!(sizes, [None, Some(0), None]);
}

#[test]
fn folders_symlinks_and_metadata_come_in_encoded_order() {
    let mut dag = Dag::default();
    let meta = Meta { mode: Some(0o700), mtime: Some((7, 8)) };
    let mut sink = dag.sink();
    let p = &Profile::V1_256K.preserving();
    let file = small_file(p, meta, b"x", &mut sink);
    let link = symlink(p, b"../../etc/passwd", &mut sink);
    let mut sub = DirBuilder::new(p, meta);
    sub.entry("file", &file);
    let mut root = DirBuilder::new(p, Meta::NONE);
    root.entry("sub", &sub.finish(&mut sink));
    root.entry("link", &link);
    let root = root.finish(&mut sink).cid;
    drop(sink);
    let path = |p| RelPath::parse(p).unwrap();
    let want = [
        Item::Dir { path: path(""), meta: Meta::NONE },
        Item::Symlink { path: path("link"), target: "../../etc/passwd".into() },
        Item::Dir { path: path("sub"), meta },
        Item::File { file: FileIndex(0), path: path("sub/file"), size: Some(1), sure: true, meta },
        Item::Inline { file: FileIndex(0), offset: 0, data: Bytes::from_static(b"x") },
    ];
    assert_eq!(dag.walk(root).unwrap(), want);
}

#[test]
fn a_hamt_folder_is_walked_whole() {
    let mut dag = Dag::default();
    let mut sink = dag.sink();
    let mut dir = DirBuilder::new(&Profile::V1_256K, Meta::NONE);
    let names: BTreeSet<String> = (0..6_000).map(|i| format!("a-rather-long-file-name-{i}.data")).collect();
    for (i, name) in names.iter().enumerate() {
        dir.entry(name, &Built { cid: some_raw(i as u64), tsize: 8, size: 8 });
    }
    let root = dir.finish(&mut sink).cid;
    drop(sink);
    assert!(dag.0.len() > 256);
    let items = dag.walk(root).unwrap();
    let found: BTreeSet<String> = items
        .iter()
        .filter_map(|item| match item {
            Item::File { path, .. } => Some(path.as_str().to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(found, names);
    assert_eq!(items.iter().filter(|item| matches!(item, Item::Dir { .. })).count(), 1);
}

#[test]
fn ten_gigabytes_are_walked_in_less_than_a_mebibyte() {
    for profile in Profile::ALL {
        let mut dag = Dag::default();
        let count = 10_000_000_000u64.div_ceil(profile.chunk_len.into());
        let root = big_file(&mut dag, profile, count);
        let (mut walker, mut out, mut most) = (Walker::new(root.cid), Vec::new(), 0);
        loop {
            out.clear();
            let step = walker.advance(&mut dag.get(), 64, &mut out).unwrap();
            most = most.max(walker.memory_bytes());
            if step == Step::Done {
                break;
            }
        }
        assert_eq!((u64::from(walker.chunks()), walker.size()), (count, root.size));
        assert!(most < 1 << 20, "{}: {most} bytes", profile.name);
    }
}

#[test]
fn what_siblings_name_is_asked_for_at_once_in_the_order_of_need() {
    let mut dag = Dag::default();
    let root = big_file(&mut dag, &Profile::V1_256K, 174 * 100).cid;
    let (mut walker, mut out) = (Walker::new(root), Vec::new());
    let mut held = Dag::default();
    assert_eq!(walker.advance(&mut held.get(), 9, &mut out), Ok(Step::Missing(vec![root])));
    held.0.insert(root, dag.0[&root].clone());
    let Ok(Step::Missing(named)) = walker.advance(&mut held.get(), 9, &mut out) else { panic!() };
    let pb = super::super::dagpb::PbNode::decode(&dag.0[&root]).unwrap();
    assert_eq!(named, pb.links().take(64).map(|l| l.cid).collect::<Vec<_>>());
    // One in the middle is here: its place is skipped, and the window moves on.
    held.0.insert(named[1], dag.0[&named[1]].clone());
    let Ok(Step::Missing(next)) = walker.advance(&mut held.get(), 9, &mut out) else { panic!() };
    assert_eq!((next.len(), next[0], next[1]), (64, named[0], named[2]));
}

// Hostile DAGs: every row names the block.

#[test]
fn malformed_nodes_are_named() {
    let mut dag = Dag::default();
    let mut put = |bytes: &[u8]| {
        let cid = cid_of(false, DAG_PB, bytes);
        dag.0.insert(cid, bytes.to_vec().into());
        cid
    };
    let garbage = put(b"\xff\xff\xff");
    let no_data = put(b"");
    let no_unixfs = put(b"\x0a\x02\x18\x01");
    assert_eq!(dag.fault(garbage), (garbage, PbFault::Varint.into()));
    assert_eq!(dag.fault(no_data), (no_data, UnixFsFault::NoData.into()));
    assert_eq!(dag.fault(no_unixfs), (no_unixfs, UnixFsFault::NoType.into()));
    let inside = dag.dir(&[("a", some_raw(1)), ("b", garbage)]);
    assert_eq!(dag.fault(inside).0, garbage);
    let cbor = Cid::new_v1(0x71, *garbage.hash());
    assert_eq!(dag.fault(cbor), (cbor, Why::Codec(0x71)));
    let cbor_inside = dag.dir(&[("a", cbor)]);
    assert_eq!(dag.fault(cbor_inside), (cbor, Why::Codec(0x71)));
    let metadata = dag.node(&[], b"\x08\x03");
    assert_eq!(dag.fault(metadata), (metadata, Why::Kind(3)));
}

#[test]
fn ten_thousand_levels_are_too_deep() {
    let mut dag = Dag::default();
    let mut root = some_raw(0);
    for _ in 0..10_000 {
        root = dag.dir(&[("a", root)]);
    }
    assert_eq!(dag.fault(root).1, Why::TooDeep(MAX_DEPTH));
    let mut file = some_raw(0);
    for level in 0..10_000 {
        file = dag.file(b"", &[(file, if level == 0 { 1 } else { 3 * MIB })]);
    }
    assert!(matches!(dag.fault(file).1, Why::TooDeep(_) | Why::Size { .. }));
}

#[test]
fn a_hundred_folders_inside_each_other_are_fine() {
    let mut dag = Dag::default();
    let mut root = some_raw(0);
    for _ in 0..100 {
        root = dag.dir(&[("a", root)]);
    }
    assert_eq!(dag.walk(root).unwrap().len(), 102);
}

#[test]
fn a_node_that_contains_itself_is_found_out() {
    // No hash function allows it, but whoever hands out nodes might not have checked.
    let mut dag = Dag::default();
    let (a, b) = (cid_of(false, DAG_PB, b"a"), cid_of(false, DAG_PB, b"b"));
    dag.0.insert(a, node_bytes(&[("x", b, 1)], b"\x08\x01").into());
    dag.0.insert(b, node_bytes(&[("y", a, 1)], b"\x08\x01").into());
    assert_eq!(dag.fault(a), (a, Why::Cycle));
}

#[test]
fn lying_sizes_are_named() {
    let mut dag = Dag::default();
    let leaf = some_raw(1);
    let mut lie = |links: &[(&str, Cid, u64)], message: &[u8]| dag.node(links, message);
    let filesize = lie(&[("", leaf, 5)], b"\x08\x02\x18\x06\x20\x05");
    let too_few = lie(&[("", leaf, 5), ("", leaf, 5)], b"\x08\x02\x18\x05\x20\x05");
    let too_many = lie(&[("", leaf, 5)], b"\x08\x02\x18\x05\x20\x05\x20\x05");
    assert_eq!(dag.fault(filesize), (filesize, Why::Size { claimed: 6, actual: 5 }));
    assert_eq!(dag.fault(too_few), (too_few, Why::SizeCount { sizes: 1, links: 2 }));
    assert_eq!(dag.fault(too_many), (too_many, UnixFsFault::BlockSizes.into()));
    // What a parent claims of an inner node, and of blocks that cannot be so long.
    let inner = dag.file(b"", &[(leaf, 2 * MIB), (some_raw(2), 2 * MIB)]);
    let parent = dag.file(b"", &[(inner, 3 * MIB)]);
    assert_eq!(dag.fault(parent), (inner, Why::Size { claimed: 3 * MIB, actual: 4 * MIB }));
    let long = dag.file(b"", &[(leaf, 2 * MIB + 1)]);
    assert_eq!(dag.fault(long), (leaf, Why::BlockTooLong));
    for size in [1 << 50, 1 << 63, u64::MAX] {
        let huge = dag.file(b"", &[(inner, size), (inner, size)]);
        assert_eq!(dag.fault(huge), (huge, Why::FileTooLong));
    }
    let two = dag.file(b"", &[(leaf, 5), (leaf, 6)]);
    assert_eq!(dag.fault(two), (leaf, Why::TwoLengths));
    let short = identity(RAW, b"abc");
    let id = dag.file(b"", &[(short, 4)]);
    assert_eq!(dag.fault(id), (short, Why::Size { claimed: 4, actual: 3 }));
}

#[test]
fn what_a_folder_claims_of_a_raw_entrys_size_is_a_hint_and_what_a_file_claims_is_not() {
    let mut dag = Dag::default();
    let leaf = some_raw(1);
    let file = dag.file(b"", &[(leaf, 5)]);
    for (claim, size) in [(3, Some(3)), (0, None), (2 * MIB, Some(2 * MIB)), (1 << 40, None)] {
        let folder = dag.node(&[("a", leaf, claim), ("b", leaf, 7), ("c", file, 1)], b"\x08\x01");
        let items = dag.walk(folder).unwrap();
        let files = items.iter().filter_map(|item| match item {
            Item::File { size, sure, .. } => Some((*size, *sure)),
            _ => None,
        });
        assert_eq!(files.collect::<Vec<_>>(), [(size, false), (Some(7), false), (Some(5), true)]);
        let want = [(0, true, None, 0, 0), (0, false, None, 1, 0), (0, false, Some(5), 2, 0)];
        assert_eq!(chunks(&items), want, "{claim}");
    }
    let other = dag.file(b"", &[(leaf, 6)]);
    let folder = dag.node(&[("a", file, 1), ("b", leaf, 7), ("c", other, 1)], b"\x08\x01");
    assert_eq!(dag.fault(folder), (leaf, Why::TwoLengths));
}

#[test]
fn bad_names_are_refused_with_the_folder_named() {
    let mut dag = Dag::default();
    let long = "n".repeat(300);
    let bad = [
        ("..", NameFault::Dots),
        (".", NameFault::Dots),
        ("", NameFault::Empty),
        ("/abs", NameFault::Slash),
        ("a/../../b", NameFault::Slash),
        ("a\0b", NameFault::Nul),
        (&long, NameFault::TooLong),
    ];
    for (name, why) in bad {
        let dir = dag.dir(&[(name, some_raw(1))]);
        let root = dag.dir(&[("sub", dir)]);
        assert_eq!(dag.fault(root), (dir, why.into()), "{name:?}");
    }
    let mut bytes = node_bytes(&[("ab", some_raw(1), 1)], b"\x08\x01");
    let at = bytes.windows(2).position(|w| w == b"ab").unwrap();
    bytes[at] = 0xff;
    let dir = cid_of(false, DAG_PB, &bytes);
    dag.0.insert(dir, bytes.into());
    assert_eq!(dag.fault(dir), (dir, NameFault::NotUtf8.into()));
    for names in [["x", "x", "y"], ["x", "y", "x"]] {
        let dir = dag.dir(&names.map(|name| (name, some_raw(1))));
        assert_eq!(dag.fault(dir), (dir, Why::SameNameTwice));
    }
    let odd =
        dag.dir(&[("B", some_raw(1)), ("CON", some_raw(2)), ("\x1b[2J", some_raw(3)), ("b", some_raw(4))]);
    assert_eq!(chunks(&dag.walk(odd).unwrap()).len(), 4);
}

#[test]
fn hostile_hamts_are_refused_with_the_shard_named() {
    let mut dag = Dag::default();
    let shard = |dag: &mut Dag, links: &[(&str, Cid, u64)], bits: &[u8], fanout: u64| {
        let mut message = vec![0x08, 5];
        super::super::dagpb::put_bytes(&mut message, 2, bits);
        message.extend([0x28, 0x22, 0x30]);
        super::super::dagpb::put_varint(&mut message, fanout);
        dag.node(links, &message)
    };
    let leaf = some_raw(1);
    let wide = shard(&mut dag, &[], &[], 1 << 40);
    assert_eq!(dag.fault(wide), (wide, HamtFault::Fanout(1 << 40).into()));
    let bits = shard(&mut dag, &[("CBhello", leaf, 1)], &[1], 256);
    assert_eq!(dag.fault(bits), (bits, HamtFault::Bitfield.into()));
    let long = shard(&mut dag, &[], &[0xff; 4_000], 256);
    assert_eq!(dag.fault(long), (long, HamtFault::Bitfield.into()));
    let misplaced = shard(&mut dag, &[("00hello", leaf, 1)], &[1], 256);
    assert_eq!(dag.fault(misplaced), (misplaced, HamtFault::Misplaced.into()));
    let empty = shard(&mut dag, &[], &[], 256);
    assert_eq!(dag.walk(empty).unwrap().len(), 1);
    for (child, why) in [
        (empty, Why::from(HamtFault::Bitfield)),
        (shard(&mut dag, &[], &[], 16), HamtFault::OtherFanout.into()),
        (dag.dir(&[]), Why::NotAFolder),
        (leaf, Why::NotAFolder),
    ] {
        let parent = shard(&mut dag, &[("00", child, 1)], &[1], 256);
        assert_eq!(dag.fault(parent), (child, why));
    }
    // Shards in shards, always at place 0, until the hash has no more bits.
    let mut chain = shard(&mut dag, &[("00hello", leaf, 1)], &[1], 256);
    for _ in 0..20 {
        chain = shard(&mut dag, &[("00", chain, 1)], &[1], 256);
    }
    assert_eq!(dag.fault(chain).1, HamtFault::TooDeep.into());
}

#[test]
fn symlinks_that_cannot_be_are_refused() {
    let mut dag = Dag::default();
    let mut sink = dag.sink();
    let mut link = |target: &[u8]| symlink(&Profile::V1_256K, target, &mut sink).cid;
    let bad = [link(b""), link(b"a\0b"), link(&[0xff]), link(&[b'x'; 4_096])];
    let good = link(&[b'x'; 4_095]);
    drop(sink);
    for cid in bad {
        assert_eq!(dag.fault(cid), (cid, Why::Target));
    }
    assert_eq!(dag.walk(good).unwrap().len(), 1);
}

#[test]
fn a_folder_inside_a_file_is_refused() {
    let mut dag = Dag::default();
    let dir = dag.dir(&[]);
    let file = dag.file(b"", &[(dir, 3 * MIB)]);
    assert_eq!(dag.fault(file), (dir, Why::NotAFile));
}

#[test]
fn a_few_nodes_that_repeat_each_other_without_end_come_to_an_end() {
    let mut dag = Dag::default();
    let names: Vec<String> = (0..256).map(|i| format!("{i:03}")).collect();
    let mut root = dag.dir(&[]);
    for _ in 0..6 {
        let entries: Vec<_> = names.iter().map(|name| (name.as_str(), root)).collect();
        root = dag.dir(&entries);
    }
    let (mut walker, mut out) = (Walker::new(root), Vec::new());
    walker.entries = MAX_ENTRIES - 1_000;
    let fault = loop {
        out.clear();
        match walker.advance(&mut dag.get(), 100, &mut out) {
            Ok(step) => assert_eq!(step, Step::More),
            Err(fault) => break fault,
        }
        assert!(out.len() <= 101);
    };
    assert!(matches!(fault.why, Why::TooMany(_)));
    assert_eq!(walker.advance(&mut dag.get(), 100, &mut out), Err(fault), "a fault is final");
    let mut chunks = Walker::new(dag.file(b"", &[(some_raw(1), 1); 10]));
    chunks.repeats = MAX_REPEATS - 5;
    assert!(matches!(
        chunks.advance(&mut dag.get(), 100, &mut out),
        Err(DagFault { why: Why::TooMany(_), .. })
    ));
}

// Any tree, in any order of arrival.

#[derive(Clone, Debug)]
enum Recipe {
    File(Vec<u8>),
    Link,
    Dir(Vec<Recipe>),
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let file = prop::collection::vec(0u8..6, 0..40).prop_map(Recipe::File);
    let leaf = prop_oneof![5 => file, 1 => Just(Recipe::Link)];
    leaf.prop_recursive(4, 40, 8, |inner| prop::collection::vec(inner, 0..8).prop_map(Recipe::Dir))
}

/// Files of chunks of 1.5 MiB (as far as anybody is told) and three children a node.
fn cook(recipe: &Recipe, profile: &Profile, sink: &mut dyn FnMut(Cid, Bytes)) -> Built {
    match recipe {
        Recipe::Link => symlink(profile, b"target", sink),
        Recipe::Dir(entries) => {
            let mut dir = DirBuilder::new(profile, Meta::NONE);
            for (i, entry) in entries.iter().enumerate() {
                dir.entry(&format!("entry {i}"), &cook(entry, profile, sink));
            }
            dir.finish(sink)
        }
        Recipe::File(parts) if parts.len() < 2 => small_file(profile, Meta::NONE, parts, sink),
        Recipe::File(parts) => {
            let mut file = FileBuilder::new(profile, Meta::NONE);
            for part in parts {
                file.push(Leaf { data_len: 3 << 19, block_len: 3 << 19, ..leaf(profile, &[*part; 9]) }, sink);
            }
            file.finish(sink)
        }
    }
}

proptest! {
    #[test]
    fn nodes_may_arrive_in_any_order_and_the_numbers_are_the_same(
        recipe in recipe(),
        raw in any::<bool>(),
        sharded in any::<bool>(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..50),
        max in 1usize..30,
    ) {
        let hamt = if sharded { HamtRule::Links(60) } else { HamtRule::Links(1 << 20) };
        let profile = Profile { max_links: 3, raw_leaves: raw, hamt, hamt_fanout: 16, ..Profile::V1_256K };
        let mut dag = Dag::default();
        let root = cook(&recipe, &profile, &mut dag.sink()).cid;
        let whole = dag.walk(root).unwrap();

        let mut held = Dag::default();
        let (mut walker, mut out) = (Walker::new(root), Vec::new());
        let mut picks = picks.iter().cycle();
        loop {
            let step = walker.advance(&mut held.get(), max, &mut out).unwrap();
            match step {
                Step::More => {}
                Step::Done => break,
                Step::Missing(cids) => {
                    prop_assert!(!cids.is_empty() && cids.len() <= ahead::MAX_MISSING);
                    prop_assert_eq!(cids.iter().collect::<BTreeSet<_>>().len(), cids.len());
                    prop_assert!(cids.iter().all(|cid| !held.0.contains_key(cid)));
                    // Any one of those named arrives.
                    let cid = *picks.next().unwrap().get(&cids);
                    held.0.insert(cid, dag.0[&cid].clone());
                }
            }
        }
        prop_assert_eq!(&out, &whole);
        // Nothing was asked for that the walk does not need, and a walk begun anew says the same.
        prop_assert_eq!(&held.walk(root).unwrap(), &whole);
        let firsts: Vec<u32> = chunks(&whole).iter().filter(|c| c.1).map(|c| c.0).collect();
        prop_assert!(firsts.iter().copied().eq(0..walker.chunks()));
    }
}

proptest! {
    #[test]
    fn a_node_damaged_anywhere_never_does_harm(
        recipe in recipe(),
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let profile = Profile { max_links: 3, hamt: HamtRule::Links(60), hamt_fanout: 16, ..Profile::V1_256K };
        let mut dag = Dag::default();
        let root = cook(&recipe, &profile, &mut dag.sink()).cid;
        if !dag.0.is_empty() {
            let cid = *which.get(&dag.0.keys().copied().collect::<Vec<_>>());
            let mut bytes = dag.0[&cid].to_vec();
            *at.get_mut(&mut bytes) = byte;
            dag.0.insert(cid, bytes.into());
        }
        let (mut walker, mut out) = (Walker::new(root), Vec::new());
        for _ in 0..10_000 {
            match walker.advance(&mut dag.get(), 7, &mut out) {
                Ok(Step::More) => {}
                Ok(Step::Done | Step::Missing(_)) | Err(_) => break,
            }
        }
        let _ = super::super::reader::list(&root, &mut dag.get());
        let _ = super::super::reader::resolve(&root, "entry 1/entry 0", &mut dag.get());
    }
}
