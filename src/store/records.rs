//! The index's records and how they are written: pages of many small ones, integers as LEB128.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::content::Cid;
use crate::content::manifest::Meta;

use super::{Origin, Signature, StoreError};

/// Chunk records in a page of the index.
pub const CHUNKS_PER_PAGE: u32 = 256;
/// File records in a page of the index.
pub const FILES_PER_PAGE: u32 = 128;

/// One content, as the index keeps it (JSON: few, and it may grow fields).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContentRec {
    #[serde(with = "super::api::cid_text")]
    pub root: Cid,
    pub name: Option<String>,
    pub origin: Origin,
    pub size: u64,
    pub files: u32,
    pub chunks: u32,
    /// Bytes of the chunks held, as often as they are placed.
    pub held_bytes: u64,
    /// Bytes that inner nodes carry, and how far they were counted: file, offset behind the last.
    pub inline_bytes: u64,
    pub inline_to: (u32, u64),
    pub manifest_complete: bool,
    /// In its final place.
    pub complete: bool,
    /// Being imported: invisible, and dropped when the store is opened.
    pub staging: bool,
    pub seeding: bool,
    pub created: u64,
    /// A fetch that may replace its destination.
    pub force: bool,
    /// Chunks may have been written that no checkpoint covers.
    pub dirty: bool,
    /// Every chunk is held, so the index has no bitmaps of it.
    pub held_all: bool,
    /// The machine's boot in which a fetch was finished whose bytes no sync has covered since.
    #[serde(default)]
    pub unsynced: Option<String>,
    /// Device and inode of a complete fetch, to know it again at its `.part` if it was not renamed after all.
    pub part_id: Option<(u64, u64)>,
    pub changed: Vec<PathBuf>,
    /// What the import saw and was told, to see that nothing changed when it is asked for again.
    pub fingerprint: Option<String>,
}

impl ContentRec {
    /// One of which nothing is known yet.
    pub fn new(root: Cid, name: Option<String>, origin: Origin, created: u64) -> ContentRec {
        ContentRec {
            root,
            name,
            origin,
            size: 0,
            files: 0,
            chunks: 0,
            held_bytes: 0,
            inline_bytes: 0,
            inline_to: (0, 0),
            manifest_complete: false,
            complete: false,
            staging: false,
            seeding: true,
            created,
            force: false,
            dirty: false,
            held_all: false,
            unsynced: None,
            part_id: None,
            changed: Vec::new(),
            fingerprint: None,
        }
    }
}

/// A numbered chunk: its name, its length (claimed, or found when it came), its first placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRec {
    pub cid: Cid,
    pub len: Option<u64>,
    pub file: u32,
    pub offset: u64,
    /// The table of placements has more.
    pub more: bool,
}

/// A file of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRec {
    /// `/`-joined, empty for a content that is one file.
    pub path: String,
    /// As its node claims; or a guess, and then it is as long as its only chunk.
    pub size: Option<u64>,
    pub guess: bool,
    pub meta: Meta,
    pub sig: Option<Signature>,
    /// The signature was too young when the file was hashed.
    pub young: bool,
    pub changed: bool,
    /// Its first run of chunks with consecutive numbers: where it starts, its first number, how many.
    pub start: u64,
    pub first: u32,
    pub count: u32,
    /// The table of runs has more.
    pub more: bool,
}

/// A folder or a symlink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryRec {
    Dir { meta: Meta },
    Symlink { target: String },
}

/// A record that lives in pages.
pub trait Record: Sized + Clone {
    const PER_PAGE: u32;
    fn write(&self, out: &mut Vec<u8>);
    fn read(r: &mut Reader<'_>) -> Option<Self>;
}

pub fn encode_page<R: Record>(records: &[R]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.len() * 64);
    for r in records {
        r.write(&mut out);
    }
    out
}

pub fn decode_page<R: Record>(bytes: &[u8]) -> Result<Vec<R>, StoreError> {
    let mut r = Reader(bytes);
    let mut out = Vec::with_capacity(bytes.len().min(R::PER_PAGE as usize * 64) / 48);
    while !r.0.is_empty() {
        out.push(R::read(&mut r).ok_or_else(|| StoreError::damaged("a page of records does not parse"))?);
    }
    Ok(out)
}

/// Reads what the functions below wrote; `None` at anything else.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn u8(&mut self) -> Option<u8> {
        let (&b, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(b)
    }

    fn uint(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.u8()?;
            n |= u64::from(b & 0x7f).checked_shl(shift)?;
            if b & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    fn u32(&mut self) -> Option<u32> {
        self.uint()?.try_into().ok()
    }

    fn int(&mut self) -> Option<i64> {
        let n = self.uint()?;
        Some((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.uint()?).ok()?;
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn string(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }
}

fn uint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn int(out: &mut Vec<u8>, n: i64) {
    uint(out, (n << 1) as u64 ^ (n >> 63) as u64);
}

fn bytes(out: &mut Vec<u8>, b: &[u8]) {
    uint(out, b.len() as u64);
    out.extend_from_slice(b);
}

impl Record for ChunkRec {
    const PER_PAGE: u32 = CHUNKS_PER_PAGE;

    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.len.is_some()) | u8::from(self.more) << 1);
        bytes(out, &self.cid.to_bytes());
        if let Some(len) = self.len {
            uint(out, len);
        }
        uint(out, self.file.into());
        uint(out, self.offset);
    }

    fn read(r: &mut Reader<'_>) -> Option<ChunkRec> {
        let flags = r.u8()?;
        let cid = Cid::try_from(r.bytes()?).ok()?;
        let len = if flags & 1 != 0 { Some(r.uint()?) } else { None };
        Some(ChunkRec { cid, len, file: r.u32()?, offset: r.uint()?, more: flags & 2 != 0 })
    }
}

