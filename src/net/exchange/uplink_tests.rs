//! The pace on a modelled way out: one queue for all links, then each receiver's own.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::uplink::{Turn, Uplink};
use crate::net::transport::Paced;

const PIECE: u64 = 16 << 10;
/// What a connection holds that has not come yet.
const HOLDS: usize = 12;

/// What happens next, by time in microseconds.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Write(usize),
    Receipt { link: usize, bytes: u64, at: u64 },
}

struct Receiver {
    /// It is on this side of the way out.
    near: bool,
    /// Bytes a second that it takes.
    rate: f64,
    /// When what it was sent is all there.
    free_at: f64,
    /// When what is under way arrives.
    under_way: VecDeque<f64>,
    came: u64,
    told_at: f64,
    /// What it adds to the times that it tells, by its number of receipts.
    lies: fn(u64) -> i64,
    receipts: u64,
}

struct World {
    start: Instant,
    uplink: Uplink,
    paced: Paced,
    /// Bytes a second, from that time on.
    capacity: Vec<(f64, f64)>,
    free_at: f64,
    receivers: Vec<Receiver>,
    due: BinaryHeap<Reverse<(u64, Next)>>,
    /// When each piece was written, how long it queued, when it arrived, to whom.
    log: Vec<(f64, f64, f64, usize)>,
    noise: u64,
    waited: bool,
    /// How often somebody asked for a turn.
    asked: usize,
    /// This link ends the next time that it would write.
    ends: Option<usize>,
    /// Nobody writes within this time.
    pause: (f64, f64),
    /// Of each second only so much is written in.
    busy: f64,
    /// Nobody writes then since connections take no more, and not for want of something to send.
    held_up: bool,
    /// What arrives is passed on late now and then, by this at the most.
    late: f64,
    /// Connections go on searching whether there is a pace or not.
    searching: bool,
    /// Who finds a longer queue on the way out, in seconds, loses a packet, which is sent again at once.
    overflows: f64,
}

const WAY: f64 = 0.010;

impl World {
    fn new(capacity: &[(f64, f64)], rates: &[f64]) -> World {
        let start = Instant::now();
        let receiver = |rate: &f64| Receiver {
            near: false,
            rate: *rate,
            free_at: 0.0,
            under_way: VecDeque::new(),
            came: 0,
            told_at: -1.0,
            lies: |_| 0,
            receipts: 0,
        };
        let paced = Paced::default();
        let mut uplink = Uplink::new(start, paced.clone());
        (0..rates.len()).for_each(|i| uplink.answers(i as u64));
        World {
            start,
            uplink,
            paced,
            capacity: capacity.to_vec(),
            free_at: 0.0,
            receivers: rates.iter().map(receiver).collect(),
            due: (0..rates.len()).map(|i| Reverse((i as u64 * 1_000, Next::Write(i)))).collect(),
            log: Vec::new(),
            noise: 7,
            waited: false,
            asked: 0,
            ends: None,
            pause: (0.0, 0.0),
            busy: 1.0,
            held_up: false,
            late: 0.0,
            searching: false,
            overflows: f64::MAX,
        }
    }

    /// When what arrives at that time is passed on.
    fn passed_on(&self, arrives: f64) -> f64 {
        let span = (arrives / 0.2).floor() as u32;
        let part = f64::from(span.wrapping_mul(2_654_435_769) >> 16) / 65_536.0;
        arrives + self.late * part
    }

