//! Frames: an unsigned varint length, then that many bytes.
//!
//! [`FrameBuf`] takes bytes as they come and gives whole frames. Behind a frame there may be raw bytes
//! (the blocks of a chunk), which [`FrameBuf::take`] hands out.

use super::WireError;
use crate::units::MAX_BLOCK_LEN;

/// The longest frame that is written or accepted, without its length prefix: the longest block, which an inner node
/// may be, and 64 KiB for what is around it.
pub const MAX_FRAME: usize = MAX_BLOCK_LEN + (64 << 10);

/// The longest length prefix: four bytes hold 2^28 - 1, and [`MAX_FRAME`] is below that.
const MAX_PREFIX: usize = 4;

/// Bytes that have come and are not yet used.
#[derive(Debug)]
pub struct FrameBuf {
    buf: Vec<u8>,
    start: usize,
    max: usize,
}

impl FrameBuf {
    pub fn new() -> FrameBuf {
        FrameBuf { buf: Vec::new(), start: 0, max: MAX_FRAME }
    }

    /// Refuses longer frames from now on.
    pub fn limit(&mut self, max: usize) {
        self.max = self.max.min(max);
    }

    /// Appends what was read.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.start == self.buf.len() {
            self.clear();
        } else if self.start > 0 {
            self.buf.drain(..self.start);
            self.start = 0;
        }
        self.buf.extend_from_slice(bytes);
    }

    /// The next whole frame, without its prefix; `None` until more bytes have come.
    ///
    /// # Errors
    /// The prefix is longer than it may be or names more than is taken; the stream is then lost.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, WireError> {
        let Some((len, prefix)) = read_prefix(&self.buf[self.start..])? else { return Ok(None) };
        if len > self.max {
            return Err(WireError::TooLong(len as u64));
        }
        let from = self.start + prefix;
        // `len` is at most MAX_FRAME and `from` within the buffer, so the sum can't overflow.
        let Some(frame) = self.buf.get(from..from + len) else { return Ok(None) };
        self.start = from + len;
        Ok(Some(frame))
    }

    /// Moves up to `into.len()` raw bytes out; says how many.
    pub fn take(&mut self, into: &mut [u8]) -> usize {
        let have = &self.buf[self.start..];
        let n = have.len().min(into.len());
        into[..n].copy_from_slice(&have[..n]);
        self.start += n;
        n
    }

    /// How many bytes lie here unused.
    pub fn len(&self) -> usize {
        self.buf.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything is used: start anew, and do not sit on the memory of one long frame for ever.
    fn clear(&mut self) {
        self.start = 0;
        self.buf.clear();
        self.buf.shrink_to(16 << 10);
    }
}

impl Default for FrameBuf {
    fn default() -> FrameBuf {
        FrameBuf::new()
    }
}

/// Writes the length prefix of a frame.
pub(super) fn write_prefix(len: usize, out: &mut Vec<u8>) {
    let mut n = len;
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The length and how many bytes it took.
fn read_prefix(buf: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let mut len = 0usize;
    for (i, &b) in buf.iter().enumerate().take(MAX_PREFIX) {
        len |= usize::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            if b == 0 && i > 0 {
                return Err(WireError::BadVarint); // not the shortest form
            }
            return Ok(Some((len, i + 1)));
        }
    }
    if buf.len() >= MAX_PREFIX { Err(WireError::BadVarint) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_length_over_the_cap_is_refused_before_its_bytes_come() {
        let mut out = Vec::new();
        write_prefix(MAX_FRAME + 1, &mut out);
        let mut b = FrameBuf::new();
        b.extend(&out);
        assert_eq!(b.next_frame(), Err(WireError::TooLong(MAX_FRAME as u64 + 1)));
    }

    #[test]
    fn a_varint_without_end_is_refused() {
        let mut b = FrameBuf::new();
        b.extend(&[0x80, 0x80, 0x80]);
        assert_eq!(b.next_frame(), Ok(None));
        b.extend(&[0x80]);
        assert_eq!(b.next_frame(), Err(WireError::BadVarint));
    }

    #[test]
    fn a_stream_of_short_frames_takes_no_long_one() {
        let mut out = Vec::new();
        write_prefix(101, &mut out);
        let mut b = FrameBuf::new();
        b.limit(100);
        b.extend(&out);
        assert_eq!(b.next_frame(), Err(WireError::TooLong(101)));
    }

    #[test]
    fn an_overlong_zero_is_refused() {
        let mut b = FrameBuf::new();
        b.extend(&[0x81, 0x00]);
        assert_eq!(b.next_frame(), Err(WireError::BadVarint));
    }

    #[test]
    fn raw_bytes_follow_a_frame() {
        let mut b = FrameBuf::new();
        b.extend(&[2, 7, 8, 1, 2, 3]);
        assert_eq!(b.next_frame(), Ok(Some(&[7u8, 8][..])));
        let mut body = [0; 2];
        assert_eq!((b.take(&mut body), body, b.len()), (2, [1, 2], 1));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            cuts in prop::collection::vec(1usize..50, 1..20),
        ) {
            let mut wire = Vec::new();
            for f in &frames {
                write_prefix(f.len(), &mut wire);
                wire.extend_from_slice(f);
            }
            let (mut b, mut got, mut at, mut cut) = (FrameBuf::new(), Vec::new(), 0, cuts.iter().cycle());
            while at < wire.len() {
                let n = (*cut.next().unwrap()).min(wire.len() - at);
                b.extend(&wire[at..at + n]);
                at += n;
                while let Some(f) = b.next_frame().unwrap() {
                    got.push(f.to_vec());
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert!(b.is_empty());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut b = FrameBuf::new();
            b.extend(&bytes);
            while let Ok(Some(_)) = b.next_frame() {}
        }
    }
}
