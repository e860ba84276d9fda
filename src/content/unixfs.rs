//! The UnixFS message inside a dag-pb node's data (<https://specs.ipfs.tech/unixfs/>).
//!
//! ```text
//! Data { Type = 1; bytes Data = 2; uint64 filesize = 3; repeated uint64 blocksizes = 4;
//!        uint64 hashType = 5; uint64 fanout = 6; uint32 mode = 7; UnixTime mtime = 8 }
//! UnixTime { int64 Seconds = 1; fixed32 FractionalNanoseconds = 2 }
//! ```
//!
//! Written in the order of the field numbers, as Go's protobuf does; read in any order.

use super::dagpb::{PbFault, put_bytes, put_varint, read_len, read_varint, varint_len};

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A leaf of a trickle DAG.
    Raw,
    Directory,
    File,
    /// Never seen in use; refused by all readers.
    Metadata,
    Symlink,
    HamtShard,
}

/// Mode and time of a file or folder, where its maker kept them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Meta {
    /// Permission bits, the low 12 bits of `st_mode`.
    pub mode: Option<u32>,
    /// Seconds since the Unix epoch, and nanoseconds (below 10^9).
    pub mtime: Option<(i64, u32)>,
}

impl Meta {
    pub const NONE: Meta = Meta { mode: None, mtime: None };

    pub fn is_none(&self) -> bool {
        *self == Meta::NONE
    }
}

/// Why bytes are not a UnixFS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnixFsFault {
    #[error("no data")]
    NoData,
    #[error("no type")]
    NoType,
    #[error("unknown type {0}")]
    Type(u64),
    #[error("a field repeated or of the wrong wire type")]
    Field,
    #[error("more block sizes than links")]
    BlockSizes,
    #[error("{0}")]
    Wire(#[from] PbFault),
}

/// A decoded message; `data` borrows from the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixFs<'a> {
    pub kind: Kind,
    /// File bytes, a symlink's target or a HAMT's bitfield.
    pub data: Option<&'a [u8]>,
    pub filesize: Option<u64>,
    pub blocksizes: Vec<u64>,
    pub hash_type: Option<u64>,
    pub fanout: Option<u64>,
    pub meta: Meta,
}

impl<'a> UnixFs<'a> {
    /// Decodes a message of a node with so many links; more block sizes than that are refused before
    /// memory is set aside for them.
    pub fn decode(bytes: Option<&'a [u8]>, links: usize) -> Result<UnixFs<'a>, UnixFsFault> {
        let bytes = bytes.ok_or(UnixFsFault::NoData)?;
        let mut kind = None;
        let mut out = UnixFs {
            kind: Kind::Raw,
            data: None,
            filesize: None,
            blocksizes: Vec::new(),
            hash_type: None,
            fanout: None,
            meta: Meta::NONE,
        };
        let mut at = 0;
        while at < bytes.len() {
            match read_varint(bytes, &mut at)? {
                0x08 => set(&mut kind, read_kind(read_varint(bytes, &mut at)?)?)?,
                0x12 => set(&mut out.data, read_len(bytes, &mut at)?)?,
                0x18 => set(&mut out.filesize, read_varint(bytes, &mut at)?)?,
                0x20 => push_size(&mut out.blocksizes, read_varint(bytes, &mut at)?, links)?,
                0x22 => {
                    let (packed, mut p) = (read_len(bytes, &mut at)?, 0);
                    while p < packed.len() {
                        push_size(&mut out.blocksizes, read_varint(packed, &mut p)?, links)?;
                    }
                }
                0x28 => set(&mut out.hash_type, read_varint(bytes, &mut at)?)?,
                0x30 => set(&mut out.fanout, read_varint(bytes, &mut at)?)?,
                // The upper 20 bits are reserved and mean nothing.
                0x38 => set(&mut out.meta.mode, read_varint(bytes, &mut at)? as u32 & 0xfff)?,
                0x42 => out.meta.mtime = read_mtime(read_len(bytes, &mut at)?)?.or(out.meta.mtime),
                key => skip(bytes, &mut at, key)?,
            }
        }
        out.kind = kind.ok_or(UnixFsFault::NoType)?;
        Ok(out)
    }
}

fn set<T>(field: &mut Option<T>, value: T) -> Result<(), UnixFsFault> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(UnixFsFault::Field),
    }
}

