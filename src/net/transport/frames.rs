//! What the crate `yamux` reads, so that it makes the right thing of it.
//!
//! Long frames are cut into several that say the same: js-libp2p sends frames as long as its window of the stream,
//! and our windows grow beyond the 1 MiB at which the crate ends the connection. It also sets the memory for a frame
//! aside before the first byte of it is there.
//!
//! The answer to a ping is passed on a little later. From it the crate knows the round trip, four times of which a
//! window may hold; it asks when the connection is made and then every 10 s. On a busy link bytes and window updates
//! stand in queues that were empty then: two peers that sent each other chunks at 2 MB/s over a link without a delay
//! of its own waited a quarter of the time for their first windows of 256 KiB, until the second ping.
//!
//! Frames: <https://github.com/hashicorp/yamux/blob/master/spec.md>.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use tokio::time::{Duration, Sleep, sleep};

/// The longest body that is passed on, in bytes: the window that a stream begins with.
const PIECE: u32 = 256 << 10;

/// What a link's queues may add to a round trip.
const QUEUES: Duration = Duration::from_millis(50);

const HEADER: usize = 12;
const DATA: u8 = 0;
const PING: u8 = 2;
const ACK: u16 = 2;
const FIN: u16 = 4;

/// What is read has no frames longer than [`PIECE`], and pongs that are late; what is written is left alone.
#[derive(Debug)]
pub struct Frames<C> {
    inner: C,
    /// The header of the piece; `have` bytes of it have been read, `given` have been passed on.
    header: [u8; HEADER],
    have: usize,
    given: usize,
    /// What is left of the body of the piece, and of the frame behind it.
    body: u32,
    rest: u32,
    /// The last piece ends the stream.
    fin: bool,
    /// A pong, and when it is passed on. There is one at most: the crate has one ping under way, so of more
    /// from a peer that made them up the last counts.
    pong: Option<(Pin<Box<Sleep>>, [u8; HEADER])>,
}

impl<C> Frames<C> {
    pub fn new(inner: C) -> Frames<C> {
        Frames { inner, header: [0; HEADER], have: 0, given: 0, body: 0, rest: 0, fin: false, pong: None }
    }

    /// A header has been read.
    fn begin(&mut self) {
        let [_, tag, f0, f1, _, _, _, _, len @ ..] = self.header;
        let (flags, len) = (u16::from_be_bytes([f0, f1]), u32::from_be_bytes(len));
        if tag == PING && flags & ACK != 0 {
            self.pong = Some((Box::pin(sleep(QUEUES)), self.header));
            self.have = 0;
        }
        // In a frame of another kind the length is something else, and there is no body.
        if tag != DATA {
            return;
        }
        self.fin = flags & FIN != 0;
        self.piece(len, flags & !FIN);
    }

