use super::*;
use proptest::prelude::*;

use crate::units::MAX_CHUNKS;

fn a_cid(n: u8) -> Cid {
    // CIDv1, raw (0x55), sha2-256 (0x12), 32 bytes
    let mut raw = vec![1, 0x55, 0x12, 32];
    raw.extend([n; 32]);
    Cid::try_from(&raw[..]).unwrap()
}

fn frame(m: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    m.encode(&mut out).unwrap();
    let mut buf = crate::wire::frame::FrameBuf::new();
    buf.extend(&out);
    let f = buf.next_frame().unwrap().unwrap().to_vec();
    assert!(buf.is_empty());
    f
}

/// A message of one kind whose fields are written by hand.
fn raw(kind: u8, fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut inner = Vec::new();
    for (no, payload) in fields {
        inner.push(no << 3 | 2);
        write_prefix(payload.len(), &mut inner);
        inner.extend_from_slice(payload);
    }
    let mut out = vec![kind << 3 | 2];
    write_prefix(inner.len(), &mut out);
    out.extend(inner);
    out
}

fn hex(s: &str) -> Vec<u8> {
    let digits: Vec<u8> = s.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

#[test]
fn hello_on_the_data_stream_in_hex() {
    let m = Message::Hello(Hello { stream: StreamKind::Data, features: 0, link: 3, answers: 300 });
    let mut out = Vec::new();
    m.encode(&mut out).unwrap();
    let want = [
        "09",      // nine bytes follow
        "0a 07",   // field 1 (hello), 7 bytes
        "08 01",   // field 1 (stream) = DATA; features are 0 and left out
        "18 03",   // field 3 (link) = 3
        "20 ac02", // field 4 (answers) = 300
    ];
    assert_eq!(out, hex(&want.concat()));
}

#[test]
fn received_in_hex() {
    let mut out = Vec::new();
    Message::Received { bytes: 262_144, at: 300 }.encode(&mut out).unwrap();
    let want = [
        "09",        // nine bytes follow
        "72 07",     // field 14 (received), 7 bytes
        "08 808010", // field 1 (bytes)
        "10 ac02",   // field 2 (at)
    ];
    assert_eq!(out, hex(&want.concat()));
}

#[test]
fn get_chunks_in_hex() {
    let m = Message::GetChunks {
        root: a_cid(0xaa),
        indices: [5, 300].iter().map(|&n| ChunkIndex::new(n).unwrap()).collect(),
    };
    let want = [
        "3a 2b",       // field 7 (get_chunks), 43 bytes
        "0a 24",       // field 1 (root), 36 bytes
        "01 55 12 20", // CIDv1, raw, sha2-256, 32 bytes
        &"aa".repeat(32),
        "12 03 05 ac02", // field 2 (indices), packed: 5, 300
    ];
    assert_eq!(frame(&m), hex(&want.concat()));
}

#[test]
fn chunk_header_in_hex() {
    let m = Message::Chunk { root: a_cid(1), index: ChunkIndex::new(7).unwrap(), block_lens: vec![262_144] };
    let want = [
        "62 2d", // field 12 (chunk), 45 bytes
        "0a 24 01551220",
        &"01".repeat(32),
        "10 07",        // field 2 (index)
        "1a 03 808010", // field 3 (block_lens), packed: 262,144
    ];
    assert_eq!(frame(&m), hex(&want.concat()));
    assert_eq!(m.body_len(), 262_144);
}

#[test]
fn an_update_says_only_what_changed() {
    let m = Message::Update(Update { choke: Some(false), ..Update::default() });
    assert_eq!(frame(&m), hex("4a 02 38 02")); // field 9 (update): field 7 (choke) = NO
}

#[test]
fn a_field_of_the_future_is_skipped() {
    let mut f = hex("4a 04 38 02");
    f.extend(hex("7801")); // field 15 of the update: 1
    assert_eq!(Message::decode(&f), Ok(Message::Update(Update { choke: Some(false), ..Update::default() })));
}

#[test]
fn a_kind_of_the_future_is_said_so() {
    assert_eq!(Message::decode(&raw(15, &[])), Err(WireError::UnknownKind));
    assert_eq!(Message::decode(&[]), Err(WireError::UnknownKind));
}

#[test]
fn caps_on_how_many() {
    let cid = a_cid(1).to_bytes();
    let many = |kind, no, n: u32, item: &[u8]| {
        let fields: Vec<(u8, &[u8])> = (0..n).map(|_| (no, item)).collect();
        Message::decode(&raw(kind, &fields))
    };
    let too_many = |what, max| Err(WireError::TooMany { what, max });
    assert_eq!(many(5, 3, MAX_CIDS + 1, &cid), too_many("cids", MAX_CIDS));
    assert_eq!(many(6, 2, MAX_CIDS + 1, &[]), too_many("nodes", MAX_CIDS));
    assert_eq!(many(6, 3, MAX_CIDS + 1, &cid), too_many("lacking", MAX_CIDS));
    assert_eq!(many(3, 6, MAX_CIDS + 1, &[]), too_many("nodes", MAX_CIDS));
    assert_eq!(many(3, 7, MAX_PEERS + 1, &[]), too_many("peers", MAX_PEERS));
    assert_eq!(many(11, 3, MAX_PEERS + 1, &[]), too_many("added", MAX_PEERS));
    assert_eq!(many(11, 4, MAX_DROPPED + 1, &[]), too_many("dropped", MAX_DROPPED));
    assert_eq!(many(9, 2, MAX_UPDATE_RUNS + 1, &[]), too_many("have", MAX_UPDATE_RUNS));
    assert_eq!(many(9, 3, MAX_UPDATE_RUNS + 1, &[]), too_many("lost", MAX_UPDATE_RUNS));
    for kind in [7, 8] {
        let packed = vec![1u8; MAX_INDICES as usize + 1];
        assert_eq!(Message::decode(&raw(kind, &[(2, &packed)])), too_many("indices", MAX_INDICES));
    }
    let packed = vec![1u8; MAX_BLOCKS as usize + 1];
    assert_eq!(Message::decode(&raw(12, &[(3, &packed)])), too_many("block_lens", MAX_BLOCKS));
    let pages: Vec<u8> = (0..=have::MAX_PAGES).flat_map(|_| [0x12, 0]).collect();
    assert_eq!(Message::decode(&raw(2, &[(2, &pages)])), too_many("pages", have::MAX_PAGES));
    let addrs: Vec<u8> = (0..=MAX_ADDRS).flat_map(|_| [0x12, 0]).collect();
    assert_eq!(Message::decode(&raw(11, &[(3, &addrs)])), too_many("addrs", MAX_ADDRS));
    assert_eq!(many(4, 1, 2, &cid), too_many("root", 1));
}

#[test]
fn runs_gained_and_lost_count_together() {
    let runs = vec![ChunkRange::new(1, 2).unwrap(); 2_049];
    let m = Message::Update(Update { have: runs.clone(), lost: runs, ..Update::default() });
    assert_eq!(Message::decode(&frame(&m)), Err(WireError::TooMany { what: "runs", max: MAX_UPDATE_RUNS }));
}

#[test]
fn caps_on_how_long() {
    let long = |kind, no, len: u32| Message::decode(&raw(kind, &[(no, &vec![1; len as usize + 1])]));
    let too_long = |what, max| Err(WireError::FieldTooLong { what, max });
    assert_eq!(long(4, 1, MAX_CID_LEN), too_long("root", MAX_CID_LEN));
    assert_eq!(long(5, 3, MAX_CID_LEN), too_long("cids", MAX_CID_LEN));
    assert_eq!(long(11, 4, MAX_PEER_ID_LEN), too_long("dropped", MAX_PEER_ID_LEN));
    let peer = |no: u8, len: u32| {
        let mut p = vec![no << 3 | 2];
        write_prefix(len as usize + 1, &mut p);
        p.extend(vec![1; len as usize + 1]);
        Message::decode(&raw(11, &[(3, &p)]))
    };
    assert_eq!(peer(1, MAX_PEER_ID_LEN), too_long("id", MAX_PEER_ID_LEN));
    assert_eq!(peer(2, MAX_ADDR_LEN), too_long("addrs", MAX_ADDR_LEN));
    assert_eq!(peer(3, MAX_RECORD_LEN), too_long("signed_record", MAX_RECORD_LEN));
    assert!(matches!(Message::decode(&vec![0; MAX_FRAME + 1]), Err(WireError::TooLong(_))));
    let nodes = vec![(a_cid(1), Bytes::from(vec![0; 150 << 10])); 2];
    let have = Bitfield::new();
    let m = Message::Joined {
        root: a_cid(1),
        have,
        complete: false,
        interested: false,
        choked: false,
        nodes,
        peers: vec![],
        first: None,
    };
    assert_eq!(Message::decode(&frame(&m)), too_long("nodes", MAX_JOINED_NODES_LEN as u32));
}

#[test]
fn a_frame_that_would_be_too_long_is_not_written() {
    let node = (a_cid(1), Bytes::from(vec![0; MAX_FRAME / 2]));
    let m = Message::Nodes { request: 1, nodes: vec![node.clone(), node], lacking: vec![] };
    let mut out = vec![9];
    assert!(matches!(m.encode(&mut out), Err(WireError::TooLong(_))));
    assert_eq!(out, [9]);
}

#[test]
fn the_longest_block_is_a_node_that_fits_a_frame_and_one_byte_more_is_refused() {
    let nodes = |len| {
        let lacking = vec![a_cid(2); MAX_CIDS as usize];
        let node = (a_cid(1), Bytes::from(vec![0; len]));
        Message::Nodes { request: u32::MAX, nodes: vec![node], lacking }
    };
    let m = nodes(MAX_BLOCK_LEN);
    assert_eq!(Message::decode(&frame(&m)), Ok(m));
    let too_long = WireError::FieldTooLong { what: "data", max: MAX_BLOCK_LEN as u32 };
    assert_eq!(Message::decode(&frame(&nodes(MAX_BLOCK_LEN + 1))), Err(too_long));
}

#[test]
fn chunks_beyond_the_caps_are_refused() {
    let chunk = |lens: &[u32]| {
        let index = ChunkIndex::new(0).unwrap();
        Message::decode(&frame(&Message::Chunk { root: a_cid(1), index, block_lens: lens.to_vec() }))
    };
    assert!(chunk(&[MAX_BLOCK_LEN as u32]).is_ok());
    assert!(chunk(&[0]).is_ok());
    assert!(chunk(&[]).is_err());
    assert!(chunk(&[MAX_BLOCK_LEN as u32 + 1]).is_err());
    assert!(chunk(&[MAX_BLOCK_LEN as u32, 131_072]).is_ok());
    assert!(chunk(&[MAX_BLOCK_LEN as u32, 131_073]).is_err());
    assert!(chunk(&[u32::MAX; 3]).is_err());
}

#[test]
fn numbers_outside_their_range_are_refused() {
    let cid = a_cid(1).to_bytes();
    let mut big = Vec::new();
    write_prefix(MAX_CHUNKS as usize, &mut big);
    assert_eq!(Message::decode(&raw(7, &[(1, &cid), (2, &big)])), Err(WireError::BadValue("index")));
    // Hello with stream 2, and Hello with link 0.
    assert_eq!(Message::decode(&hex("0a04 0802 1801")), Err(WireError::BadValue("stream")));
    assert_eq!(Message::decode(&hex("0a02 0801")), Err(WireError::BadValue("link")));
    // A CID with a byte too many, and none at all.
    let mut long = cid.clone();
    long.push(0);
    assert_eq!(Message::decode(&raw(4, &[(1, &long)])), Err(WireError::BadValue("cid")));
    assert_eq!(Message::decode(&raw(4, &[])), Err(WireError::BadValue("cid")));
}

fn cids() -> impl Strategy<Value = Cid> {
    any::<u8>().prop_map(a_cid)
}

fn fields() -> impl Strategy<Value = Bitfield> {
    prop::collection::vec((0u32..300_000, 1u32..500), 0..20).prop_map(|runs| {
        let mut b = Bitfield::new();
        runs.into_iter().for_each(|(s, l)| b.insert_range(ChunkRange::new(s, s + l).unwrap()));
        b
    })
}

fn ranges() -> impl Strategy<Value = Vec<ChunkRange>> {
    let run = (0..MAX_CHUNKS - 100, 1u32..100).prop_map(|(s, l)| ChunkRange::new(s, s + l).unwrap());
    prop::collection::vec(run, 0..10)
}

fn some_indices() -> impl Strategy<Value = Vec<ChunkIndex>> {
    prop::collection::vec((0..MAX_CHUNKS).prop_map(|n| ChunkIndex::new(n).unwrap()), 0..256)
}

fn some_nodes() -> impl Strategy<Value = Vec<(Cid, Bytes)>> {
    let data = prop::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from);
    prop::collection::vec((cids(), data), 0..5)
}