impl Record for FileRec {
    const PER_PAGE: u32 = FILES_PER_PAGE;

    fn write(&self, out: &mut Vec<u8>) {
        let flags =
            [self.size.is_some(), self.sig.is_some(), self.young, self.changed, self.more, self.guess];
        out.push(flags.iter().enumerate().fold(0, |n, (i, &f)| n | u8::from(f) << i));
        bytes(out, self.path.as_bytes());
        if let Some(size) = self.size {
            uint(out, size);
        }
        write_meta(out, &self.meta);
        if let Some(s) = self.sig {
            [s.dev, s.ino, s.size].into_iter().for_each(|n| uint(out, n));
            [s.mtime_ns, s.ctime_ns].into_iter().for_each(|n| int(out, n));
        }
        uint(out, self.start);
        uint(out, self.first.into());
        uint(out, self.count.into());
    }

    fn read(r: &mut Reader<'_>) -> Option<FileRec> {
        let flags = r.u8()?;
        let flag = |i: u8| flags >> i & 1 != 0;
        let path = r.string()?;
        let size = if flag(0) { Some(r.uint()?) } else { None };
        let meta = read_meta(r)?;
        let sig = if flag(1) {
            let (dev, ino, size) = (r.uint()?, r.uint()?, r.uint()?);
            Some(Signature { dev, ino, size, mtime_ns: r.int()?, ctime_ns: r.int()? })
        } else {
            None
        };
        let (start, first, count, more) = (r.uint()?, r.u32()?, r.u32()?, flag(4));
        let (young, changed, guess) = (flag(2), flag(3), flag(5));
        Some(FileRec { path, size, guess, meta, sig, young, changed, start, first, count, more })
    }
}

impl EntryRec {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            EntryRec::Dir { meta } => {
                out.push(0);
                write_meta(&mut out, meta);
            }
            EntryRec::Symlink { target } => {
                out.push(1);
                bytes(&mut out, target.as_bytes());
            }
        }
        out
    }

    pub fn decode(b: &[u8]) -> Result<EntryRec, StoreError> {
        let mut r = Reader(b);
        let rec = match r.u8() {
            Some(0) => read_meta(&mut r).map(|meta| EntryRec::Dir { meta }),
            Some(1) => r.string().map(|target| EntryRec::Symlink { target }),
            _ => None,
        };
        rec.ok_or_else(|| StoreError::damaged("a folder's record does not parse"))
    }
}

fn write_meta(out: &mut Vec<u8>, meta: &Meta) {
    out.push(u8::from(meta.mode.is_some()) | u8::from(meta.mtime.is_some()) << 1);
    if let Some(mode) = meta.mode {
        uint(out, mode.into());
    }
    if let Some((s, ns)) = meta.mtime {
        int(out, s);
        uint(out, ns.into());
    }
}

fn read_meta(r: &mut Reader<'_>) -> Option<Meta> {
    let flags = r.u8()?;
    let mode = if flags & 1 != 0 { Some(r.u32()?) } else { None };
    let mtime = if flags & 2 != 0 { Some((r.int()?, r.u32()?)) } else { None };
    Some(Meta { mode, mtime })
}

#[cfg(test)]
mod tests {
    use super::*;
    use multihash::Multihash;
    use proptest::prelude::*;

    fn cid() -> impl Strategy<Value = Cid> {
        (prop::collection::vec(any::<u8>(), 0..64), prop::sample::select(vec![0x55u64, 0x70]))
            .prop_map(|(d, codec)| Cid::new_v1(codec, Multihash::wrap(0x12, &d).unwrap()))
    }

    fn meta() -> impl Strategy<Value = Meta> {
        (any::<Option<u32>>(), any::<Option<(i64, u32)>>()).prop_map(|(mode, mtime)| Meta { mode, mtime })
    }

    fn signature() -> impl Strategy<Value = Signature> {
        any::<(u64, u64, u64, i64, i64)>().prop_map(|(dev, ino, size, mtime_ns, ctime_ns)| Signature {
            dev,
            ino,
            size,
            mtime_ns,
            ctime_ns,
        })
    }

    prop_compose! {
        fn chunk()(cid in cid(), len: Option<u64>, file: u32, offset: u64, more: bool) -> ChunkRec {
            ChunkRec { cid, len, file, offset, more }
        }
    }
    prop_compose! {
        fn file()(path in ".{0,20}", size: Option<u64>, meta in meta(), sig in prop::option::of(signature()),
                  young: bool, changed: bool, guess: bool, start: u64, first: u32, count: u32,
                  more: bool) -> FileRec {
            FileRec { path, size, guess, meta, sig, young, changed, start, first, count, more }
        }
    }

    proptest! {
        #[test]
        fn pages_come_back_as_they_were_written(chunks in prop::collection::vec(chunk(), 0..9), files in prop::collection::vec(file(), 0..9)) {
            prop_assert_eq!(decode_page::<ChunkRec>(&encode_page(&chunks)).unwrap(), chunks);
            prop_assert_eq!(decode_page::<FileRec>(&encode_page(&files)).unwrap(), files);
        }

        #[test]
        fn damaged_pages_are_errors_and_not_panics(b in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_page::<ChunkRec>(&b);
            let _ = decode_page::<FileRec>(&b);
            let _ = EntryRec::decode(&b);
        }
    }
}
