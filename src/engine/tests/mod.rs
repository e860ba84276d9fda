//! Engines joined by a virtual link, in virtual time: the main test of the engine.

mod fuzz;
mod net;
mod policies;
mod swarms;
