//! Which congestion control the kernel uses for a connection.
//!
//! Where all links share one pace (`net/exchange/uplink.rs`) a connection has nothing to find, and BBR goes on searching:
//! whoever has met no smaller round trip for ten seconds sends four packets a round trip for 200 ms (ProbeRTT,
//! <https://datatracker.ietf.org/doc/draft-cardwell-iccrg-bbr-congestion-control/>). The connections of a swarm began together
//! and search together, and what leaves the machine halves for that long. So while there is a pace the kernel is asked for
//! what merely slows down when something is lost. Who loses something again and again gets BBR back for good: such a path is what
//! BBR is for. A queue that overflows once drops many packets, and that says nothing of the path: with one of two connections
//! back at BBR because of that, which keeps no more under way than its path holds when all queues are empty, the other had three
//! quarters of the link. A system that uses something else by itself is left alone.
//!
//! While there is a pace, whoever keeps it is told what is lost: that is what a full queue does, and no lateness. And that a
//! connection searches all the same, or never did: to one that sends alone a pace is of no use then.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::socket::Socket;

const SEARCHES: &str = "bbr";
/// What is used instead, the first that the system allows; without privileges that may be the last alone.
const PLAIN: [&str; 2] = ["cubic", "reno"];
/// How often it is looked for losses, in bytes sent.
const LOOK: u64 = 64 << 10;
/// A packet, at the most; something may be lost once in so many, and so many times more, which the change itself may cost.
const PACKET: u64 = 1_500;
const ONE_IN: u64 = 1_000;
const FEW: u64 = 4;

/// Whether the links share a pace: from who keeps it to all connections. And back, what they lost while there was one.
#[derive(Clone, Debug, Default)]
pub struct Paced(Arc<Shared>);

// Each of them stands for itself: nothing else is read because of it.
#[derive(Debug, Default)]
struct Shared {
    paced: AtomicBool,
    lost: AtomicU64,
    searching: AtomicU64,
}

impl Paced {
    pub fn set(&self, paced: bool) {
        self.0.paced.store(paced, Ordering::Relaxed);
    }

    pub fn get(&self) -> bool {
        self.0.paced.load(Ordering::Relaxed)
    }

    /// A connection that sends goes on as the system made it.
    pub fn search(&self) {
        self.0.searching.fetch_add(1, Ordering::Relaxed);
    }

    /// How often one said so.
    pub fn searching(&self) -> u64 {
        self.0.searching.load(Ordering::Relaxed)
    }

    /// So many packets more were sent again.
    pub fn lose(&self, packets: u32) {
        self.0.lost.fetch_add(u64::from(packets), Ordering::Relaxed);
    }

    /// Packets that were sent again so far.
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

/// What the kernel knows of a connection.
pub trait Kernel {
    /// # Errors
    /// It cannot be told here.
    fn control(&self) -> io::Result<String>;

    /// # Errors
    /// The system has no such control, or does not allow it.
    fn set_control(&self, name: &str) -> io::Result<()>;

    /// Packets that were sent again.
    ///
    /// # Errors
    /// It cannot be told here.
    fn resent(&self) -> io::Result<u32>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// As the system made it.
    Own,
    /// No search, since `sent` bytes; and how often something was lost since, each look counted once.
    Plain { sent: u64, losses: u64 },
    /// Nothing is changed any more.
    Settled,
}

/// One connection's.
#[derive(Debug)]
pub struct Congestion {
    paced: Paced,
    sent: u64,
    state: State,
    /// How many packets had been sent again when it was looked last, and how many bytes sent when it is looked next.
    resent: Option<u32>,
    look: u64,
}

impl Congestion {
    pub fn new(paced: Paced) -> Congestion {
        Congestion { paced, sent: 0, state: State::Own, resent: None, look: 0 }
    }

    pub fn paced(&self) -> bool {
        self.paced.get()
    }