fn read_kind(n: u64) -> Result<Kind, UnixFsFault> {
    Ok(match n {
        0 => Kind::Raw,
        1 => Kind::Directory,
        2 => Kind::File,
        3 => Kind::Metadata,
        4 => Kind::Symlink,
        5 => Kind::HamtShard,
        n => return Err(UnixFsFault::Type(n)),
    })
}

fn push_size(sizes: &mut Vec<u64>, size: u64, links: usize) -> Result<(), UnixFsFault> {
    if sizes.len() == links {
        return Err(UnixFsFault::BlockSizes);
    }
    if sizes.capacity() == 0 {
        sizes.reserve_exact(links);
    }
    sizes.push(size);
    Ok(())
}

/// `None` where the nanoseconds make no sense, as Go reads it.
fn read_mtime(bytes: &[u8]) -> Result<Option<(i64, u32)>, UnixFsFault> {
    let (mut seconds, mut nanos, mut at) = (None, 0, 0);
    while at < bytes.len() {
        match read_varint(bytes, &mut at)? {
            0x08 => seconds = Some(read_varint(bytes, &mut at)? as i64),
            0x15 => {
                let raw = bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or(PbFault::Length)?;
                nanos = u32::from_le_bytes(raw);
                at += 4;
            }
            key => skip(bytes, &mut at, key)?,
        }
    }
    Ok(seconds.filter(|_| nanos < 1_000_000_000).map(|s| (s, nanos)))
}

/// Fields that are not known yet are passed over, known ones of another wire type refused.
fn skip(bytes: &[u8], at: &mut usize, key: u64) -> Result<(), UnixFsFault> {
    if (1..=8).contains(&(key >> 3)) || key >> 3 == 0 {
        return Err(UnixFsFault::Field);
    }
    match key & 7 {
        0 => drop(read_varint(bytes, at)?),
        1 => *at += 8,
        2 => drop(read_len(bytes, at)?),
        5 => *at += 4,
        _ => return Err(UnixFsFault::Field),
    }
    if *at > bytes.len() { Err(PbFault::Length.into()) } else { Ok(()) }
}

/// A file's leaf: everything around its bytes. The message is `prefix ++ data ++ suffix`.
pub(super) fn leaf_message(data_len: u32, meta: &Meta) -> (Vec<u8>, Vec<u8>) {
    let (mut prefix, mut suffix) = (vec![0x08, 2], Vec::new());
    if data_len > 0 {
        prefix.push(0x12);
        put_varint(&mut prefix, data_len.into());
    }
    suffix.push(0x18);
    put_varint(&mut suffix, data_len.into());
    put_meta(&mut suffix, meta, false);
    (prefix, suffix)
}

/// A file's inner node: the sizes of its children, no bytes of its own.
pub(super) fn file_message(sizes: impl Iterator<Item = u64> + Clone, meta: &Meta) -> Vec<u8> {
    let mut out = vec![0x08, 2, 0x18];
    put_varint(&mut out, sizes.clone().sum());
    for size in sizes {
        out.push(0x20);
        put_varint(&mut out, size);
    }
    put_meta(&mut out, meta, false);
    out
}

pub(super) fn dir_message(meta: &Meta) -> Vec<u8> {
    let mut out = vec![0x08, 1];
    put_meta(&mut out, meta, true);
    out
}

/// `bitfield` without leading zero bytes; the hash is always murmur3 (0x22).
pub(super) fn hamt_message(bitfield: &[u8], fanout: u32, meta: &Meta) -> Vec<u8> {
    let mut out = vec![0x08, 5];
    put_bytes(&mut out, 2, bitfield);
    out.extend([0x28, super::hamt::MURMUR3 as u8, 0x30]);
    put_varint(&mut out, fanout.into());
    put_meta(&mut out, meta, true);
    out
}