    /// Makes the next piece of a frame of which so much is left.
    fn piece(&mut self, left: u32, flags: u16) {
        self.body = left.min(PIECE);
        self.rest = left - self.body;
        let flags = if self.fin && self.rest == 0 { flags | FIN } else { flags };
        self.header[2..4].copy_from_slice(&flags.to_be_bytes());
        self.header[8..].copy_from_slice(&self.body.to_be_bytes());
        self.given = 0;
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Frames<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        while this.have < HEADER {
            if this.have == 0
                && let Some((due, pong)) = &mut this.pong
                && due.as_mut().poll(cx).is_ready()
            {
                (this.header, this.have) = (*pong, HEADER);
                this.pong = None;
                break;
            }
            let into = &mut this.header[this.have..];
            match ready!(Pin::new(&mut this.inner).poll_read(cx, into))? {
                0 => return Poll::Ready(Ok(0)),
                n => this.have += n,
            }
            if this.have == HEADER {
                this.begin();
            }
        }
        let n = if this.given < HEADER {
            let n = buf.len().min(HEADER - this.given);
            buf[..n].copy_from_slice(&this.header[this.given..this.given + n]);
            this.given += n;
            n
        } else {
            let n = buf.len().min(this.body as usize);
            let n = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buf[..n]))?;
            this.body -= n as u32; // at most `body`
            n
        };
        if this.given == HEADER && this.body == 0 {
            match this.rest {
                0 => (this.have, this.given) = (0, 0),
                rest => this.piece(rest, 0),
            }
        }
        Poll::Ready(Ok(n))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Frames<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures::executor::block_on;
    use futures::{AsyncReadExt, io::Cursor};

    use super::*;

    const SYN: u16 = 1;
    const WINDOW_UPDATE: u8 = 1;

    fn frame(tag: u8, flags: u16, len: u32, body: &[u8]) -> Vec<u8> {
        let mut out = vec![0, tag];
        out.extend(flags.to_be_bytes());
        out.extend(7u32.to_be_bytes());
        out.extend(len.to_be_bytes());
        out.extend(body);
        out
    }

    fn data(flags: u16, body: &[u8]) -> Vec<u8> {
        frame(DATA, flags, body.len() as u32, body)
    }

    fn bytes(len: u32) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    /// Brings its bytes in pieces of these lengths, over and over.
    struct Trickle(Cursor<Vec<u8>>, VecDeque<usize>);

    impl AsyncRead for Trickle {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            self.1.rotate_left(1);
            let n = buf.len().min(self.1[0]);
            Pin::new(&mut self.0).poll_read(cx, &mut buf[..n])
        }
    }

    fn read(from: Vec<u8>, lens: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        let from = Trickle(Cursor::new(from), lens.iter().copied().collect());
        block_on(Frames::new(from).read_to_end(&mut out)).unwrap();
        out
    }

    #[test]
    fn a_frame_beyond_what_yamux_takes_comes_as_several() {
        let body = bytes(6 * PIECE + 100);
        let long = [data(SYN | FIN, &body), data(0, b"next")].concat();
        let mut expected = data(SYN, &body[..PIECE as usize]);
        let rest: Vec<&[u8]> = body[PIECE as usize..].chunks(PIECE as usize).collect();
        for (i, piece) in rest.iter().enumerate() {
            expected.extend(data(if i + 1 == rest.len() { FIN } else { 0 }, piece));
        }
        expected.extend(data(0, b"next"));
        for lens in [&[usize::MAX][..], &[1, 11, 12, 13, 4_096], &[PIECE as usize]] {
            assert_eq!(read(long.clone(), lens), expected, "{lens:?}");
        }
    }

    #[test]
    fn frames_that_are_short_enough_and_those_without_a_body_come_as_they_are() {
        let all = [
            data(SYN, &bytes(PIECE)),
            frame(WINDOW_UPDATE, SYN, u32::MAX, &[]),
            data(FIN, &[]),
            frame(2, SYN, 3_000_000, &[]),
            data(0, b"x"),
            frame(3, 0, 0, &[]),
        ]
        .concat();
        for lens in [&[usize::MAX][..], &[1, 5, 3]] {
            assert_eq!(read(all.clone(), lens), all, "{lens:?}");
        }
        let cut_off = &all[..all.len() - 5];
        assert_eq!(read(cut_off.to_vec(), &[7]), all[..all.len() - HEADER]);
    }

    #[tokio::test]
    async fn a_pong_is_passed_on_later_and_nothing_waits_for_it() {
        let (mut peer, ours) = tokio::io::duplex(1 << 20);
        let mut frames = Frames::new(tokio_util::compat::TokioAsyncReadCompatExt::compat(ours));
        let (ping, pong) = (frame(PING, SYN, 5, &[]), frame(PING, ACK, 9, &[]));
        let sent = [ping.clone(), pong.clone(), data(0, b"chunk")].concat();
        tokio::io::AsyncWriteExt::write_all(&mut peer, &sent).await.unwrap();
        let began = tokio::time::Instant::now();
        let mut got = vec![0; sent.len() - HEADER];
        frames.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [ping, data(0, b"chunk")].concat());
        let mut late = vec![0; HEADER];
        frames.read_exact(&mut late).await.unwrap();
        assert_eq!(late, pong);
        assert!(began.elapsed() >= QUEUES);
    }
}
