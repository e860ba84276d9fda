//! What the engine knows of a content, of a peer, and of a peer within a content.

use std::collections::BTreeMap;
use std::time::Duration;

use super::config::Config;
use super::counts::Counts;
use super::event::PeerKind;
use super::first::First;
use super::haves::Log;
use super::ledger::Rate;
use super::limits::Bucket;
use super::merging::Twins;
use super::nodes::Nodes;
use super::pex::Pex;
use super::picker::{Asked, Picker, Shelf};
use super::pipeline::Pipeline;
use crate::bitfield::Bitfield;
use crate::units::{ChunkIndex, ContentKey, PeerKey, Time};

/// One content of this node.
#[derive(Debug)]
pub(super) struct Content {
    pub picker: Picker,
    pub paused: bool,
    /// No more chunks will become known.
    pub whole: bool,
    /// `Finished` has been said, and nothing has been missing since.
    pub finished: bool,
    /// `Complete` has been said to the neighbours.
    pub told_complete: bool,
    /// Lengths of chunks, as runs: from this number on, this long.
    pub lens: Vec<(u32, u32)>,
    /// Chunks that other contents have or want too.
    pub twins: Twins,
    pub swarm: BTreeMap<PeerKey, Neighbour>,
    /// Peers that `Join` was said to, and what the log then held (they are told what came later).
    pub joining: BTreeMap<PeerKey, u64>,
    /// Who is to choose the first chunk, while no chunk is known.
    pub first: Option<First>,
    pub log: Log,
    pub nodes: Nodes,
    pub pex: Pex,
    pub up: Bucket,
    pub down: Bucket,
    pub up_rate: Rate,
    pub down_rate: Rate,
    /// Bytes sent and asked for, for fairness among contents; lifted when work begins anew.
    pub up_turn: u64,
    pub down_turn: u64,
}

impl Content {
    pub fn new(now: Time, want: bool) -> Content {
        Content {
            picker: Picker::new(want),
            paused: false,
            whole: false,
            finished: false,
            told_complete: false,
            lens: Vec::new(),
            twins: Twins::default(),
            swarm: BTreeMap::new(),
            joining: BTreeMap::new(),
            first: None,
            log: Log::default(),
            nodes: Nodes::default(),
            pex: Pex::new(now),
            up: Bucket::default(),
            down: Bucket::default(),
            up_rate: Rate::default(),
            down_rate: Rate::default(),
            up_turn: 0,
            down_turn: 0,
        }
    }

    /// Everything there is is held.
    pub fn complete(&self) -> bool {
        self.whole && self.picker.held().len() == self.picker.len()
    }

    /// We are the only complete source that we know of.
    pub fn alone(&self) -> bool {
        self.picker.seeds() == 0 && self.complete()
    }

    /// Something is still to be fetched (chunks, or the manifest that names them).
    pub fn wants(&self) -> bool {
        self.picker.wants() && !self.paused && (!self.whole || self.picker.missing() > 0)
    }

    pub fn len_of(&self, c: u32) -> u32 {
        let at = self.lens.partition_point(|(start, _)| *start <= c);
        at.checked_sub(1).map_or(crate::units::CHUNK_LEN, |i| self.lens[i].1)
    }

    /// A chunk is open again: whoever has it can be asked for it.
    pub fn reshelve(&mut self, c: u32) {
        if self.picker.is_open(c) {
            self.swarm.values_mut().filter(|n| n.has(c)).for_each(|n| n.shelf.add(c));
        }
    }

    /// Counts afresh what each neighbour has for us and lacks of ours.
    pub fn recount(&mut self) {
        let plain = self.plain();
        let Content { picker, swarm, .. } = self;
        for n in swarm.values_mut() {
            n.recount(picker, plain);
        }
    }

    /// Every chunk is known, and wanted unless it is held.
    pub fn plain(&self) -> bool {
        self.whole && self.picker.wants_all()
    }
}

/// A peer in the swarm of one content.
#[derive(Debug)]
pub(super) struct Neighbour {
    /// What it has; empty and unused if it has everything.
    pub have: Bitfield,
    pub complete: bool,
    pub counts: Counts,
    /// What it was told of our interest.
    pub told: Option<bool>,
    /// It wants something of ours.
    pub interested: bool,
    /// Up to where in the log it has been told what we hold.
    pub log_at: u64,
    pub shelf: Shelf,
}

