//! How much of a block is handed to the connection at once.
//!
//! What is handed over is decided: it stands in front of every control message, and of the choice what goes
//! next. yamux makes a frame of each write, never interrupts one, and takes eleven of a stream before its
//! writer has to wait. So a write is what the link carries in a few milliseconds: long where it is fast, since
//! each costs some work, short where it is slow. (With frames of 128 KiB a request waited behind chunks for
//! 150 to 400 ms on a link of 16 Mbit/s, and a seed had given away more than a megabyte when it learned what
//! others had sent.)

use std::time::Duration;

use crate::net::transport::FRAME;

/// How long a write should keep the link busy.
const SPAN: Duration = Duration::from_millis(2);
/// The same with no other link: there is nothing to choose from, and fewer headers go over the link.
const ALONE: Duration = Duration::from_millis(20);
/// The least that is written at once (headers of yamux and TLS take 0.2 % of so little), and the most: longer
/// writes are cut into frames of that.
const LEAST: usize = 16 << 10;
const MOST: usize = FRAME;
/// What yamux puts in front of each write: the least and its header are one record of TLS.
const HEADER: usize = 12;
/// The shortest piece.
pub const SHORT: usize = LEAST - HEADER;
/// The rate is that of about so long: longer than what waits on the way takes to leave, which the first
/// blocks after a pause fill at once, whatever the link carries.
const MEMORY: Duration = Duration::from_millis(100);

/// The rate at which one peer's data stream takes bytes, and what follows from it.
#[derive(Debug, Default)]
pub struct Pace {
    /// Bytes a second, pauses included: after one it is found anew, which a fast link does in some ten
    /// milliseconds.
    rate: u64,
}

impl Pace {
    /// Bytes to write at once, with no other link (`alone`) or with others; with yamux's header a power of two.
    pub fn piece(&self, alone: bool) -> usize {
        let span = if alone { ALONE } else { SPAN };
        let bytes = u128::from(self.rate) * span.as_micros() / 1_000_000;
        let bytes = usize::try_from(bytes).unwrap_or(MOST).clamp(LEAST, MOST);
        (1 << bytes.ilog2()) - HEADER
    }

    /// So many bytes were taken, `since` the last time that this was said.
    pub fn wrote(&mut self, bytes: usize, since: Duration) {
        // rate' = rate + (bytes / since - rate) * since / (since + MEMORY)
        let (since, memory) = (since.as_nanos(), MEMORY.as_nanos());
        let kept = u128::from(self.rate) * memory;
        let fresh = bytes as u128 * 1_000_000_000;
        self.rate = u64::try_from((kept + fresh) / (since + memory)).unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = 262_144;

    /// So many chunks one after the other at this rate.
    fn send(pace: &mut Pace, chunks: usize, rate: u64) {
        let took = Duration::from_nanos(CHUNK as u64 * 1_000_000_000 / rate);
        (0..chunks).for_each(|_| pace.wrote(CHUNK, took));
    }

    #[test]
    fn a_write_is_two_milliseconds_of_the_link_within_the_limits() {
        for (rate, piece) in [
            (10_000, LEAST),
            (2_000_000, LEAST),
            (12_500_000, 16 << 10),
            (20_000_000, 32 << 10),
            (40_000_000, 64 << 10),
            (1_000_000_000, MOST),
        ] {
            let mut pace = Pace::default();
            assert_eq!(pace.piece(false) + HEADER, LEAST);
            send(&mut pace, 500, rate);
            assert_eq!(pace.piece(false) + HEADER, piece, "{rate}");
        }
    }

    #[test]
    fn a_link_that_sends_alone_is_written_to_in_longer_pieces() {
        for (rate, piece) in [(500_000, LEAST), (4_000_000, 64 << 10), (12_500_000, MOST)] {
            let mut pace = Pace::default();
            send(&mut pace, 500, rate);
            assert_eq!(pace.piece(true) + HEADER, piece, "{rate}");
        }
    }

    #[test]
    fn a_fast_link_is_known_within_a_few_megabytes() {
        let mut pace = Pace::default();
        send(&mut pace, 40, 600_000_000);
        assert_eq!(pace.piece(false) + HEADER, MOST);
    }

    /// Two chunks at once every 262 ms, each pair taken without a wait by what is buffered on the way: the first
    /// measure of this, bytes over the time that they took, grew without bound, and with it what was buffered.
    #[test]
    fn what_buffers_swallow_is_not_the_rate_of_the_link() {
        let mut pace = Pace::default();
        for _ in 0..20 {
            pace.wrote(CHUNK, Duration::from_millis(262));
            assert_eq!(pace.piece(false) + HEADER, LEAST);
            pace.wrote(CHUNK, Duration::from_micros(20));
            assert!(pace.piece(false) <= 2 * LEAST);
        }
    }

    #[test]
    fn after_a_pause_it_is_found_anew() {
        let mut pace = Pace::default();
        send(&mut pace, 500, 600_000_000);
        pace.wrote(CHUNK, Duration::from_secs(60));
        assert_eq!(pace.piece(false) + HEADER, LEAST);
    }
}
