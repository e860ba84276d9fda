//! TCP sockets that hold back little.
//!
//! The kernel takes megabytes for a connection that sends long, whatever its rate: on a slow link seconds of
//! chunks that nothing can overtake. With a limit on what it holds unsent (what is under way does not count, so
//! long links lose nothing) a control message waits for milliseconds.
//! The exchange keeps the layers above as short (`net/exchange/pace.rs`).
//!
//! The limit is a time, not a length. A socket that runs dry between two writes is "limited by the application" for the
//! kernel, and BBR then learns nothing of the link: at 100 Mbit/s and 32 KiB it never ended its start-up, in which
//! it sends at 2.9 times the rate that it knows. Every 0.4 s the queue on the way overflowed, and the link idled while
//! the receiver waited for what had been lost.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncWrite};
use libp2p::tcp::tokio::TcpStream;

use super::congestion::{Congestion, Paced};
use super::socket::Socket;

/// How long what a socket holds beyond what is under way may take to leave.
const HOLD: Duration = Duration::from_millis(12);
/// The least and the most that is held, in bytes. The kernel asks for more when half are left, which for the least on a
/// link of 1 Gbit/s is 130 us before it would idle, and the layers above have more at hand.
const LEAST: u32 = 32 << 10;
const MOST: u32 = 256 << 10;
/// How long the rate is measured over, at least: a burst that a buffer swallows is none.
const SPAN: Duration = Duration::from_millis(100);

/// A limit is halved when so long nothing asked for more. While a lost packet is waited for less is taken, and that is
/// when a dry socket does its harm.
const KEEP: Duration = Duration::from_secs(1);

/// How much a socket may hold unsent, by what it took last.
#[derive(Debug)]
struct Limit {
    bytes: u64,
    since: Instant,
    limit: u32,
    /// When the limit was last set, or what is taken was worth it.
    at: Instant,
}

impl Limit {
    fn new(now: Instant) -> Limit {
        Limit { bytes: 0, since: now, limit: LEAST, at: now }
    }

    /// It took so many bytes; says what it may hold from now on, if that is something else: a power of two.
    fn took(&mut self, bytes: usize, now: Instant) -> Option<u32> {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        let span = now.saturating_duration_since(self.since);
        if span < SPAN {
            return None;
        }
        let held = u128::from(self.bytes) * HOLD.as_micros() / span.as_micros();
        (self.bytes, self.since) = (0, now);
        let held = u32::try_from(held).unwrap_or(MOST).clamp(LEAST, MOST);
        let wanted = 1 << held.ilog2();
        let halvings = now.saturating_duration_since(self.at).as_secs() / KEEP.as_secs();
        let kept = self.limit.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0);
        let limit = wanted.max(kept);
        if halvings > 0 || wanted >= self.limit {
            self.at = now;
        }
        (std::mem::replace(&mut self.limit, limit) != limit).then_some(limit)
    }
}

/// A socket and its limit; a system that has none keeps what it does.
#[derive(Debug)]
pub struct Lean {
    socket: Socket,
    limit: Limit,
    congestion: Congestion,
}

impl Lean {
    pub fn new(socket: TcpStream, paced: Paced) -> Lean {
        let socket = Socket::new(socket);
        set(&socket, LEAST);
        Lean { socket, limit: Limit::new(Instant::now()), congestion: Congestion::new(paced) }
    }

    fn took(&mut self, bytes: usize) {
        if let Some(limit) = self.limit.took(bytes, Instant::now()) {
            set(&self.socket, limit);
        }
        self.congestion.sent(bytes, &self.socket);
    }

    #[cfg(test)]
    pub fn control(&self) -> io::Result<String> {
        super::congestion::Kernel::control(&self.socket)
    }

    #[cfg(all(test, target_os = "linux"))]
    pub fn packets_sent(&self) -> u32 {
        super::congestion::packets_sent(&self.socket)
    }

    /// Whether the links share a pace.
    pub fn paced(&self) -> bool {
        self.congestion.paced()
    }

    /// See [`Socket::sleep`].
    ///
    /// # Errors
    /// The socket is lost.
    pub fn sleep(&mut self) -> io::Result<bool> {
        self.socket.sleep()
    }

    /// See [`Socket::wake`].
    ///
    /// # Errors
    /// The socket is lost.
    pub fn wake(&mut self) -> io::Result<()> {
        self.socket.wake()
    }

