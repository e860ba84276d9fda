//! `dunlin`: a decentralized file-sharing node.
//!
//! The crate map, from the pure core outwards (each module uses only those above it):
//!
//! | module | what it holds | pure |
//! |---|---|---|
//! | [`units`], [`bitfield`] | checked quantities; sets of chunks | yes |
//! | [`link`] | every way to write a link | yes |
//! | [`content`] | CIDs, chunker, dag-pb, UnixFS, HAMT, manifest | yes |
//! | [`wire`] | the exchange's messages | yes |
//! | [`engine`] | the swarm engine: a state machine without I/O | yes |
//! | [`dht`] | look-ups in a Kademlia DHT, and when to tell it what we provide | yes |
//! | [`store`] | contents in place, the index, resume | |
//! | [`net`] | libp2p: transports, discovery, the exchange's streams | |
//! | [`node`] | engine, store and net wired together | |
//! | [`http`] | control API | |
//! | [`cli`] | the command line | |
//! | [`lab`] | simulator, ring DHT, distribution-time curves | models only |
#![forbid(unsafe_code)]

pub mod bitfield;
pub mod cli;
pub mod content;
pub mod dht;
pub mod engine;
pub mod http;
pub mod lab;
pub mod link;
pub mod net;
pub mod node;
pub mod store;
pub mod units;
pub mod wire;
