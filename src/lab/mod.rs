//! The lab: what the lectures teach and what the engine does, to look at.
//!
//! Everything here but [`cmd`] is a pure model: no clock, no files, no chance but what a seed gives.

pub mod bounds;
pub mod cmd;
pub mod distribution;
pub mod experiments;
pub mod plot;
pub mod quantity;
pub mod report;
pub mod ring;
pub mod rng;
pub mod scenario;
pub mod show;
pub mod sim;