    /// Who waits to read is woken when so many bytes are there, or no more will come.
    pub fn wake_for(&self, bytes: usize) {
        wake_for(&self.socket, bytes);
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn set(socket: &Socket, limit: u32) {
    let set = socket.fd().and_then(|fd| socket2::SockRef::from(&fd).set_tcp_notsent_lowat(limit));
    if let Err(e) = set {
        tracing::debug!("a connection without a limit on what the kernel holds unsent: {e}");
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set(_: &Socket, _: u32) {}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod kernel {
    /// `SO_RCVLOWAT`, socket(7).
    #[derive(Clone, Copy, Debug)]
    pub struct LeastToRead;

    nix::setsockopt_impl!(
        LeastToRead,
        libc::SOL_SOCKET,
        libc::SO_RCVLOWAT,
        libc::c_int,
        nix::sys::socket::sockopt::SetStruct<'_, libc::c_int>
    );
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn wake_for(socket: &Socket, bytes: usize) {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let set = |fd| Ok(nix::sys::socket::setsockopt(&fd, kernel::LeastToRead, &bytes)?);
    if let Err(e) = socket.fd().and_then(set) {
        tracing::debug!("a connection that each packet wakes: {e}");
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn wake_for(_: &Socket, _: usize) {}

impl AsyncRead for Lean {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Lean {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.socket).poll_write(cx, buf))?;
        self.took(n);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, bufs))?;
        self.took(n);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What may be held after five seconds of this rate, in writes of 16 KiB.
    fn after(limit: &mut Limit, now: &mut Instant, rate: u64) -> u32 {
        let write = 16 << 10;
        for _ in 0..(rate * 5 / write).max(1) {
            *now += Duration::from_nanos(write * 1_000_000_000 / rate);
            limit.took(write as usize, *now);
        }
        limit.limit
    }

    #[test]
    fn what_is_held_leaves_within_twelve_milliseconds_or_is_little() {
        let mut now = Instant::now();
        let mut limit = Limit::new(now);
        for (rate, held) in [
            (10_000, LEAST),
            (2_000_000, LEAST),
            (12_500_000, 128 << 10),
            (6_000_000, 64 << 10),
            (600_000_000, MOST),
            (2_000_000, LEAST),
        ] {
            assert_eq!(after(&mut limit, &mut now, rate), held, "{rate}");
        }
        now += Duration::from_secs(10);
        after(&mut limit, &mut now, 600_000_000);
        limit.took(1_000_000, now + Duration::from_secs(60));
        assert_eq!(limit.limit, LEAST, "a pause is no rate");
    }

    /// With the limit of what it takes at the moment, BBR never ended its start-up: each time that a lost packet was
    /// waited for the next writes came to a dry socket.
    #[test]
    fn what_is_held_stays_while_a_lost_packet_is_waited_for() {
        let mut now = Instant::now();
        let mut limit = Limit::new(now);
        after(&mut limit, &mut now, 12_500_000);
        for _ in 0..9 {
            now += Duration::from_millis(100);
            assert_eq!(limit.took(10_000, now), None);
        }
        now += Duration::from_millis(110);
        assert_eq!(limit.took(10_000, now), Some(64 << 10), "and not for ever");
    }

    #[test]
    fn a_burst_is_no_rate() {
        let mut now = Instant::now();
        let mut limit = Limit::new(now);
        for _ in 0..20 {
            assert_eq!(limit.took(200_000, now), None);
            now += Duration::from_millis(110);
            assert_eq!(limit.took(1, now), None, "2 MB/s, in lumps");
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_socket_holds_little_unsent_and_more_if_it_is_fast() {
        use futures::AsyncWriteExt;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut reader, _) = listener.accept().await.unwrap();
        tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
        let mut socket = Lean::new(TcpStream(dialled), Paced::default());
        let set = |s: &Lean| socket2::SockRef::from(&s.socket.fd().unwrap()).tcp_notsent_lowat().unwrap();
        assert_eq!(set(&socket), LEAST);
        // 6 MB/s are enough, which any loopback has.
        let end = Instant::now() + Duration::from_secs(60);
        while socket.limit.limit == LEAST {
            assert!(Instant::now() < end, "as little as at first");
            socket.write_all(&[0; 128 << 10]).await.unwrap();
        }
        assert_eq!(set(&socket), socket.limit.limit);
    }
}