    /// Up to six milliseconds, which a scheduler may be late by.
    fn jitter(&mut self) -> f64 {
        self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.noise >> 40) as f64 / (1u64 << 24) as f64 * 0.006
    }

    fn at(&mut self, seconds: f64, next: Next) {
        self.due.push(Reverse(((seconds * 1e6) as u64, next)));
    }

    fn run(&mut self, until: f64) {
        while let Some(Reverse((micros, next))) = self.due.pop() {
            let now = micros as f64 / 1e6;
            if now > until {
                self.due.push(Reverse((micros, next)));
                return;
            }
            let instant = self.start + Duration::from_micros(micros);
            match next {
                Next::Write(link) => self.write(link, now, instant),
                Next::Receipt { link, bytes, at } => {
                    self.uplink.came(link as u64, bytes, at, instant).unwrap();
                }
            }
        }
    }

    fn write(&mut self, link: usize, now: f64, instant: Instant) {
        if self.ends == Some(link) {
            return self.uplink.leave_line(link as u64);
        }
        let goes_on = match now {
            _ if (self.pause.0..self.pause.1).contains(&now) => self.pause.1,
            _ if now.fract() > self.busy => now.ceil(),
            _ => now,
        };
        if goes_on > now {
            if !self.held_up {
                self.uplink.rests(link as u64);
            }
            return self.at(goes_on, Next::Write(link));
        }
        let r = &mut self.receivers[link];
        while r.under_way.front().is_some_and(|t| *t <= now) {
            r.under_way.pop_front();
        }
        if r.under_way.len() >= HOLDS {
            let free = r.under_way[0] + 1e-6;
            return self.at(free, Next::Write(link));
        }
        let turn = self.uplink.turn(link as u64, PIECE as usize, instant);
        self.waited |= turn != Turn::Now;
        self.asked += 1;
        let due = match turn {
            Turn::Now => now,
            Turn::At(t) => t.duration_since(self.start).as_secs_f64(),
            Turn::Again(t) => {
                let then = t.duration_since(self.start).as_secs_f64() + self.jitter() / 6.0;
                return self.at(then, Next::Write(link));
            }
        };
        let leaves = due + self.jitter();
        let carries = self.capacity.iter().rev().find(|(from, _)| *from <= leaves).unwrap().1;
        let r = &mut self.receivers[link];
        let out = match r.near {
            true => leaves,
            false => self.free_at.max(leaves) + PIECE as f64 / carries,
        };
        if !r.near {
            self.free_at = out;
        }
        if self.searching && self.paced.get() {
            self.paced.search();
        }
        self.paced.lose(u32::from(out - leaves > self.overflows));
        let arrives = r.free_at.max(out) + PIECE as f64 / r.rate;
        r.free_at = arrives;
        let arrives = self.passed_on(arrives + WAY);
        let r = &mut self.receivers[link];
        let arrives = r.under_way.back().map_or(arrives, |before| arrives.max(*before));
        r.under_way.push_back(arrives);
        r.came += PIECE;
        if arrives - r.told_at >= 0.1 {
            r.told_at = arrives;
            r.receipts += 1;
            let at = (arrives * 1e6) as i64 + (r.lies)(r.receipts) + 5_000_000_000 * link as i64;
            let bytes = r.came;
            let there = arrives + WAY + self.jitter();
            self.at(there, Next::Receipt { link, bytes, at: at as u64 });
        }
        self.log.push((leaves, out - leaves, arrives, link));
        self.at(leaves + 0.000_2, Next::Write(link));
    }

    /// Bytes a second that arrived between two times, at those that the test names.
    fn rate(&self, from: f64, to: f64, whose: impl Fn(usize) -> bool) -> f64 {
        let came = self.log.iter().filter(|l| (from..to).contains(&l.2) && whose(l.3)).count();
        came as f64 * PIECE as f64 / (to - from)
    }

    /// Seconds that a piece queued on the way out, on average.
    fn queue(&self, from: f64, to: f64) -> f64 {
        let of = || self.log.iter().filter(|l| (from..to).contains(&l.0));
        of().map(|l| l.1).sum::<f64>() / of().count().max(1) as f64
    }
}

const QUICK: f64 = 1e9;

#[test]
fn several_links_fill_the_way_out_and_its_queue_stays_short() {
    // The engine has few chunks under way at a time where the way out is slow (`engine/window.rs`).
    for (capacity, all) in [(500e3, [2, 3, 8]), (2e6, [2, 8, 20]), (4e6, [2, 8, 20]), (9e6, [2, 8, 20])] {
        for links in all {
            let mut w = World::new(&[(0.0, capacity)], &vec![QUICK; links]);
            w.run(25.0);
            let (rate, queue) = (w.rate(12.0, 25.0, |_| true) / capacity, w.queue(12.0, 25.0));
            assert!(rate > 0.96, "{capacity} {links}: {rate}");
            // Of many links the queues hold more than is let out, and some have never seen it empty.
            let before = w.queue(0.5, 1.5);
            let most = if links > 8 { before / 4.0 } else { 0.05_f64.max(8.0 * PIECE as f64 / capacity) };
            assert!(queue < most, "{capacity} {links}: {before} before, {queue}");
        }
    }
}

#[test]
fn one_link_alone_waits_for_nothing() {
    let mut w = World::new(&[(0.0, 2e6)], &[QUICK]);
    w.run(7.0);
    assert!(!w.waited);
    // Nor for long, if its connection searches nevertheless; and then never again.
    w.searching = true;
    w.run(11.0);
    w.waited = false;
    w.run(60.0);
    assert!(!w.waited && !w.paced.get());
    assert!(w.rate(7.0, 11.0, |_| true) > 0.99 * 2e6, "{}", w.rate(7.0, 11.0, |_| true));
}

