//! A buffer between TLS or Noise and the socket.
//!
//! rustls reads 4 KiB at a time and yamux flushes each frame's 12-byte header apart; this makes few
//! system calls of many. The buffer is small until the connection is busy, so idle ones cost little.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};

/// What is read at once: at first, and when there is always more.
const READ_MIN: usize = 4 << 10;
const READ_MAX: usize = 128 << 10;
/// After so many small reads the buffer shrinks again.
const SMALL_READS: u32 = 32;
/// Writes up to this wait for the flush, longer ones take what waits with them.
const GATHER: usize = 16 << 10;

#[derive(Debug)]
pub struct Buffered<C> {
    inner: C,
    read: Vec<u8>,
    /// What of `read` is not yet used.
    start: usize,
    end: usize,
    small: u32,
    /// Not yet written.
    write: Vec<u8>,
}

impl<C> Buffered<C> {
    pub fn new(inner: C) -> Buffered<C> {
        Buffered { inner, read: Vec::new(), start: 0, end: 0, small: 0, write: Vec::new() }
    }

    /// Chooses the buffer's size by how much the last read brought.
    fn adapt(&mut self, n: usize) {
        let len = self.read.len();
        self.small = if n < READ_MIN / 2 { self.small + 1 } else { 0 };
        if n == len && len < READ_MAX {
            // Takes effect with the next read: what is here stays in place.
            self.read.resize((len * 4).min(READ_MAX), 0);
        } else if self.small > SMALL_READS && len > READ_MIN && n <= READ_MIN {
            self.read.truncate(READ_MIN);
            self.read.shrink_to_fit();
            self.write.shrink_to(0);
        }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Buffered<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.start == this.end {
            if buf.len() >= READ_MAX {
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            if this.read.is_empty() {
                this.read.resize(READ_MIN, 0);
            }
            let n = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut this.read))?;
            (this.start, this.end) = (0, n);
            this.adapt(n);
        }
        let n = buf.len().min(this.end - this.start);
        buf[..n].copy_from_slice(&this.read[this.start..this.start + n]);
        this.start += n;
        Poll::Ready(Ok(n))
    }
}

impl<C: AsyncWrite + Unpin> Buffered<C> {
    /// Writes what waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.write.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.write))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => drop(self.write.drain(..n)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Buffered<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        if this.write.len() + total <= GATHER {
            bufs.iter().for_each(|b| this.write.extend_from_slice(b));
            return Poll::Ready(Ok(total));
        }
        while !this.write.is_empty() {
            let all: Vec<IoSlice<'_>> = std::iter::once(IoSlice::new(&this.write))
                .chain(bufs.iter().map(|b| IoSlice::new(b)))
                .collect();
            let n = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, &all))?;
            let waited = this.write.len();
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.write.drain(..n.min(waited));
            if n > waited {
                return Poll::Ready(Ok(n - waited));
            }
        }
        Pin::new(&mut this.inner).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::Cursor;
    use futures::{AsyncReadExt, AsyncWriteExt};

    /// Counts the writes that reach it.
    #[derive(Default)]
    struct Sink {
        got: Vec<u8>,
        calls: usize,
    }

    impl AsyncWrite for Sink {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
            self.calls += 1;
            self.got.extend_from_slice(b);
            Poll::Ready(Ok(b.len()))
        }
        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.calls += 1;
            bufs.iter().for_each(|b| self.got.extend_from_slice(b));
            Poll::Ready(Ok(bufs.iter().map(|b| b.len()).sum()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn small_writes_leave_with_the_next_long_one_in_order() {
        let mut b = Buffered::new(Sink::default());
        b.write_all(&[1; 30]).await.unwrap();
        b.write_all(&[2; 40]).await.unwrap();
        assert_eq!(b.inner.calls, 0);
        b.write_all(&[3; GATHER]).await.unwrap();
        assert_eq!((b.inner.calls, b.inner.got.len()), (1, 70 + GATHER));
        b.write_all(&[4; 10]).await.unwrap();
        b.flush().await.unwrap();
        let want = [vec![1; 30], vec![2; 40], vec![3; GATHER], vec![4; 10]].concat();
        assert_eq!(b.inner.got, want);
    }

    #[tokio::test]
    async fn reads_come_whole_and_in_order_while_the_buffer_grows() {
        let all: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let mut b = Buffered::new(Cursor::new(all.clone()));
        let mut got = Vec::new();
        b.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, all);
        assert_eq!(b.read.len(), READ_MAX);
    }
}
