//! What simulated peers say to each other: the exchange's messages without their encoding.

use crate::bitfield::Bitfield;
use crate::engine::event::{NodeId, Refusal};
use crate::units::{ChunkIndex, ChunkRange};

/// A control message. Chunks are no messages: they stand in line (see [`super::link`]).
#[derive(Clone, Debug)]
pub enum Message {
    Join(Box<Greeting>),
    Joined(Box<Greeting>),
    Leave,
    Request(Vec<ChunkIndex>),
    Cancel(Vec<ChunkIndex>),
    Refuse(ChunkIndex, Refusal),
    RequestNodes(Vec<NodeId>),
    Nodes { got: Vec<NodeId>, lacking: Vec<NodeId> },
    Have(Vec<ChunkRange>),
    Complete,
    Lost(Vec<ChunkRange>),
    Interested(bool),
    Choke,
    Unchoke,
    AskPeers,
    Peers(Vec<u32>),
}

/// A `Join` (of which only the first three fields are sent) or its answer.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    pub have: Bitfield,
    pub complete: bool,
    pub any: bool,
    pub first: Option<ChunkIndex>,
    pub choked: bool,
    pub nodes: Vec<NodeId>,
    pub peers: Vec<u32>,
}

/// Bytes of a frame around a message.
const FRAME: u32 = 24;
/// Bytes that a signed peer record takes.
const PEER: u32 = 200;

impl Message {
    /// About how many bytes it takes on the link; inner nodes' own bytes come on top.
    pub fn bytes(&self) -> u32 {
        let n = |len: usize| len as u32;
        FRAME
            + match self {
                Message::Join(g) | Message::Joined(g) => {
                    n(g.have.ranges().take(1000).count()) * 6 + n(g.peers.len()) * PEER
                }
                Message::Request(c) | Message::Cancel(c) => n(c.len()) * 4,
                Message::RequestNodes(c) => n(c.len()) * 36,
                Message::Nodes { lacking, .. } => n(lacking.len()) * 36,
                Message::Have(r) | Message::Lost(r) => n(r.len()) * 6,
                Message::Peers(p) => n(p.len()) * PEER,
                Message::Refuse(..) => 8,
                Message::Leave
                | Message::Complete
                | Message::Interested(_)
                | Message::Choke
                | Message::Unchoke
                | Message::AskPeers => 4,
            }
    }
}
