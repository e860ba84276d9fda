//! The exchange's streams: opened, paired, and handed to tasks that read and write them.
//!
//! A *link* is one pair of streams of ours (CONTROL and DATA, which only we write) and one of the
//! peer's. [`behaviour`] decides which pairs belong together, [`handler`] opens and receives streams on
//! a connection, [`upgrade`] says hello on each, [`link`] keeps a link's tasks and [`io`] is what they do.

mod behaviour;
mod handler;
mod io;
mod link;
mod pace;
mod queue;
mod receipts;
mod upgrade;
mod uplink;
#[cfg(test)]
mod uplink_tests;

pub use behaviour::{Behaviour, Event};
pub use upgrade::PROTOCOL;
