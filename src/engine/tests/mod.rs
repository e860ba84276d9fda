//! Engines joined by a virtual link, in virtual time, and single ones driven by hand.

mod fetching;
mod first;
mod fuzz;
mod merging;
mod net;
mod one;
mod picker;
mod serving;
mod swarms;
