use super::*;
use proptest::prelude::*;

use crate::content::RAW;
use crate::content::block::cid_of;

fn hex(s: &str) -> Vec<u8> {
    let digits: Vec<u8> = s.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

fn a_cid(n: u8) -> Cid {
    Cid::try_from(&[&[1, 0x55, 0x12, 32][..], &[n; 32]].concat()[..]).unwrap()
}

fn want(cid: Cid, ask: Ask) -> Entry {
    Entry { cid, ask, priority: 1, dont_have: ask != Ask::Cancel }
}

fn encoded(m: &Message, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    m.encode(version, &mut out).unwrap();
    out
}

/// The message behind a length prefix that must be right.
fn frame(bytes: &[u8]) -> Bytes {
    let (len, prefix) = read_len(bytes, MAX_MESSAGE).unwrap().unwrap();
    assert_eq!(bytes.len(), prefix + len);
    Bytes::copy_from_slice(&bytes[prefix..])
}

fn there_and_back(m: &Message, version: Version) -> Message {
    Message::decode(frame(&encoded(m, version))).unwrap()
}

/// A field with a payload, by hand.
fn field(no: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![no << 3 | 2];
    write_prefix(payload.len(), &mut out);
    out.extend_from_slice(payload);
    out
}

#[test]
fn wants_in_hex() {
    let entries = vec![want(a_cid(0xaa), Ask::Have), want(a_cid(0xbb), Ask::Cancel)];
    let m = Message { entries, full: true, ..Message::default() };
    let bytes = [
        "5e",          // 94 bytes follow
        "0a 5c",       // field 1 (wantlist), 92 bytes
        "0a 2c",       // field 1 (entries), 44 bytes
        "0a 24",       // field 1 (block), 36 bytes
        "01 55 12 20", // CIDv1, raw, sha2-256, 32 bytes
        &"aa".repeat(32),
        "10 01", // field 2 (priority) = 1
        "20 01", // field 4 (want_type) = HAVE
        "28 01", // field 5 (send_dont_have)
        "0a 2a", // field 1 (entries), 42 bytes
        "0a 24 01551220",
        &"bb".repeat(32),
        "10 01 18 01", // priority = 1, field 3 (cancel)
        "10 01",       // field 2 (full)
    ];
    assert_eq!(encoded(&m, Version::V1_2), hex(&bytes.concat()));
    assert_eq!(there_and_back(&m, Version::V1_2), m);
}

#[test]
fn presences_in_hex() {
    let m = Message { presences: vec![(a_cid(1), true), (a_cid(2), false)], ..Message::default() };
    let bytes = [
        "52",    // 82 bytes follow
        "22 26", // field 4 (presences), 38 bytes
        "0a 24 01551220",
        &"01".repeat(32), // field 2 (type) is HAVE and left out
        "22 28",
        "0a 24 01551220",
        &"02".repeat(32),
        "10 01", // field 2 (type) = DONT_HAVE
    ];
    assert_eq!(encoded(&m, Version::V1_2), hex(&bytes.concat()));
    assert_eq!(there_and_back(&m, Version::V1_2), m);
}

#[test]
fn a_block_in_hex_and_its_head_alone() {
    let cid = cid_of(false, RAW, b"data");
    let m = Message { blocks: vec![(Prefix::of(&cid), Bytes::from_static(b"data"))], ..Message::default() };
    let bytes = [
        "0e",             // 14 bytes follow
        "1a 0c",          // field 3 (payload), 12 bytes
        "0a 04 01551220", // field 1 (prefix): CIDv1, raw, sha2-256, 32 bytes
        "12 04",          // field 2 (data), 4 bytes
        "64617461",
    ];
    assert_eq!(encoded(&m, Version::V1_2), hex(&bytes.concat()));
    let v10 = hex("06 12 04 64617461"); // 6 bytes, field 2 (blocks)
    assert_eq!(encoded(&m, Version::V1_0), v10);
    for version in [Version::V1_0, Version::V1_1, Version::V1_2] {
        let mut head = Vec::new();
        block_head(version, &cid, 4, &mut head);
        assert_eq!([&head[..], b"data"].concat(), encoded(&m, version));
    }
    let (prefix, data) = &there_and_back(&m, Version::V1_1).blocks[0];
    assert_eq!(prefix.name(data), Some(cid));
    let (prefix, data) = &there_and_back(&m, Version::V1_0).blocks[0];
    assert_eq!(prefix.name(data), Some(cid_of(true, DAG_PB, b"data")));
}

#[test]
fn a_long_blocks_head_is_what_encoding_it_gives() {
    for len in [0, 127, 128, 16_383, 16_384, MAX_BLOCK_LEN] {
        let data = vec![7; len];
        let cid = cid_of(true, DAG_PB, &data);
        let mut head = Vec::new();
        block_head(Version::V1_2, &cid, len, &mut head);
        let m = Message { blocks: vec![(Prefix::of(&cid), data.clone().into())], ..Message::default() };
        if len > 0 {
            assert_eq!([head.clone(), data.clone()].concat(), encoded(&m, Version::V1_2), "{len}");
        }
        let m = Message::decode(frame(&[head, data].concat())).unwrap();
        assert_eq!(m.blocks[0].0.name(&m.blocks[0].1), Some(cid));
    }
}

#[test]
fn old_versions_are_told_nothing_that_they_do_not_know() {
    let m = Message {
        entries: vec![want(a_cid(1), Ask::Have)],
        presences: vec![(a_cid(2), false)],
        ..Message::default()
    };
    let old = there_and_back(&m, Version::V1_1);
    let entry = Entry { cid: a_cid(1), ask: Ask::Block, priority: 1, dont_have: false };
    assert_eq!((old.entries, old.presences), (vec![entry], vec![]));
}

#[test]
fn a_want_of_what_no_block_of_ours_can_be_is_passed_over() {
    let with = |code: u8, digest: &[u8]| [&[1, 0x55, code, digest.len() as u8][..], digest].concat();
    let odd = [with(0x00, b"identity"), with(0x12, &[1; 19]), with(0x13, &[1; 100])];
    let good = a_cid(9);
    let mut entries: Vec<u8> = odd.iter().flat_map(|cid| field(1, &field(1, cid))).collect();
    entries.extend(field(1, &field(1, &good.to_bytes())));
    let m = Message::decode(field(1, &entries).into()).unwrap();
    assert_eq!(m.entries.iter().map(|e| e.cid).collect::<Vec<_>>(), [good]);
}

#[test]
fn what_is_outside_the_caps_is_refused() {
    let entry = |cid: &[u8]| Message::decode(field(1, &field(1, &field(1, cid))).into());
    let too_long = WireError::FieldTooLong { what: "cid", max: MAX_CID_LEN };
    assert_eq!(entry(&[1; MAX_CID_LEN as usize + 1]), Err(too_long));
    for bad in [&b""[..], b"\x01", b"\x01\x55\x12\x20", &[0x12, 32, 1], &[0xff; 40]] {
        assert_eq!(entry(bad), Err(WireError::BadValue("cid")), "{bad:?}");
    }
    let many = |no, n: u32, item: &[u8]| -> Bytes { field(no, item).repeat(n as usize).into() };
    let too_many = |what, max| Err(WireError::TooMany { what, max });
    assert_eq!(Message::decode(many(2, MAX_BLOCKS + 1, b"")), too_many("blocks", MAX_BLOCKS));
    assert_eq!(Message::decode(many(3, MAX_BLOCKS + 1, b"")), too_many("payload", MAX_BLOCKS));
    assert_eq!(Message::decode(many(4, MAX_ENTRIES + 1, b"")), too_many("presences", MAX_ENTRIES));
    let list = field(1, &field(1, b"").repeat(MAX_ENTRIES as usize + 1));
    assert_eq!(Message::decode(list.into()), too_many("entries", MAX_ENTRIES));
    let long = field(3, &field(2, &vec![0; MAX_BLOCK_LEN + 1]));
    let too_long = WireError::FieldTooLong { what: "block", max: MAX_BLOCK_LEN as u32 };
    assert_eq!(Message::decode(long.into()), Err(too_long));
    let prefix = |p: &[u8]| Message::decode(field(3, &field(1, p)).into());
    assert_eq!(prefix(&[0x80; 60]), Err(WireError::BadValue("prefix")));
    assert_eq!(prefix(&[1, 0x55, 0x12]), Err(WireError::BadValue("prefix")));
    assert!(Message::decode(vec![0; MAX_MESSAGE + 1].into()).is_err());
}

#[test]
fn a_length_is_refused_before_its_bytes_come() {
    assert_eq!(read_len(&[], MAX_MESSAGE), Ok(None));
    assert_eq!(read_len(&[0x80, 0x80], MAX_MESSAGE), Ok(None));
    assert_eq!(read_len(&hex("80 80 80 02"), MAX_MESSAGE), Ok(Some((MAX_MESSAGE, 4))));
    assert_eq!(read_len(&hex("81 80 80 02"), MAX_MESSAGE), Err(too_long()));
    assert_eq!(read_len(&hex("80 80 04"), 1 << 15), Err(too_long()));
    assert_eq!(read_len(&[0xff; 4], MAX_MESSAGE), Err(too_long()));
}

#[test]
fn only_the_prefix_says_what_bytes_are_called() {
    let name = |prefix: Prefix| prefix.name(b"data");
    let v1 = Prefix::of(&cid_of(false, RAW, b"data"));
    assert_eq!(name(v1), Some(cid_of(false, RAW, b"data")));
    assert_eq!(name(Prefix { codec: DAG_PB, ..v1 }), Some(cid_of(false, DAG_PB, b"data")));
    assert_eq!(name(Prefix { hash: 0xb220, ..v1 }), None);
    assert_eq!(name(Prefix { hash_len: 20, ..v1 }), None);
    assert_eq!(name(Prefix { version: 2, ..v1 }), None);
    assert_eq!(name(Prefix { hash: 0x13, hash_len: 64, version: 0, codec: DAG_PB }), None);
}

prop_compose! {
    fn a_message()(
        entries in prop::collection::vec((any::<u8>(), 0..3u8, any::<i32>(), any::<bool>()), 0..20),
        full in any::<bool>(),
        blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5),
        presences in prop::collection::vec((any::<u8>(), any::<bool>()), 0..20),
    ) -> Message {
        let ask = |n| [Ask::Block, Ask::Have, Ask::Cancel][usize::from(n)];
        // A cancel has no type: HAVE or not is not told apart.
        let entry = |(n, k, priority, dont_have)| Entry { cid: a_cid(n), ask: ask(k), priority, dont_have };
        Message {
            entries: entries.into_iter().map(entry).collect(),
            full,
            blocks: blocks.into_iter().map(|b| (Prefix::of(&a_cid(0)), b.into())).collect(),
            presences: presences.into_iter().map(|(n, have)| (a_cid(n), have)).collect(),
        }
    }
}

proptest! {
    #[test]
    fn messages_survive(m in a_message()) {
        prop_assert_eq!(there_and_back(&m, Version::V1_2), m);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::decode(bytes.clone().into());
        let _ = read_len(&bytes, MAX_MESSAGE);
    }

    #[test]
    fn a_flipped_bit_never_panics(m in a_message(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = frame(&encoded(&m, Version::V1_2)).to_vec();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        let _ = Message::decode(bytes.into());
    }
}
