//! The circular DHT of the lectures, as a protocol that passes messages.
//!
//! Each peer knows its predecessor and its next successors, and, with shortcuts, Chord's fingers
//! (Stoica et al. 2001). A key belongs to its immediate successor. This is the teaching system: the
//! node itself uses Kademlia, which [`kademlia`] puts beside it.
//!
//! [`node`] is one peer: messages and time-outs in, messages out. [`net`] carries them. [`example`]
//! asks one ring one question; [`curve`] sets neighbours against messages; [`churn`] counts look-ups
//! that fail while peers come and go.

pub mod churn;
pub mod curve;
pub mod example;
pub mod kademlia;
pub mod net;
pub mod node;
pub mod space;

use std::time::Duration;

/// How a ring is run.
#[derive(Clone, Debug, PartialEq)]
pub struct RingConfig {
    /// How many successors a peer knows, pings and falls back upon; 2 in the lectures, at least 1.
    pub known: usize,
    /// How many of these it routes by; 1 is "each peer knows only its successor".
    pub routed: usize,
    /// Whether it keeps fingers: the owners of its own ID + 2^i.
    pub shortcuts: bool,
    /// Between two rounds of pings and repair; `None`: never (a ring that does not change).
    pub interval: Option<Duration>,
    /// After so long an answer counts as missed.
    pub patience: Duration,
    /// After so long a look-up counts as lost; it may pass every peer.
    pub deadline: Duration,
}

impl Default for RingConfig {
    fn default() -> RingConfig {
        RingConfig {
            known: 2,
            routed: 1,
            shortcuts: false,
            interval: Some(Duration::from_secs(10)),
            patience: Duration::from_secs(2),
            deadline: Duration::from_secs(60),
        }
    }
}

/// A question to a ring that cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    #[error("a ring has IDs of 1 to 64 bits, not {0}")]
    Bits(u32),
    #[error("ID {id} does not fit into {bits} bits")]
    TooBig { id: u64, bits: u32 },
    #[error("ID {0} is given twice")]
    Twice(u64),
    #[error("a ring needs at least one peer")]
    Empty,
    #[error("peer {0} is not in the ring")]
    Absent(u64),
    #[error("the look-up of {0} was lost")]
    Lost(u64),
}
