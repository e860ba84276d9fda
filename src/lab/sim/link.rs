//! Links as rate servers: chunks stand in line, whole.
//!
//! Each connection has a line of its own, and the lines take turns on the up-link, as TCP connections
//! that share a link do (in whole chunks here, in packets there).
//!
//! A chunk passes the sender's up-link, then a delay, then the receiver's down-link. Its packets do
//! not wait for each other: it has arrived when the up-link, the delay and the down-link have all had
//! time for it, not their sum. Control messages are small: they overtake chunks and push them back.

use std::collections::VecDeque;
use std::time::Duration;

use crate::units::Time;

/// A chunk that waits for an up-link or passes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parcel {
    pub to: u32,
    /// The connection it belongs to.
    pub conn: u32,
    pub chunk: u32,
    pub len: u32,
}

/// A peer's up-link.
#[derive(Debug)]
pub struct UpLink {
    rate: f64,
    /// One for each connection with something to send; the first is next.
    lines: VecDeque<VecDeque<Parcel>>,
    /// The connection whose chunk is under way.
    busy: Option<u32>,
    /// Bytes of control that passed and are not accounted for yet.
    control: u64,
    /// Time during which it had something to send.
    pub busy_s: f64,
}

impl UpLink {
    /// `rate` in bytes a second.
    pub fn new(rate: f64) -> UpLink {
        UpLink { rate, lines: VecDeque::new(), busy: None, control: 0, busy_s: 0.0 }
    }

    pub fn push(&mut self, parcel: Parcel) {
        match self.lines.iter_mut().find(|l| l.front().is_some_and(|p| p.conn == parcel.conn)) {
            Some(line) => line.push_back(parcel),
            None => self.lines.push_back(VecDeque::from([parcel])),
        }
    }

    pub fn note_control(&mut self, bytes: u32) {
        self.control += u64::from(bytes);
    }

    /// How long `bytes` take.
    pub fn time_of(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.rate)
    }

    /// How long a control message on `conn` waits: in the queue before a busy link, and in the socket if
    /// chunks of its own connection fill that.
    pub fn control_waits(&self, conn: u32, queue: Duration, send_buffer: u64) -> Duration {
        let Some(busy) = self.busy else { return Duration::ZERO };
        let ours = busy == conn || self.lines.iter().any(|l| l.front().is_some_and(|p| p.conn == conn));
        queue + if ours { self.time_of(send_buffer) } else { Duration::ZERO }
    }

    /// The next parcel starts now, if none is under way; with the time that it takes.
    pub fn start(&mut self) -> Option<(Parcel, Duration)> {
        if self.busy.is_some() {
            return None;
        }
        let mut line = self.lines.pop_front()?;
        let parcel = line.pop_front()?;
        if !line.is_empty() {
            self.lines.push_back(line);
        }
        let control = std::mem::take(&mut self.control);
        let took = self.time_of(u64::from(parcel.len) + control);
        self.busy = Some(parcel.conn);
        self.busy_s += took.as_secs_f64();
        Some((parcel, took))
    }

    pub fn done(&mut self) {
        self.busy = None;
    }

    /// Forgets what waits for a connection that is gone; says how many bytes that were.
    pub fn drop_line(&mut self, conn: u32) -> u64 {
        let before = self.waiting();
        self.lines.retain(|l| l.front().is_some_and(|p| p.conn != conn));
        before - self.waiting()
    }

    /// Bytes of the chunks that have not begun.
    pub fn waiting(&self) -> u64 {
        self.lines.iter().flatten().map(|p| u64::from(p.len)).sum()
    }
}

/// A peer's down-link.
#[derive(Debug)]
pub struct DownLink {
    rate: f64,
    free: Time,
}

impl DownLink {
    pub fn new(rate: f64) -> DownLink {
        DownLink { rate, free: Time::ZERO }
    }

    pub fn time_of(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.rate)
    }

    /// When a chunk begins to need the link: not before its first packet comes, and late enough to be
    /// done with its last one.
    pub fn begins(&self, first: Time, last: Time, len: u32) -> Time {
        first.max(last - self.time_of(u64::from(len)))
    }

    /// Takes a chunk at the time that [`DownLink::begins`] gave; says when it has arrived.
    pub fn take(&mut self, now: Time, len: u32) -> Time {
        self.free = self.free.max(now) + self.time_of(u64::from(len));
        self.free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(s: f64) -> Time {
        Time::from_secs_f64(s)
    }

    #[test]
    fn a_chunk_over_a_fast_down_link_takes_the_up_links_time() {
        let (mut up, mut down) = (UpLink::new(100.0), DownLink::new(400.0));
        up.push(Parcel { to: 1, conn: 1, chunk: 0, len: 100 });
        let (_, took) = up.start().unwrap();
        assert_eq!(took, Duration::from_secs(1));
        let begins = down.begins(secs(0.5), secs(1.5), 100);
        assert_eq!(begins, secs(1.25));
        assert_eq!(down.take(begins, 100), secs(1.5));
    }

    #[test]
    fn a_slow_down_link_lets_chunks_wait() {
        let mut down = DownLink::new(50.0);
        let begins = down.begins(secs(0.0), secs(1.0), 100);
        assert_eq!(begins, secs(0.0));
        assert_eq!(down.take(begins, 100), secs(2.0));
        assert_eq!(down.take(secs(1.0), 100), secs(4.0));
    }

    #[test]
    fn control_pushes_the_next_chunk_back() {
        let mut up = UpLink::new(100.0);
        up.note_control(50);
        up.push(Parcel { to: 1, conn: 1, chunk: 0, len: 100 });
        up.push(Parcel { to: 1, conn: 1, chunk: 1, len: 100 });
        assert_eq!(up.start().unwrap().1, Duration::from_millis(1500));
        assert!(up.start().is_none(), "one at a time");
        up.done();
        assert_eq!(up.start().unwrap().1, Duration::from_secs(1));
    }

    #[test]
    fn control_waits_behind_what_its_socket_and_the_link_hold() {
        let (mut up, ms) = (UpLink::new(1000.0), Duration::from_millis);
        assert_eq!(up.control_waits(1, ms(50), 100), ms(0), "the link is idle");
        up.push(Parcel { to: 1, conn: 1, chunk: 0, len: 500 });
        up.push(Parcel { to: 2, conn: 2, chunk: 0, len: 500 });
        up.start().unwrap();
        let waits = [1, 2, 3].map(|conn| up.control_waits(conn, ms(50), 100));
        assert_eq!(waits, [ms(150), ms(150), ms(50)]);
    }

    #[test]
    fn connections_take_turns() {
        let mut up = UpLink::new(1.0);
        for (conn, chunk) in [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (3, 31)] {
            up.push(Parcel { to: conn, conn, chunk, len: 1 });
        }
        assert_eq!(up.drop_line(3), 2);
        let order: Vec<u32> = std::iter::from_fn(|| {
            up.done();
            up.start().map(|p| p.0.chunk)
        })
        .collect();
        assert_eq!(order, [10, 20, 11, 12]);
    }
}
