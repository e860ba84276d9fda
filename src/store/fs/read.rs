//! Reading chunks back, and when what is read must be hashed again.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::content::RAW;
use crate::content::block::verify_block;
use crate::content::chunk::ChunkFrame;
use crate::units::ChunkIndex;

use super::super::index::Place;
use super::super::records::{ChunkRec, FileRec};
use super::super::signature::{Comparison, Signature};
use super::super::{ChunkRead, StoreError};
use super::FsStore;
use super::caches::Handle;
use super::content::Content;

/// How one place's read ended, when not with an error of the disk's.
pub enum Outcome {
    /// The bytes are right, and `sig` is what the file had around the read.
    Good { sig: Signature },
    /// The file is not what it was.
    Stale,
}

/// How a chunk's blocks lie in the buffer: each `prefix ++ data ++ suffix`.
pub enum Shape {
    Raw(u64),
    Framed(Arc<ChunkFrame>),
}

impl Shape {
    fn block_lens(&self) -> Vec<u32> {
        match self {
            Shape::Raw(len) => vec![u32::try_from(*len).unwrap_or(u32::MAX)],
            Shape::Framed(f) => f.block_lens(),
        }
    }
}

impl FsStore {
    pub(super) fn read(
        &self,
        c: &Content,
        chunk: ChunkIndex,
        buf: &mut Vec<u8>,
    ) -> Result<ChunkRead, StoreError> {
        let _layout = c.reading();
        let rec = self.chunk_rec(c, chunk)?;
        if !c.state().held.contains(chunk) {
            return Err(StoreError::NotHeld { chunk });
        }
        let shape = self.shape(c, chunk, &rec)?;
        let first = Place { file: rec.file, offset: rec.offset };
        if self.serve(c, chunk, &rec, first, &shape, buf)? {
            return Ok(ChunkRead { block_lens: shape.block_lens() });
        }
        if rec.more {
            for place in self.index.places(c.key, chunk.get())? {
                if self.serve(c, chunk, &rec, place, &shape, buf)? {
                    return Ok(ChunkRead { block_lens: shape.block_lens() });
                }
            }
        }
        buf.clear();
        let path = self.path_of(c, &self.file_rec(c, first.file)?.path);
        Err(StoreError::Changed { path })
    }

    /// How the blocks of a chunk that is held are made of its file's bytes.
    pub(super) fn shape(&self, c: &Content, chunk: ChunkIndex, rec: &ChunkRec) -> Result<Shape, StoreError> {
        let n = chunk.get();
        let (len, frame) = {
            let s = c.state();
            (rec.len.or(s.lens.get(&n).copied()), s.frames.get(&n).cloned())
        };
        if rec.cid.codec() == RAW {
            let len = len.ok_or_else(|| StoreError::damaged(format!("chunk {n} has no length")))?;
            return Ok(Shape::Raw(len));
        }
        let frame = match frame {
            Some(f) => f,
            None => match self.index.frame(c.key, n)? {
                Some(f) => Arc::new(f),
                None => return Err(StoreError::damaged(format!("chunk {n} has no frame"))),
            },
        };
        Ok(Shape::Framed(frame))
    }

    /// Reads a chunk from one of its places; false if that file is not what it was, which is on record then.
    fn serve(
        &self,
        c: &Content,
        chunk: ChunkIndex,
        rec: &ChunkRec,
        place: Place,
        shape: &Shape,
        buf: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        let file = self.file_rec(c, place.file)?;
        if file.changed {
            return Ok(false);
        }
        let (complete, proved) = {
            let s = c.state();
            (s.rec.complete, s.proved.contains(chunk))
        };
        let trusted = |sig: &Signature| match file.sig {
            Some(old) if complete => match old.compare(sig) {
                Comparison::Same => Some(!file.young || proved),
                Comparison::Suspect => Some(false),
                Comparison::Changed => None,
            },
            _ => Some(false), // a fetch in progress
        };
        let outcome = self.read_place(c, rec, place, &file, shape, &trusted, complete, buf)?;
        match outcome {
            Outcome::Good { sig } => {
                if complete {
                    self.prove(c, chunk, place.file, &file, sig)?;
                }
                Ok(true)
            }
            Outcome::Stale if complete => self.lose_files(c, &[place.file]).map(|()| false),
            Outcome::Stale => self.lose_chunk(c, chunk).map(|()| false),
        }
    }

