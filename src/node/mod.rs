//! The node: engine, store and network wired together.
//!
//! [`NodeHandle`] is what the control API and the command line hold. Behind it one task, the
//! [`driver`], owns the swarm engine; worker threads hash, read and write; libp2p runs in a task of its own.

mod actions;
pub mod api;
mod arriving;
mod bitswap;
mod budget;
mod call;
mod checkpoints;
mod clock;
pub mod config;
mod contents;
mod discovery;
mod driver;
mod fetching;
mod finding;
mod handle;
mod holding;
mod inbound;
mod ledger;
mod limits;
pub mod lock;
mod merging;
mod parts;
mod pausing;
mod peers;
mod pex;
mod providing;
mod reading;
mod stuck;
#[cfg(test)]
mod tests;
mod walk;
mod workers;
#[cfg(test)]
mod world;

pub use config::NodeConfig;
pub use handle::NodeHandle;