/// A lone connection lost a quarter of a second every ten: BBR looked for the smallest round trip (ProbeRTT).
#[test]
fn one_link_that_is_alone_for_long_has_a_pace_before_its_connection_searches() {
    for capacity in [0.3e6, 2e6, 3e6] {
        let mut w = World::new(&[(0.0, capacity)], &[QUICK]);
        w.run(9.5);
        assert!(w.paced.get(), "{capacity}");
        w.run(40.0);
        assert!(w.paced.get(), "{capacity}");
        let rate = w.rate(7.0, 40.0, |_| true) / capacity;
        assert!(rate > 0.98, "{capacity}: {rate}");
        let queue = w.queue(12.0, 40.0);
        assert!(queue < 0.045 + PIECE as f64 / capacity, "{capacity}: {queue}");
    }
}

/// Of a seed and two leechers each leecher sends to one alone, and takes what both send: with a pace that took 2 % longer.
#[test]
fn one_alone_that_takes_chunks_too_has_no_pace() {
    let mut w = World::new(&[(0.0, 2e6)], &[QUICK]);
    for tenth in 1..200u32 {
        w.run(f64::from(tenth) / 10.0);
        w.uplink.takes(w.start + Duration::from_millis(100) * tenth);
    }
    assert!(!w.waited);
    w.run(30.0);
    assert!(w.paced.get());
    w.uplink.takes(w.start + Duration::from_secs(30));
    w.run(30.2);
    assert!(!w.paced.get());
}

/// Who has a pace alone may have it because it takes no more itself.
#[test]
fn whoever_joins_one_alone_is_not_held_to_its_pace() {
    let mut w = World::new(&[(0.0, 2e6)], &[0.2e6, QUICK]);
    w.due.retain(|Reverse((_, next))| *next == Next::Write(0));
    w.run(20.0);
    assert!(w.paced.get());
    w.at(20.0, Next::Write(1));
    w.run(21.0);
    assert!(w.rate(20.1, 21.0, |l| l == 1) > 0.8 * 2e6, "{}", w.rate(20.1, 21.0, |l| l == 1));
    // And both together have one of their own.
    w.run(26.0);
    w.waited = false;
    w.run(28.0);
    assert!(w.paced.get() && w.waited);
}

#[test]
fn one_alone_that_pauses_is_alone_anew() {
    let mut w = World::new(&[(0.0, 2e6)], &[QUICK]);
    w.pause = (6.0, 6.8);
    w.run(13.0);
    assert!(!w.waited);
    w.run(16.5);
    assert!(w.paced.get());
}

/// Its connection finds what the way out carries now; a pace would have to be given up again and again.
#[test]
fn one_alone_that_meets_no_queue_any_more_has_no_pace_any_more() {
    let mut w = World::new(&[(0.0, 2e6), (12.0, 60e6), (30.0, 2e6)], &[QUICK]);
    w.run(11.0);
    assert!(w.paced.get());
    w.run(30.0);
    assert!(!w.paced.get());
    w.waited = false;
    w.run(50.0);
    assert!(!w.waited && !w.paced.get());
}

#[test]
fn on_a_fast_way_out_nobody_waits() {
    let mut w = World::new(&[(0.0, 50e6)], &[QUICK; 4]);
    w.run(10.0);
    assert!(!w.waited);
}

#[test]
fn connections_are_told_while_there_is_a_pace() {
    let mut w = World::new(&[(0.0, 4e6)], &[QUICK; 2]);
    w.run(0.5);
    assert!(!w.paced.get());
    w.run(12.0);
    assert!(w.paced.get());
    w.ends = Some(1);
    w.run(12.6);
    w.waited = false;
    w.run(18.5);
    assert!(!w.waited, "the other is alone");
    w.run(21.0);
    assert!(w.paced.get() && w.waited, "it is alone for long");
    w.searching = true;
    w.run(30.0);
    assert!(!w.paced.get(), "its connection searches nevertheless");
}

#[test]
fn peers_that_say_nothing_wait_for_nothing() {
    let start = Instant::now();
    let mut uplink = Uplink::new(start, Paced::default());
    for i in 0..10_000 {
        assert_eq!(uplink.turn(i % 4, PIECE as usize, start + Duration::from_millis(i)), Turn::Now);
    }
}