    /// One read between two looks at the file. `trusted` says of a signature whether the bytes need no hashing,
    /// `None` that the file has changed.
    #[allow(clippy::too_many_arguments)] // all of them are needed and none belong together
    pub(super) fn read_place(
        &self,
        c: &Content,
        rec: &ChunkRec,
        place: Place,
        file: &FileRec,
        shape: &Shape,
        trusted: &dyn Fn(&Signature) -> Option<bool>,
        settled: bool,
        buf: &mut Vec<u8>,
    ) -> Result<Outcome, StoreError> {
        let cached = self.files.get(c.key, place.file, false).is_some();
        // A file kept open may have been replaced under its name: on any doubt the name decides.
        for attempt in 0..2 {
            let h = match self.handle(c, place.file, file, false) {
                Ok(h) => h,
                Err(e) if gone(&e) => return Ok(Outcome::Stale),
                Err(e) => return Err(e),
            };
            let before = signature(&h)?;
            let trust = trusted(&before);
            if trust != Some(true) && settled && cached && attempt == 0 {
                self.files.forget(c.key, place.file);
                continue;
            }
            let Some(trust) = trust else { return Ok(Outcome::Stale) };
            if !read_blocks(&h, place.offset, shape, buf)? {
                return Ok(Outcome::Stale);
            }
            let right = trust || blocks_are_right(rec, shape, buf);
            let after = signature(&h)?;
            // While a fetch is in progress its own writes change the file: there the hash alone decides.
            let stable = !settled || before == after;
            return Ok(if right && stable { Outcome::Good { sig: after } } else { Outcome::Stale });
        }
        Ok(Outcome::Stale)
    }

    /// A chunk's file bytes from its first place, checked against its name; for copying. The length.
    pub(super) fn read_data(
        &self,
        c: &Content,
        chunk: ChunkIndex,
        rec: &ChunkRec,
        buf: &mut Vec<u8>,
    ) -> Result<usize, StoreError> {
        let shape = self.shape(c, chunk, rec)?;
        let place = Place { file: rec.file, offset: rec.offset };
        let file = self.file_rec(c, rec.file)?;
        let never = |_: &Signature| Some(false);
        match self.read_place(c, rec, place, &file, &shape, &never, false, buf)? {
            Outcome::Good { .. } => {}
            Outcome::Stale => {
                self.lose_chunk(c, chunk)?;
                return Err(StoreError::Changed { path: self.path_of(c, &file.path) });
            }
        }
        Ok(strip_frames(&shape, buf))
    }

    /// A chunk was hashed again and is right: with a signature that is old enough, it need not be again.
    fn prove(
        &self,
        c: &Content,
        chunk: ChunkIndex,
        file: u32,
        rec: &FileRec,
        sig: Signature,
    ) -> Result<(), StoreError> {
        let Some(old) = rec.sig else { return Ok(()) };
        if old == sig && !rec.young {
            return Ok(());
        }
        if old != sig {
            // Only the ctime or the device number differ: go on with the new ones, and prove each chunk anew.
            self.edit_file_records(c, [file], |_, rec| (rec.sig, rec.young) = (Some(sig), true))?;
            c.state().proved = Default::default();
        }
        if !sig.too_young(self.now()) {
            c.state().proved.insert(chunk);
        }
        Ok(())
    }
}

/// True for what means that the file is not there any more, or something else is.
pub fn gone(e: &StoreError) -> bool {
    e.is_not_found() || matches!(e, StoreError::InTheWay { .. } | StoreError::Unsupported { .. })
}

pub fn signature(h: &Handle) -> Result<Signature, StoreError> {
    rustix::fs::fstat(&h.file).map(|s| Signature::of(&s)).map_err(|e| StoreError::io(&h.path, e))
}

