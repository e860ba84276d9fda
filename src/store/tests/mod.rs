//! The suite that both stores pass, then what only a file system can do, then the two against each other.

pub(in crate::store) mod bench;
mod fs;
mod import;
mod power;
mod random;
mod suite;