#[test]
fn a_slow_receiver_holds_nobody_up() {
    let mut w = World::new(&[(0.0, 4e6)], &[QUICK, QUICK, 100e3, QUICK]);
    w.run(25.0);
    let others = w.rate(8.0, 25.0, |l| l != 2);
    assert!(others > 0.94 * 3.9e6, "{others}");
    assert!(w.rate(8.0, 25.0, |l| l == 2) > 80e3);
}

#[test]
fn receivers_that_are_slower_than_the_way_out_get_what_they_take() {
    let mut w = World::new(&[(0.0, 10e6)], &[400e3, 300e3, 800e3]);
    w.run(25.0);
    let rate = w.rate(8.0, 25.0, |_| true);
    assert!(rate > 0.94 * 1.5e6, "{rate}");
}

#[test]
fn a_way_out_that_changes_is_followed() {
    let mut w = World::new(&[(0.0, 4e6), (12.0, 2e6), (24.0, 6e6)], &[QUICK; 5]);
    w.run(48.0);
    let (half, queue) = (w.rate(15.0, 24.0, |_| true), w.queue(16.0, 24.0));
    assert!(half > 0.95 * 2e6 && queue < 0.08, "{half} {queue}");
    let (more, queue) = (w.rate(36.0, 48.0, |_| true), w.queue(36.0, 48.0));
    assert!(more > 0.94 * 6e6 && queue < 0.05, "{more} {queue}");
}

/// Where whatever came was late by up to 200 ms, ever differently, whoever was told of it slowed down, what came was less in
/// turn, and a link of 2 MB/s was held to 1.0 with nothing in its queue.
#[test]
fn lateness_that_nothing_sent_could_make_slows_nobody_down() {
    for late in [0.05, 0.1, 0.2, 0.3] {
        for links in [3, 8] {
            let mut w = World::new(&[(0.0, 2e6)], &vec![QUICK; links]);
            w.run(8.0);
            w.late = late;
            w.run(40.0);
            let (rate, queue) = (w.rate(12.0, 40.0, |_| true), w.queue(12.0, 40.0));
            assert!(rate > 0.96 * 2e6 && queue < 0.05, "{late} {links}: {rate} {queue}");
        }
    }
}

/// A connection that had waited for something lost sent at once what it held. The queue that this made was taken for
/// lateness for a second, in which more was lost.
#[test]
fn a_queue_that_overflows_is_believed_however_fast_it_grew() {
    let after = |overflows: f64| {
        let mut w = World::new(&[(0.0, 2e6), (12.0, 700e3), (12.1, 2e6)], &[QUICK; 8]);
        w.overflows = overflows;
        w.run(25.0);
        assert!(w.queue(12.1, 12.3) > 0.15 && w.rate(13.0, 25.0, |_| true) > 0.96 * 2e6);
        w.queue(12.8, 13.1)
    };
    let (lost, not) = (after(0.1), after(f64::MAX));
    assert!(lost < 0.06 && not > 2.0 * lost, "{lost} where something was lost, {not} where nothing was");
}

/// Of eight leechers some had measured their way out at two thirds, as there was little to send at first, and were held
/// to that for 20 s: connections that are slow for a moment make delays jump, and each jump was taken for a queue.
#[test]
fn a_pace_that_is_too_low_grows_though_delays_jump() {
    let jumps = |n: u64| match n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56 {
        0..20 => 80_000,
        20..140 => 16_000,
        _ => 0,
    };
    let mut w = World::new(&[(0.0, 1.2e6), (10.0, 1.9e6)], &[QUICK; 3]);
    w.receivers.iter_mut().for_each(|r| r.lies = jumps);
    w.run(25.0);
    for from in [14.0, 16.0, 18.0, 20.0, 22.0] {
        let rate = w.rate(from, from + 2.0, |_| true);
        assert!(rate > 0.93 * 1.9e6, "{from}: {rate}");
    }
}

#[test]
fn a_liar_slows_nobody_down() {
    let lies: [fn(u64) -> i64; 2] = [
        // More and more late, and as early as can be said.
        |n| n as i64 * 50_000,
        |n| n as i64 - 1_000_000,
    ];
    for lie in lies {
        let mut w = World::new(&[(0.0, 4e6)], &[QUICK; 4]);
        w.receivers[1].lies = lie;
        w.run(25.0);
        let honest = w.rate(8.0, 25.0, |l| l != 1);
        assert!(honest > 0.7 * 4e6, "{honest}");
        assert!(w.rate(8.0, 25.0, |_| true) > 0.94 * 4e6);
    }
}

