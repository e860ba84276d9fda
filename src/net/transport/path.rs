//! TCP's congestion control, by the length of the path.
//!
//! Where the system's choice is BBR, short paths get CUBIC. BBR takes its rate from what gets through when it fills the
//! queue in front of the link, each connection for itself, and a swarm has many: with eight leechers on links of
//! 16 Mbit/s its connections sent a sixth of their bytes twice, CUBIC's beside them 0.4 %, and the fetch took 4 % longer
//! (`docs/benchmarks.md`). On long paths it is the other way round: CUBIC begins at its smallest window after each
//! pause, and a swarm pauses often.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncWrite};
use libp2p::tcp::tokio::TcpStream;

/// A path with shorter round trips than this is short.
const SHORT: Duration = Duration::from_millis(20);
/// The answers in the handshakes: to what is proposed, to the first words of TLS, and (who dialled) to its last ones.
const ANSWERS: u8 = 3;

/// What the handshakes tell of the path. Each answer took a round trip or, on busy machines, more: the first one that
/// came soon tells that the path is short.
#[derive(Debug)]
struct Answers {
    wrote: Option<Instant>,
    left: u8,
    /// To the listening side its first answer only seems to be one: header and proposal arrive together.
    passed_over: u8,
}

impl Answers {
    fn new(dialled: bool) -> Answers {
        Answers { wrote: None, left: ANSWERS, passed_over: u8::from(!dialled) }
    }

    fn wrote(&mut self, now: impl Fn() -> Instant) {
        if self.left > 0 && self.wrote.is_none() {
            self.wrote = Some(now());
        }
    }

    /// Something was read. Says once that the path is short, if it is.
    fn read(&mut self, now: impl Fn() -> Instant) -> bool {
        let Some(wrote) = self.wrote.take() else { return false };
        let answer = ANSWERS - self.left;
        self.left -= 1;
        let short = answer >= self.passed_over && now().saturating_duration_since(wrote) < SHORT;
        if short {
            self.left = 0;
        }
        short
    }
}

/// A socket whose congestion control follows what it learns of its path.
#[derive(Debug)]
pub struct ByPath {
    socket: TcpStream,
    answers: Answers,
}

impl ByPath {
    pub fn new(socket: TcpStream, dialled: bool) -> ByPath {
        ByPath { socket, answers: Answers::new(dialled) }
    }
}

/// In place of BBR; any other choice of the system's stands.
#[cfg(target_os = "linux")]
fn cubic(socket: &TcpStream) {
    let socket = socket2::SockRef::from(&socket.0);
    let set = socket.tcp_congestion().and_then(|now| match now.starts_with(b"bbr") {
        true => socket.set_tcp_congestion(b"cubic"),
        false => Ok(()),
    });
    if let Err(e) = set {
        tracing::debug!("a short path with the system's congestion control: {e}");
    }
}

#[cfg(not(target_os = "linux"))]
fn cubic(_: &TcpStream) {}

impl AsyncRead for ByPath {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let n = ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
        if n > 0 && this.answers.read(Instant::now) {
            cubic(&this.socket);
        }
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for ByPath {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.socket).poll_write(cx, buf))?;
        self.answers.wrote(Instant::now);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, bufs))?;
        self.answers.wrote(Instant::now);
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

    /// At which read the path is said to be short, with so many milliseconds before each write (`w`) and read (`r`).
    fn short_at(dialled: bool, steps: &[(u64, char)]) -> Vec<usize> {
        let (mut answers, mut now, mut said) = (Answers::new(dialled), Instant::now(), Vec::new());
        for (ms, step) in steps {
            now += Duration::from_millis(*ms);
            match step {
                'w' => answers.wrote(|| now),
                _ => said.push(answers.read(|| now)),
            }
        }
        said.iter().enumerate().filter(|(_, short)| **short).map(|(at, _)| at).collect()
    }

    #[test]
    fn one_answer_that_comes_soon_tells_of_a_short_path_and_is_the_last_to_be_looked_at() {
        let busy = [(0, 'w'), (50, 'r'), (1, 'w'), (0, 'w'), (9, 'r'), (0, 'w'), (1, 'r')];
        assert_eq!(short_at(true, &busy), [1]);
        let long =
            [(0, 'w'), (40, 'r'), (1, 'w'), (40, 'r'), (0, 'r'), (1, 'w'), (40, 'r'), (1, 'w'), (0, 'r')];
        assert!(short_at(true, &long).is_empty());
    }

    #[test]
    fn what_comes_in_one_packet_makes_no_short_path_of_a_long_one() {
        let listening =
            [(0, 'r'), (0, 'w'), (0, 'r'), (0, 'w'), (40, 'r'), (0, 'w'), (40, 'r'), (0, 'w'), (0, 'r')];
        assert!(short_at(false, &listening).is_empty());
        let short = [(0, 'r'), (0, 'w'), (0, 'r'), (0, 'w'), (2, 'r')];
        assert_eq!(short_at(false, &short), [2]);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_short_path_has_cubic_where_the_system_has_bbr() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = TcpStream(socket);
        let option = || socket2::SockRef::from(&socket.0).tcp_congestion().unwrap();
        let is = |name: &[u8]| option().starts_with(name);
        for (before, after) in [(&b"bbr"[..], &b"cubic"[..]), (b"reno", b"reno")] {
            if let Err(e) = socket2::SockRef::from(&socket.0).set_tcp_congestion(before) {
                eprintln!("not tested with {}: {e}", String::from_utf8_lossy(before));
                continue;
            }
            cubic(&socket);
            assert!(is(after), "{:?}", String::from_utf8_lossy(&option()));
        }
    }
}
