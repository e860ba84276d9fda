//! The one place where the node reads a clock for the engine: wall time at the start, so that what the
//! ledger keeps makes sense after a restart, and monotonic from there, so that a clock that is set back
//! or forth moves nothing.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::units::Time;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Time,
    start: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { base: Time::ZERO + wall, start: Instant::now() }
    }

    pub fn now(&self) -> Time {
        self.base + self.start.elapsed()
    }

    /// When `t` will be, for a runtime's timer.
    pub fn instant(&self, t: Time) -> Instant {
        // A year is as good as never, and cannot overflow the platform's Instant.
        self.start + t.since(self.base).min(self.start.elapsed() + Duration::from_secs(365 * 86_400))
    }
}