    /// So many bytes more were handed to the kernel.
    pub fn sent(&mut self, bytes: usize, kernel: &impl Kernel) {
        self.sent = self.sent.saturating_add(bytes as u64);
        if !self.paced.get() {
            self.resent = None;
            if let State::Plain { .. } = self.state {
                self.state = search(kernel, State::Own);
            }
        } else if self.sent >= self.look || self.resent.is_none() {
            self.look = self.sent.saturating_add(LOOK);
            match kernel.resent() {
                Ok(resent) => self.looked(kernel, resent),
                Err(_) => self.state = State::Settled,
            }
            if self.state == State::Settled {
                self.paced.search();
            }
        }
    }

    fn looked(&mut self, kernel: &impl Kernel, resent: u32) {
        let lost = resent.wrapping_sub(self.resent.replace(resent).unwrap_or(resent));
        self.paced.lose(lost);
        self.state = match self.state {
            State::Own => self.calm(kernel),
            State::Plain { sent, losses } => {
                let losses = losses + u64::from(lost > 0);
                match losses.saturating_sub(FEW).saturating_mul(PACKET * ONE_IN) > self.sent - sent {
                    true => search(kernel, State::Settled),
                    false => State::Plain { sent, losses },
                }
            }
            State::Settled => State::Settled,
        };
    }

