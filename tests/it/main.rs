//! The integration tests: real `dunlin` processes over loopback, each with a data directory of its own.
//!
//! Nothing here sleeps for a fixed time: a test waits for lines, exits and files, and gives up after
//! [`support::home::LONG`]. What is random follows from a seed that is printed.

mod attach;
mod bitswap;
mod changed;
mod cli;
mod crowd;
mod dht;
mod disk_full;
mod foreign;
mod hostile;
mod hostile_dags;
mod interop;
mod kill;
mod lab;
mod layering;
mod ledger;
mod limits;
mod merging;
mod pause;
mod pex;
mod providing;
mod reading;
mod silent;
mod stuck;
mod support;
mod timeout;
mod transfer;
mod vectors;
mod wan;
