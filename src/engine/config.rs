//! The engine's settings, with the defaults that the simulator was tuned with.

use std::time::Duration;

/// How many peers are uploaded to at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slots {
    /// `regular_slots` and an optimistic one; more only while the upload link would idle.
    Auto,
    /// This many, one of them optimistic (if it is more than one), whatever the link does.
    Fixed(u16),
}

/// Settings of one engine. `Default` is what the node runs with.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub slots: Slots,
    /// Slots of `Slots::Auto` given for what a peer sent us; one optimistic slot comes on top.
    pub regular_slots: u16,
    /// The most slots that `Slots::Auto` opens.
    pub max_slots: u16,
    /// How often slots are judged anew.
    pub choke_interval: Duration,
    /// How often the optimistic slot goes to another peer.
    pub optimistic_interval: Duration,
    /// Whether slots go to those that send us most. Off only to show what it is good for.
    pub tit_for_tat: bool,
    /// Whether one slot is optimistic. Off only to show what it is good for.
    pub optimistic: bool,
    /// Unchoked and asked for this long without one chunk: the peer has snubbed us.
    pub snub_after: Duration,

    /// Bytes a second over all contents and peers.
    pub up_limit: Option<u64>,
    pub down_limit: Option<u64>,

    /// Requests that one peer may have waiting here.
    pub queue_per_peer: usize,
    /// Bytes handed to the driver for sending and not yet sent: of one peer, and of all.
    pub send_window_peer: u64,
    pub send_window_total: u64,

    /// What one peer is asked for at once on a link without delay, in bytes (16 chunks of 256 KiB);
    /// twice the bandwidth-delay product comes on top.
    pub pipeline_bytes: u64,
    /// The most requests at one peer.
    pub pipeline_max: usize,
    /// How many peers a chunk is asked of at once in the endgame.
    pub endgame_copies: u8,

    /// Haves are told this often, unless the receiver is short of work.
    pub have_interval: Duration,
    /// A neighbour that lacks fewer than this of ours is short of work.
    pub short_of_work: u32,
    /// As the only complete source, send first what was sent least.
    pub super_seeding: bool,

    /// Neighbours a content should have, and the most that it takes.
    pub neighbours: usize,
    pub max_neighbours: usize,
    /// Connected peers that are kept track of.
    pub max_peers: usize,
    /// Peers whose bytes and faults are remembered.
    pub ledger_cap: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            slots: Slots::Auto,
            regular_slots: 4,
            max_slots: 64,
            choke_interval: Duration::from_secs(10),
            optimistic_interval: Duration::from_secs(30),
            tit_for_tat: true,
            optimistic: true,
            snub_after: Duration::from_secs(60),
            up_limit: None,
            down_limit: None,
            queue_per_peer: 256,
            send_window_peer: 2 << 20,
            send_window_total: 8 << 20,
            pipeline_bytes: 4 << 20,
            pipeline_max: 256,
            endgame_copies: 2,
            have_interval: Duration::from_secs(1),
            short_of_work: 16,
            super_seeding: true,
            neighbours: 40,
            max_neighbours: 120,
            max_peers: 2_048,
            ledger_cap: 65_536,
        }
    }
}