/// kubo keeps a symlink's time, never its mode.
pub(super) fn symlink_message(target: &[u8], meta: &Meta) -> Vec<u8> {
    let mut out = vec![0x08, 4];
    put_bytes(&mut out, 2, target);
    put_meta(&mut out, &Meta { mode: None, ..*meta }, false);
    out
}

/// A file's mode of zero is left out, a folder's is written (kubo's flag for "folder" keeps it from being zero).
fn put_meta(out: &mut Vec<u8>, meta: &Meta, folder: bool) {
    if let Some(mode) = meta.mode.map(|m| m & 0xfff).filter(|m| folder || *m != 0) {
        out.push(0x38);
        put_varint(out, mode.into());
    }
    if let Some((seconds, nanos)) = meta.mtime {
        let len = 1 + varint_len(seconds as u64) + if nanos > 0 { 5 } else { 0 };
        out.extend([0x42, len as u8, 0x08]);
        put_varint(out, seconds as u64);
        if nanos > 0 {
            out.push(0x15);
            out.extend(nanos.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let meta = Meta { mode: Some(0o4755), mtime: Some((-5, 999_999_999)) };
        let file = file_message([7, 1 << 40].into_iter(), &meta);
        let fs = UnixFs::decode(Some(&file), 2).unwrap();
        assert_eq!((fs.kind, fs.meta, fs.blocksizes), (Kind::File, meta, vec![7, 1 << 40]));
        assert_eq!(fs.filesize, Some(7 + (1 << 40)));
        let dir = dir_message(&meta);
        assert_eq!(UnixFs::decode(Some(&dir), 0).unwrap().meta, meta);
        let hamt = hamt_message(&[3, 1], 256, &Meta::NONE);
        let fs = UnixFs::decode(Some(&hamt), 3).unwrap();
        assert_eq!((fs.kind, fs.fanout, fs.hash_type), (Kind::HamtShard, Some(256), Some(0x22)));
        let link = symlink_message(b"../x", &meta);
        let fs = UnixFs::decode(Some(&link), 0).unwrap();
        assert_eq!((fs.data, fs.meta), (Some(&b"../x"[..]), Meta { mode: None, ..meta }));
    }

    #[test]
    fn packed_block_sizes_and_unknown_fields_are_read() {
        let bytes = b"\x08\x02\x22\x03\x01\x80\x01\x20\x05\x78\x01\x7d....\x79........\x7a\x01x";
        assert_eq!(UnixFs::decode(Some(bytes), 3).unwrap().blocksizes, [1, 128, 5]);
    }

    #[test]
    fn malformed_messages_are_refused_for_what_is_wrong_with_them() {
        let cases: [(&[u8], UnixFsFault); 10] = [
            (b"", UnixFsFault::NoType),
            (b"\x08\x06", UnixFsFault::Type(6)),
            (b"\x08\x02\x08\x02", UnixFsFault::Field),
            (b"\x0a\x02", UnixFsFault::Field),
            (b"\x08\x02\x00\x01", UnixFsFault::Field),
            (b"\x08\x02\x12\x05abc", UnixFsFault::Wire(PbFault::Length)),
            (b"\x08\x02\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", UnixFsFault::Wire(PbFault::Varint)),
            (b"\x08\x02\x7d\x00", UnixFsFault::Wire(PbFault::Length)),
            (b"\x08\x02\x20\x01\x20\x01", UnixFsFault::BlockSizes),
            (b"\x08\x02\x22\x03\x01\x01\x01", UnixFsFault::BlockSizes),
        ];
        for (bytes, why) in cases {
            assert_eq!(UnixFs::decode(Some(bytes), 1), Err(why), "{bytes:?}");
        }
        assert_eq!(UnixFs::decode(None, 1), Err(UnixFsFault::NoData));
    }

    proptest! {
        #[test]
        fn random_bytes_never_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..100), links in 0usize..9) {
            if let Ok(fs) = UnixFs::decode(Some(&bytes), links) {
                prop_assert!(fs.blocksizes.len() <= links);
            }
        }
    }
}