    fn calm(&self, kernel: &impl Kernel) -> State {
        let searches = kernel.control().is_ok_and(|name| name == SEARCHES);
        if searches && PLAIN.iter().any(|name| kernel.set_control(name).is_ok()) {
            State::Plain { sent: self.sent, losses: 0 }
        } else {
            State::Settled
        }
    }
}

fn search(kernel: &impl Kernel, then: State) -> State {
    match kernel.set_control(SEARCHES) {
        Ok(()) => then,
        Err(e) => {
            tracing::debug!("a connection keeps the congestion control that it has: {e}");
            State::Settled
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    /// `TCP_INFO`, tcp(7), as far as every kernel has it: eight bytes, then numbers of 32 bits, the last of which is
    /// `tcpi_total_retrans`.
    #[derive(Clone, Copy, Debug)]
    pub struct Info;
    pub const LEN: usize = 26;
    pub const TOTAL_RETRANS: usize = 25;

    nix::getsockopt_impl!(
        Info,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        [u32; LEN],
        nix::sys::socket::sockopt::GetStruct<[u32; LEN]>
    );
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Kernel for Socket {
    fn control(&self) -> io::Result<String> {
        let name = socket2::SockRef::from(&self.fd()?).tcp_congestion()?;
        Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
    }

    fn set_control(&self, name: &str) -> io::Result<()> {
        socket2::SockRef::from(&self.fd()?).set_tcp_congestion(name.as_bytes())
    }

    fn resent(&self) -> io::Result<u32> {
        Ok(nix::sys::socket::getsockopt(&self.fd()?, linux::Info)?[linux::TOTAL_RETRANS])
    }
}

/// `tcpi_segs_out`, which is not told of by every kernel.
#[cfg(all(test, target_os = "linux"))]
pub fn packets_sent(socket: &Socket) -> u32 {
    const AT: usize = 34;
    nix::getsockopt_impl!(
        Longer,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        [u32; AT + 1],
        nix::sys::socket::sockopt::GetStruct<[u32; AT + 1]>
    );
    #[derive(Clone, Copy, Debug)]
    struct Longer;
    nix::sys::socket::getsockopt(&socket.fd().unwrap(), Longer).unwrap()[AT]
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Kernel for Socket {
    fn control(&self) -> io::Result<String> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_control(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn resent(&self) -> io::Result<u32> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    struct Fake {
        control: RefCell<&'static str>,
        allowed: &'static [&'static str],
        resent: Cell<u32>,
    }

    impl Fake {
        fn new(control: &'static str, allowed: &'static [&'static str]) -> Fake {
            Fake { control: RefCell::new(control), allowed, resent: Cell::new(7) }
        }
    }

    impl Kernel for Fake {
        fn control(&self) -> io::Result<String> {
            Ok((*self.control.borrow()).to_owned())
        }

        fn set_control(&self, name: &str) -> io::Result<()> {
            let allowed = self.allowed.iter().find(|n| **n == name);
            *self.control.borrow_mut() = allowed.ok_or(io::ErrorKind::PermissionDenied)?;
            Ok(())
        }

        fn resent(&self) -> io::Result<u32> {
            Ok(self.resent.get())
        }
    }

    const ALL: &[&str] = &["bbr", "cubic", "reno"];

    #[test]
    fn while_there_is_a_pace_nothing_is_searched_for() {
        for (own, allowed, while_paced) in [
            ("bbr", ALL, "cubic"),
            ("bbr", &["bbr", "reno"][..], "reno"),
            ("bbr", &["bbr"], "bbr"),
            ("cubic", ALL, "cubic"),
            ("reno", ALL, "reno"),
        ] {
            let (paced, kernel) = (Paced::default(), Fake::new(own, allowed));
            let mut one = Congestion::new(paced.clone());
            for _ in 0..2 {
                paced.set(false);
                one.sent(1_000, &kernel);
                assert_eq!(*kernel.control.borrow(), own);
                paced.set(true);
                one.sent(1_000, &kernel);
                assert_eq!(*kernel.control.borrow(), while_paced);
            }
        }
    }

    /// A tenth of a second's worth at a time, of which so many packets of a thousand are sent again.
    fn send(one: &mut Congestion, kernel: &Fake, megabytes: u32, per_mille: u32) {
        for _ in 0..megabytes * 10 {
            kernel.resent.set(kernel.resent.get() + 100_000 / 1_448 * per_mille / 1_000);
            one.sent(100_000, kernel);
        }
    }

    #[test]
    fn who_loses_much_searches_again_and_for_good() {
        let (paced, kernel) = (Paced::default(), Fake::new("bbr", ALL));
        paced.set(true);
        let mut one = Congestion::new(paced.clone());
        one.sent(1_000, &kernel);
        send(&mut one, &kernel, 5, 30);
        assert_eq!(*kernel.control.borrow(), "bbr");
        for again in [false, true] {
            paced.set(again);
            send(&mut one, &kernel, 5, 0);
            assert_eq!(*kernel.control.borrow(), "bbr");
        }
    }

    /// With one packet in a hundred put up with, four leechers that lose three in a thousand took a fifth longer.
    #[test]
    fn three_packets_in_a_thousand_are_much() {
        let (paced, kernel) = (Paced::default(), Fake::new("bbr", ALL));
        paced.set(true);
        let mut one = Congestion::new(paced);
        for _ in 0..20 {
            kernel.resent.set(kernel.resent.get() + 1);
            (0..5).for_each(|_| one.sent(100_000, &kernel));
        }
        assert_eq!(*kernel.control.borrow(), "bbr");
    }

    #[test]
    fn what_was_lost_before_or_with_the_change_does_not_count() {
        let (paced, kernel) = (Paced::default(), Fake::new("bbr", ALL));
        let mut one = Congestion::new(paced.clone());
        send(&mut one, &kernel, 5, 100);
        paced.set(true);
        one.sent(1_000, &kernel);
        kernel.resent.set(kernel.resent.get() + FEW as u32);
        send(&mut one, &kernel, 5, 0);
        assert_eq!(*kernel.control.borrow(), "cubic");
    }

    /// However many packets each time costs: it is no path for CUBIC that loses something twice as often as is put up with.
    #[test]
    fn a_queue_that_overflows_again_and_again_brings_the_search_back() {
        let (paced, kernel) = (Paced::default(), Fake::new("bbr", ALL));
        let mut one = Congestion::new(paced.clone());
        paced.set(true);
        one.sent(1_000, &kernel);
        let mut times = 0;
        while *kernel.control.borrow() == "cubic" {
            kernel.resent.set(kernel.resent.get() + 20);
            one.sent((PACKET * ONE_IN / 2) as usize, &kernel);
            times += 1;
            assert!(times <= 2 * FEW + 2, "still {}", kernel.control.borrow());
        }
        assert!(times > FEW, "{times}");
    }

    /// One of a seed's two connections lost sixteen packets when its queue overflowed and was back at BBR, the other lost none:
    /// it had three quarters of the link for ten seconds, and one run in six of two leechers took up to a tenth longer.
    #[test]
    fn a_queue_that_overflows_now_and_then_does_not_bring_the_search_back() {
        let (paced, kernel) = (Paced::default(), Fake::new("bbr", ALL));
        let mut one = Congestion::new(paced.clone());
        send(&mut one, &kernel, 5, 100);
        paced.set(true);
        one.sent(1_000, &kernel);
        // With the change it overflows so often, one look after the other, and later once in a while.
        for _ in 0..FEW {
            kernel.resent.set(kernel.resent.get() + 20);
            one.sent(LOOK as usize, &kernel);
        }
        for _ in 0..10 {
            send(&mut one, &kernel, 2, 0);
            kernel.resent.set(kernel.resent.get() + 20);
            assert_eq!(*kernel.control.borrow(), "cubic");
        }
    }

    #[test]
    fn what_is_lost_while_there_is_a_pace_is_told_whatever_the_control() {
        for (own, allowed) in [("bbr", ALL), ("bbr", &["bbr"][..]), ("cubic", ALL)] {
            let (paced, kernel) = (Paced::default(), Fake::new(own, allowed));
            let mut both = [Congestion::new(paced.clone()), Congestion::new(paced.clone())];
            for (pace, all) in [(false, 0), (true, 28), (false, 28), (true, 56)] {
                paced.set(pace);
                both.iter_mut().for_each(|one| one.sent(1_000, &kernel));
                kernel.resent.set(kernel.resent.get() + 14);
                both.iter_mut().for_each(|one| one.sent(LOOK as usize, &kernel));
                assert_eq!(paced.lost(), all, "{own}, paced: {pace}");
            }
        }
    }

    #[test]
    fn who_searches_although_there_is_a_pace_says_so() {
        for (own, allowed, per_mille, searches) in [
            ("bbr", ALL, 0, false),
            ("bbr", ALL, 30, true),
            ("bbr", &["bbr"][..], 0, true),
            ("cubic", ALL, 0, true),
        ] {
            let (paced, kernel) = (Paced::default(), Fake::new(own, allowed));
            let mut one = Congestion::new(paced.clone());
            send(&mut one, &kernel, 2, per_mille);
            assert_eq!(paced.searching(), 0, "there is none");
            paced.set(true);
            send(&mut one, &kernel, 2, per_mille);
            let before = paced.searching();
            assert_eq!(before > 0, searches, "{own}, {allowed:?}, {per_mille}");
            // Whoever has a pace later is told, too.
            send(&mut one, &kernel, 1, per_mille);
            assert_eq!(paced.searching() > before, searches);
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_kernel_is_asked_for_what_it_has() {
        use futures::AsyncWriteExt;
        use libp2p::tcp::tokio::TcpStream;

        use super::super::lean::Lean;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dial =
            async || TcpStream(tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let dialled = Socket::new(dial().await);
        assert_eq!(dialled.resent().unwrap(), 0, "nothing is lost on loopback");
        assert_eq!(std::mem::offset_of!(libc::tcp_info, tcpi_total_retrans), 4 * linux::TOTAL_RETRANS);
        if dialled.set_control(SEARCHES).is_err() {
            println!("skipped: this system has no {SEARCHES}, or does not allow it");
            return;
        }
        let paced = Paced::default();
        let mut socket = Lean::new(dial().await, paced.clone());
        for (pace, is) in [(false, true), (true, false), (false, true)] {
            paced.set(pace);
            socket.write_all(&[1]).await.unwrap();
            assert_eq!(socket.control().unwrap() == SEARCHES, is, "paced: {pace}");
        }
    }
}
