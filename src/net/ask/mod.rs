//! Requests to servers of a DHT: one goes out, one answer or a failure comes back.
//!
//! libp2p-kad has no call that sends one message to one peer, and each of its queries is a walk. This
//! behaviour dials where it must, opens a stream for each job, writes its requests, and reads what answers
//! the last of them. Provider records are many requests without an answer on one stream, whose end the
//! server's side of the negotiation confirms.

mod behaviour;
mod handler;
mod upgrade;

pub use behaviour::{AskId, Behaviour, Event};
pub use upgrade::Job;