/// A link whose stream ended while it was its turn stays for some seconds, since what is under way may still come.
#[test]
fn a_link_that_ends_in_line_holds_nobody_up() {
    for link in 0..4 {
        let mut w = World::new(&[(0.0, 1e6)], &[QUICK; 4]);
        w.run(12.0);
        w.ends = Some(link);
        w.run(16.0);
        let rate = w.rate(13.0, 16.0, |_| true);
        assert!(rate > 0.94 * 1e6, "{rate}");
    }
}

#[test]
fn somebody_near_is_not_held_to_what_the_way_out_carries() {
    let mut w = World::new(&[(0.0, 1e6)], &[QUICK; 4]);
    w.receivers[3].near = true;
    w.due.retain(|Reverse((_, next))| *next != Next::Write(3));
    w.run(12.0);
    assert!(w.waited);
    w.at(12.0, Next::Write(3));
    w.run(25.0);
    let (near, far) = (w.rate(17.0, 25.0, |l| l == 3), w.rate(17.0, 25.0, |l| l != 3));
    assert!(near > 5e6 && far > 0.95 * 1e6, "{near} {far}");
}

/// What had been seen before a pause was taken for a busy way out after it, which had carried nothing for seconds: 16 kB/s
/// were left for everybody.
#[test]
fn after_a_pause_nobody_is_held_to_what_came_in_it() {
    for length in [2.0, 8.0, 15.0, 100.0] {
        let mut w = World::new(&[(0.0, 4e6)], &[QUICK; 4]);
        w.pause = (12.0, 12.0 + length);
        w.run(20.0 + length);
        let rate = w.rate(12.5 + length, 20.0 + length, |_| true);
        assert!(rate > 0.9 * 4e6, "{length}: {rate}");
    }
}

#[test]
fn bursts_with_pauses_are_no_busy_way_out() {
    let mut w = World::new(&[(0.0, 4e6)], &[QUICK; 3]);
    w.busy = 0.6;
    w.run(30.0);
    assert!(!w.waited);
}

/// Connections that waited for what was lost took nothing for a third of a second at a time. That was taken for a pause, and what
/// the way out carries was measured after nine seconds in place of two.
#[test]
fn who_is_held_up_by_its_connection_has_not_paused() {
    let mut w = World::new(&[(0.0, 2e6)], &[QUICK; 8]);
    (w.busy, w.held_up) = (0.6, true);
    w.run(6.0);
    assert!(w.waited);
}

/// The way out was measured while there was little to send, and a moment's lateness ended the growth: with a fifth less than it
/// carries three seconds went by without a queue, and the pace was given up as that of another way out.
#[test]
fn nobody_is_held_to_less_than_what_came() {
    let mut w = World::new(&[(0.0, 2e6)], &[QUICK; 4]);
    (w.pause, w.held_up) = ((1.0, 1.8), true);
    w.receivers.iter_mut().for_each(|r| r.lies = |n| if (27..31).contains(&n) { 40_000 } else { 0 });
    w.run(4.5);
    for tenth in 45..120 {
        w.run(f64::from(tenth) / 10.0);
        assert!(w.paced.get(), "after {tenth} tenths of a second");
    }
    let rate = w.rate(4.0, 6.0, |_| true) / 2e6;
    assert!(rate > 0.95, "{rate}");
}

/// All that waited asked again when the first of them was due: with eight of them six times for each piece.
#[test]
fn whoever_waits_asks_again_when_its_turn_is_near() {
    for (links, most) in [(2, 2.5), (8, 2.5), (20, 3.5)] {
        let mut w = World::new(&[(0.0, 2e6)], &vec![QUICK; links]);
        w.run(10.0);
        let (asked, sent) = (w.asked, w.log.len());
        w.run(25.0);
        let each = (w.asked - asked) as f64 / (w.log.len() - sent) as f64;
        assert!(each < most, "{links}: {each}");
    }
}

#[test]
fn a_link_is_alone_while_there_is_no_other() {
    let start = Instant::now();
    let mut uplink = Uplink::new(start, Paced::default());
    assert!(uplink.is_alone(1));
    uplink.turn(1, 1_000, start);
    assert!(uplink.is_alone(1) && !uplink.is_alone(2));
    uplink.answers(2);
    assert!(!uplink.is_alone(1), "it may be chosen next, though nothing was sent to it yet");
    uplink.remove(2);
    assert!(uplink.is_alone(1));
}
