//! Quantities that are checked once, where they enter, and are plain values afterwards.
//!
//! Nothing here knows a clock: [`Time`] is handed in by whoever drives the code, so that the same
//! code runs under a real clock in the node and under a simulated one in the lab.

use std::fmt;
use std::ops::{Add, Range, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The length of a chunk in the default profile, in bytes (256 KiB).
pub const CHUNK_LEN: u32 = 262_144;

/// The longest block that is ever accepted, in bytes (2 MiB, Bitswap's own limit).
pub const MAX_BLOCK_LEN: usize = 2 << 20;

/// The largest number of chunks of one content (2^28: 64 TiB in chunks of 256 KiB).
pub const MAX_CHUNKS: u32 = 1 << 28;

/// A moment, in nanoseconds since the Unix epoch (node) or since the start (lab).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    pub const ZERO: Time = Time(0);
    pub const MAX: Time = Time(u64::MAX);

    pub fn from_secs_f64(s: f64) -> Time {
        Time((s * 1e9) as u64)
    }

    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The time since `earlier`; zero if the clock went backwards.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, d: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, d: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A peer, as the driver numbers it: one key for one identity, whatever its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerKey(pub u64);

/// A content of this node, as the store numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentKey(pub u32);

/// A file of one content, in the order of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileIndex(pub u32);

/// The number of a chunk in its manifest, below [`MAX_CHUNKS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkIndex(u32);

impl ChunkIndex {
    /// `None` if `n` is not below [`MAX_CHUNKS`].
    pub const fn new(n: u32) -> Option<ChunkIndex> {
        if n < MAX_CHUNKS { Some(ChunkIndex(n)) } else { None }
    }

    pub const fn get(self) -> u32 {
        self.0
    }

    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ChunkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A half-open run of chunk numbers; never empty, its end at most [`MAX_CHUNKS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkRange {
    start: u32,
    end: u32,
}

impl ChunkRange {
    /// `None` if it is empty or reaches beyond [`MAX_CHUNKS`].
    pub const fn new(start: u32, end: u32) -> Option<ChunkRange> {
        if start < end && end <= MAX_CHUNKS { Some(ChunkRange { start, end }) } else { None }
    }

    pub const fn one(i: ChunkIndex) -> ChunkRange {
        ChunkRange { start: i.0, end: i.0 + 1 }
    }

    pub const fn start(self) -> u32 {
        self.start
    }

    pub const fn end(self) -> u32 {
        self.end
    }

    #[allow(clippy::len_without_is_empty)] // a range is never empty
    pub const fn len(self) -> u32 {
        self.end - self.start
    }

    pub fn iter(self) -> impl DoubleEndedIterator<Item = ChunkIndex> {
        (self.start..self.end).map(ChunkIndex)
    }
}

/// A half-open run of bytes; `start <= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// `None` if `end` is before `start`.
    pub const fn new(start: u64, end: u64) -> Option<ByteRange> {
        if start <= end { Some(ByteRange { start, end }) } else { None }
    }

    pub const fn start(self) -> u64 {
        self.start
    }

    pub const fn end(self) -> u64 {
        self.end
    }

    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// What the two have in common, `None` if that is nothing.
    pub fn intersect(self, other: ByteRange) -> Option<ByteRange> {
        let r = ByteRange { start: self.start.max(other.start), end: self.end.min(other.end) };
        (r.start < r.end).then_some(r)
    }
}

impl From<ByteRange> for Range<u64> {
    fn from(r: ByteRange) -> Range<u64> {
        r.start..r.end
    }
}