impl Neighbour {
    pub fn has(&self, c: u32) -> bool {
        self.complete || ChunkIndex::new(c).is_some_and(|i| self.have.contains(i))
    }

    /// Whether it has a chunk that we miss.
    pub fn offers(&self, picker: &Picker) -> bool {
        if self.complete { picker.missing() > 0 } else { self.counts.offers() > 0 }
    }

    pub fn asked(&mut self) -> Asked<'_> {
        Asked { have: &self.have, complete: self.complete, shelf: &mut self.shelf }
    }

    /// Counts afresh (see [`Counts::of`]); what was on its shelf may be wanted no more.
    pub fn recount(&mut self, picker: &Picker, plain: bool) {
        self.shelf = Shelf::None;
        self.counts = if self.complete { Counts::none() } else { Counts::of(&self.have, picker, plain) };
    }
}

/// A request that a peer made and that is neither sent nor refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    pub content: ContentKey,
    pub chunk: u32,
    pub bytes: u32,
}

/// A connected peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub kind: PeerKind,
    pub connected_at: Time,
    /// The smallest round trip that was measured.
    pub rtt: Option<Duration>,
    /// It does not answer our requests for now.
    pub choking_us: bool,
    /// We do not answer its requests for now.
    pub choked: bool,
    /// The swarms that it shares with us, in the order in which it joined them.
    pub contents: Vec<ContentKey>,
    /// In how many of them it wants something of ours.
    pub interests: u32,

    /// Our requests to it.
    pub pipeline: Pipeline,
    pub down_rate: Rate,
    pub down: Bucket,
    /// Bytes that it sent us, halved at each judgement: what tit-for-tat goes by.
    pub credit: u64,

    /// Its requests to us, in its order.
    pub queue: Vec<Queued>,
    /// Bytes and number of its chunks that are with the driver.
    pub sending: u64,
    pub sending_count: u32,
    pub up_rate: Rate,
    pub up: Bucket,
    /// Bytes sent, for fairness among peers; lifted when its queue fills anew.
    pub turn: u64,
    pub unchoked_at: Time,
    pub choked_at: Time,
    /// Chunks that it was the first to get from us, the latest few; how many since it was unchoked.
    pub gifts: Vec<(ContentKey, u32)>,
    pub new_gifts: u32,
    /// Bytes sent since it was unchoked, and whether a chunk has gone out to it at all.
    pub served: u64,
    pub was_sent: bool,

    /// Things it did to no purpose since the last judgement: repeated flips, known haves.
    pub noise: u32,
    /// It is on the list of peers to be looked after at the end of this event.
    pub listed: bool,
    /// When it may next look for requests of others to take over.
    pub look_at: Time,
}

impl Peer {
    pub fn new(now: Time, kind: PeerKind, rtt: Option<Duration>, cfg: &Config) -> Peer {
        Peer {
            kind,
            connected_at: now,
            rtt,
            choking_us: kind == PeerKind::Exchange,
            choked: kind == PeerKind::Exchange,
            contents: Vec::new(),
            interests: 0,
            pipeline: Pipeline::new(now, cfg),
            down_rate: Rate::default(),
            down: Bucket::default(),
            credit: 0,
            queue: Vec::new(),
            sending: 0,
            sending_count: 0,
            up_rate: Rate::default(),
            up: Bucket::default(),
            turn: 0,
            unchoked_at: Time::ZERO,
            choked_at: Time::ZERO,
            gifts: Vec::new(),
            new_gifts: 0,
            served: 0,
            was_sent: false,
            noise: 0,
            listed: false,
            look_at: Time::ZERO,
        }
    }

    /// It counts against the upload slots.
    pub fn holds_slot(&self) -> bool {
        self.kind == PeerKind::Exchange && !self.choked
    }

    /// It waits for an upload slot.
    pub fn waits(&self) -> bool {
        self.kind == PeerKind::Exchange && self.choked && self.interests > 0
    }

    pub fn rtt_or_zero(&self) -> Duration {
        self.rtt.unwrap_or_default()
    }
}
