//! Asking a Kademlia DHT, and telling it what we provide: state machines without I/O.
//!
//! libp2p-kad serves others and keeps the routing table. What we ask of the network goes this way instead,
//! since its queries show neither hops nor who was asked, cannot be told which peers to leave out, and
//! provide one key a walk.
//!
//! Peers are whatever the caller names them by (`P`); time and keys are arguments.

mod groups;
mod key;
mod lookup;
pub mod sweep;
mod tiles;

pub use groups::{Group, MAX_OF_A_GROUP, group_of_v4, group_of_v6};
pub use key::{Distance, Key};
pub use lookup::{Ask, Heard, Lookup, Stats};

/// How many peers keep a record (the specification's k).
pub const K: usize = 20;
