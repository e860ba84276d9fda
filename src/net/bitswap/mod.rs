//! Bitswap's streams: opened, and handed to tasks that read and write them past the swarm's event loop.
//!
//! A *link* is what there is with one peer while it is connected: one long-lived stream of ours, opened when
//! there is something to say and again when it broke, and whatever streams the peer opens (kubo: one for its
//! wants and one for each message that answers ours). [`behaviour`] keeps the links, [`handler`] opens and
//! receives streams on a connection, [`link`] is a link's tasks, [`read`] and [`write`] are what they do.

mod behaviour;
mod handler;
mod link;
mod read;
mod write;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libp2p::{PeerId, StreamProtocol};
use tokio::sync::mpsc;

use crate::content::Cid;
use crate::units::{ChunkIndex, ContentKey};
use crate::wire::bitswap::{Entry, Message, Version};

pub use behaviour::{Behaviour, Event};

/// The protocol's names, the best first.
pub const PROTOCOLS: [(StreamProtocol, Version); 4] = [
    (StreamProtocol::new("/ipfs/bitswap/1.2.0"), Version::V1_2),
    (StreamProtocol::new("/ipfs/bitswap/1.1.0"), Version::V1_1),
    (StreamProtocol::new("/ipfs/bitswap/1.0.0"), Version::V1_0),
    (StreamProtocol::new("/ipfs/bitswap"), Version::V1_0),
];

/// What a link and the connections beneath it share.
#[derive(Debug, Default)]
pub struct Shared {
    /// The connection is to be kept although no stream of it has anything to say.
    keep: AtomicBool,
    /// Something was asked of the peer once: it may send blocks, so long messages too.
    asked: AtomicBool,
}

/// The sending half of Bitswap with one peer. Dropping it closes the streams, ours and the peer's.
#[derive(Clone, Debug)]
pub struct Link {
    /// Tells this link from the one before it with the same peer.
    pub id: u64,
    /// Wants and presences. Bounded: `try_send` failing means the peer does not read; drop the link.
    pub control: mpsc::Sender<Message>,
    /// Blocks, written one after the other behind what waits in `control`; [`What::Sent`] when each is handed
    /// to the socket.
    pub blocks: mpsc::Sender<Block>,
    pub(super) shared: Arc<Shared>,
}

impl Link {
    /// Whether either side waits for something of the other's, so that the connection must not idle out.
    pub fn keep(&self, keep: bool) {
        self.shared.keep.store(keep, Ordering::Relaxed);
    }

    /// Says something; false if the peer does not read.
    pub fn say(&self, message: Message) -> bool {
        if !message.entries.is_empty() {
            self.shared.asked.store(true, Ordering::Relaxed);
        }
        self.control.try_send(message).is_ok()
    }
}

/// A block on its way out.
#[derive(Debug)]
pub struct Block {
    pub cid: Cid,
    /// The block is this part of `body`, which comes back by [`What::Sent`].
    pub body: Vec<u8>,
    pub range: Range<usize>,
    /// The chunk that it is, or is the last block of.
    pub chunk: Option<(ContentKey, ChunkIndex)>,
    /// What is to be accounted for when it has left.
    pub bytes: u64,
}

/// What came over a link, or became of what was to go.
#[derive(Debug)]
pub struct News {
    pub peer: PeerId,
    pub link: u64,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    Message {
        entries: Vec<Entry>,
        full: bool,
        presences: Vec<(Cid, bool)>,
    },
    /// A block by the name that its bytes have; `None` if it is named by a hash that is not supported.
    Block {
        cid: Option<Cid>,
        body: Vec<u8>,
    },
    /// Part of a long message has come: a sign of life.
    Progress {
        bytes: u64,
    },
    /// A block has left; `body` is the buffer back.
    Sent {
        chunk: Option<(ContentKey, ChunkIndex)>,
        bytes: u64,
        body: Vec<u8>,
    },
    /// The peer sent something outside the protocol; the link is closed.
    Violation(String),
    /// The link is over.
    Closed,
}