fn records() -> impl Strategy<Value = Vec<PeerRecord>> {
    let bytes = |n| prop::collection::vec(any::<u8>(), 1..n);
    let plain = (bytes(40), prop::collection::vec(bytes(60), 0..8)).prop_map(|(id, addrs)| PeerRecord {
        id,
        addrs,
        signed_record: vec![],
    });
    let signed = (bytes(40), bytes(300)).prop_map(|(id, signed_record)| PeerRecord {
        id,
        addrs: vec![],
        signed_record,
    });
    prop::collection::vec(prop_oneof![plain, signed], 0..10)
}

fn messages() -> impl Strategy<Value = Message> {
    let index = || (0..MAX_CHUNKS).prop_map(|n| ChunkIndex::new(n).unwrap());
    let stream = prop_oneof![Just(StreamKind::Control), Just(StreamKind::Data)];
    prop_oneof![
        (stream, any::<u64>(), 1u64.., any::<u64>()).prop_map(|(stream, features, link, answers)| {
            Message::Hello(Hello { stream, features, link, answers })
        }),
        (cids(), fields(), any::<[bool; 4]>()).prop_map(
            |(root, have, [complete, interested, any, has_nodes])| {
                Message::Join { root, have, complete, interested, any, has_nodes }
            }
        ),
        (cids(), fields(), any::<[bool; 3]>(), some_nodes(), records(), prop::option::of(index())).prop_map(
            |(root, have, [complete, interested, choked], nodes, peers, first)| Message::Joined {
                root,
                have,
                complete,
                interested,
                choked,
                nodes,
                peers,
                first
            }
        ),
        cids().prop_map(|root| Message::Unknown { root }),
        (any::<u32>(), cids(), prop::collection::vec(cids(), 0..64))
            .prop_map(|(request, root, cids)| Message::GetNodes { request, root, cids }),
        (any::<u32>(), some_nodes(), prop::collection::vec(cids(), 0..64))
            .prop_map(|(request, nodes, lacking)| Message::Nodes { request, nodes, lacking }),
        (cids(), some_indices()).prop_map(|(root, indices)| Message::GetChunks { root, indices }),
        (cids(), some_indices()).prop_map(|(root, indices)| Message::Cancel { root, indices }),
        (prop::option::of(cids()), ranges(), ranges(), any::<[bool; 2]>(), any::<[Option<bool>; 2]>())
            .prop_map(|(root, have, lost, [complete, leaving], [interested, choke])| {
                Message::Update(Update { root, have, lost, complete, interested, leaving, choke })
            }),
        (any::<u32>(), cids()).prop_map(|(request, root)| Message::GetPeers { request, root }),
        (
            any::<u32>(),
            cids(),
            records(),
            prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..9)
        )
            .prop_map(|(request, root, added, dropped)| Message::Peers {
                request,
                root,
                added,
                dropped
            }),
        (cids(), index(), prop::collection::vec(0u32..2_000, 1..1_000))
            .prop_map(|(root, index, block_lens)| Message::Chunk { root, index, block_lens }),
        (cids(), index(), prop_oneof![Just(Why::Gone), Just(Why::Choked), Just(Why::Cancelled)])
            .prop_map(|(root, index, why)| Message::NoChunk { root, index, why }),
        any::<[u64; 2]>().prop_map(|[bytes, at]| Message::Received { bytes, at }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(m in messages()) {
        prop_assert_eq!(Message::decode(&frame(&m)), Ok(m));
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Message::decode(&bytes);
    }

    #[test]
    fn a_message_with_a_byte_changed_never_panics(m in messages(), at in any::<prop::sample::Index>(), b: u8) {
        let mut f = frame(&m);
        let at = at.index(f.len());
        f[at] = b;
        let _ = Message::decode(&f);
    }
}