/// Reads file bytes to where they belong in the blocks; false if the file ends too early.
fn read_blocks(h: &Handle, offset: u64, shape: &Shape, buf: &mut Vec<u8>) -> Result<bool, StoreError> {
    let fill = |buf: &mut [u8], at: u64| match h.file.read_exact_at(buf, at) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(StoreError::io(&h.path, e)),
    };
    match shape {
        Shape::Raw(len) => {
            // Without clearing first: what the buffer held need not be zeroed to be overwritten.
            buf.resize(usize::try_from(*len).unwrap_or(usize::MAX), 0);
            fill(buf, offset)
        }
        Shape::Framed(frame) => {
            let total: usize = frame.block_lens().iter().map(|&n| n as usize).sum();
            buf.resize(total, 0);
            let (mut at, mut from) = (0, offset);
            for b in &frame.blocks {
                let data = at + b.prefix.len();
                let end = data + b.data_len as usize;
                buf[at..data].copy_from_slice(&b.prefix);
                if !fill(&mut buf[data..end], from)? {
                    return Ok(false);
                }
                buf[end..end + b.suffix.len()].copy_from_slice(&b.suffix);
                from += u64::from(b.data_len);
                at = end + b.suffix.len();
            }
            Ok(true)
        }
    }
}

fn blocks_are_right(rec: &ChunkRec, shape: &Shape, buf: &[u8]) -> bool {
    match shape {
        Shape::Raw(_) => verify_block(&rec.cid, buf).is_ok(),
        Shape::Framed(frame) => {
            let mut rest = buf;
            frame.blocks.iter().all(|b| {
                let len = b.prefix.len() + b.data_len as usize + b.suffix.len();
                let Some((block, after)) = rest.split_at_checked(len) else { return false };
                rest = after;
                verify_block(&b.cid, block).is_ok()
            })
        }
    }
}

/// Moves the file bytes to the buffer's start, says how many they are.
fn strip_frames(shape: &Shape, buf: &mut [u8]) -> usize {
    let Shape::Framed(frame) = shape else { return buf.len() };
    let (mut from, mut to) = (0, 0);
    for b in &frame.blocks {
        let (data, len) = (from + b.prefix.len(), b.data_len as usize);
        buf.copy_within(data..data + len, to);
        to += len;
        from = data + len + b.suffix.len();
    }
    to
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use crate::content::profile::Profile;
    use crate::store::tests::bench::{Bench, FsBench, chunk, file};
    use crate::store::{Signature, Store, StoreError};

    /// A shared file whose bytes are not those that were hashed, with a signature on record that does not tell.
    fn deceived(young: bool) -> (FsBench, crate::units::ContentKey) {
        let mut a = FsBench::new();
        a.put("f", &file(1, 600_000));
        let key = a.import("f", &Profile::V1_256K).unwrap();
        let f = std::fs::OpenOptions::new().write(true).open(a.path("f")).unwrap();
        f.write_all_at(b"!", 3).unwrap();
        let sig = Signature::of(&rustix::fs::fstat(&f).unwrap());
        let c = a.store().content(key).unwrap();
        a.store().edit_file_records(&c, [0], |_, rec| (rec.sig, rec.young) = (Some(sig), young)).unwrap();
        drop(c);
        a.restart();
        (a, key)
    }

    #[test]
    fn a_restart_hashes_nothing_while_signatures_match() {
        let (a, key) = deceived(false);
        a.store().read_chunk(key, chunk(0), &mut Vec::new()).unwrap();
    }

    #[test]
    fn a_file_whose_signature_is_young_is_hashed_when_it_is_served() {
        let (a, key) = deceived(true);
        let mut buf = Vec::new();
        a.store().read_chunk(key, chunk(1), &mut buf).unwrap();
        let read = a.store().read_chunk(key, chunk(0), &mut buf);
        assert!(matches!(read, Err(StoreError::Changed { .. })));
        assert!(buf.is_empty(), "wrong bytes are not left for anybody to send");
    }
}
