//! Reads that wait until a record of TLS is whole.
//!
//! Of a part of a record nothing can be made, yet on a slow link each packet woke the connection, which asks all its
//! protocols and streams whether there is anything to do: of 16 KiB that came in six parts, six times, and with nine
//! nodes on one machine that was most of what they did. Here a small task gathers what comes until a record
//! ends, and only then wakes the connection. While much comes at once nothing is gathered.
//!
//! A record: a byte for its kind, two for the version, two for the length of what follows (RFC 8446, 5.1 and 5.2).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::{AsyncRead, AsyncWrite};

const HEADER: usize = 5;
/// The longest record that may come, without its header, and the kinds that there are.
const LONGEST: usize = (16 << 10) + 256;
const KINDS: std::ops::RangeInclusive<u8> = 20..=23;
/// What is gathered at the most.
const MOST: usize = HEADER + LONGEST;
/// A record of which so much is missing, or that comes after one so long, is worth waiting for.
const LONG: usize = 4 << 10;
/// A link of which so much comes at once is not slow.
const MUCH: usize = 8 << 10;

/// Where in a record the stream is.
#[derive(Debug, Default)]
struct Place {
    header: [u8; HEADER],
    have: usize,
    /// What is missing of the record; how long it is, or the last was.
    left: usize,
    len: usize,
    /// Records that have ended.
    ended: u64,
    /// It is something else than TLS.
    lost: bool,
}

impl Place {
    fn saw(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            if self.have < HEADER {
                let n = bytes.len().min(HEADER - self.have);
                self.header[self.have..self.have + n].copy_from_slice(&bytes[..n]);
                self.have += n;
                bytes = &bytes[n..];
                if self.have == HEADER {
                    let [kind, _, _, len @ ..] = self.header;
                    self.len = usize::from(u16::from_be_bytes(len));
                    self.left = self.len;
                    self.lost = !KINDS.contains(&kind) || self.len > LONGEST;
                }
            }
            let n = bytes.len().min(self.left);
            self.left -= n;
            bytes = &bytes[n..];
            if self.have == HEADER && self.left == 0 {
                self.have = 0;
                self.ended += 1;
            }
        }
    }

    /// Whether the next read is likely a part of a record that is long.
    fn is_within(&self) -> bool {
        !self.lost && if self.have == 0 { self.len >= LONG } else { self.left >= LONG }
    }
}

#[derive(Debug)]
struct State<C> {
    /// `None` when the connection has ended.
    inner: Option<C>,
    place: Place,
    /// The task reads, and wakes the reader when a record is whole.
    gathers: bool,
    /// What the task read, and what of it the reader has not taken yet. There is none until it is needed.
    gathered: Vec<u8>,
    start: usize,
    end: usize,
    /// How the stream ended while the task read.
    over: Option<io::Result<usize>>,
    reader: Option<Waker>,
    task: Option<Waker>,
    /// What came since nothing was there the last time, and whether that was little.
    burst: usize,
    slow: bool,
}

impl<C> State<C> {
    /// Nothing is there at the moment.
    fn ran_dry(&mut self) {
        if self.burst > 0 {
            self.slow = self.burst < MUCH;
            self.burst = 0;
        }
    }
}

impl<C: AsyncRead + Unpin> State<C> {
    /// The task's part; ends with the connection.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.task = Some(cx.waker().clone());
        if self.gathered.is_empty() && self.gathers {
            self.gathered.resize(MOST, 0);
        }
        let ended = self.place.ended;
        while self.gathers {
            let Some(inner) = &mut self.inner else { return Poll::Ready(()) };
            match Pin::new(inner).poll_read(cx, &mut self.gathered[self.end..]) {
                Poll::Pending => {
                    self.ran_dry();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.place.saw(&self.gathered[self.end..self.end + n]);
                    self.burst += n;
                    self.end += n;
                    let whole = self.place.ended > ended || self.place.lost;
                    self.gathers = !whole && self.end < MOST;
                }
                Poll::Ready(over) => {
                    self.over = Some(over);
                    self.gathers = false;
                }
            }
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        if self.inner.is_some() { Poll::Pending } else { Poll::Ready(()) }
    }
}

#[derive(Debug)]
pub struct Whole<C>(Arc<Mutex<State<C>>>);

fn lock<C>(state: &Mutex<State<C>>) -> MutexGuard<'_, State<C>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C> Whole<C> {
    pub fn new(inner: C) -> Whole<C> {
        Whole(Arc::new(Mutex::new(State {
            inner: Some(inner),
            place: Place::default(),
            gathers: false,
            gathered: Vec::new(),
            start: 0,
            end: 0,
            over: None,
            reader: None,
            task: None,
            burst: 0,
            slow: false,
        })))
    }
}

impl<C> Drop for Whole<C> {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.inner = None;
        if let Some(task) = state.task.take() {
            task.wake();
        }
    }
}

impl<C: AsyncRead + Unpin + Send + 'static> AsyncRead for Whole<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let state = &mut *lock(&self.0);
        if state.gathers {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if state.start < state.end {
            let n = buf.len().min(state.end - state.start);
            buf[..n].copy_from_slice(&state.gathered[state.start..state.start + n]);
            state.start += n;
            return Poll::Ready(Ok(n));
        }
        if let Some(over) = state.over.take() {
            return Poll::Ready(over);
        }
        let Some(inner) = &mut state.inner else { return Poll::Ready(Ok(0)) };
        if let Poll::Ready(read) = Pin::new(inner).poll_read(cx, buf) {
            if let Ok(n) = read {
                state.place.saw(&buf[..n]);
                state.burst += n;
            }
            return Poll::Ready(read);
        }
        state.ran_dry();
        if !state.slow || !state.place.is_within() {
            state.gathered = Vec::new(); // of no use for long, perhaps
            return Poll::Pending;
        }
        (state.start, state.end) = (0, 0);
        state.gathers = true;
        state.reader = Some(cx.waker().clone());
        match &state.task {
            Some(task) => task.wake_by_ref(),
            None => {
                let state = Arc::clone(&self.0);
                tokio::spawn(poll_fn(move |cx| lock(&state).poll_gather(cx)));
            }
        }
        Poll::Pending
    }
}

impl<C: AsyncWrite + Unpin> Whole<C> {
    fn write<T>(&self, f: impl FnOnce(Pin<&mut C>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut lock(&self.0).inner {
            Some(inner) => f(Pin::new(inner)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Whole<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(|inner| inner.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(|inner| inner.poll_write_vectored(cx, bufs))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(|inner| inner.poll_flush(cx))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(|inner| inner.poll_close(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::AsyncReadExt;
    use tokio::io::{AsyncWriteExt, DuplexStream};
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

    use super::*;

    fn record(kind: u8, len: usize) -> Vec<u8> {
        let header = [&[kind, 3, 3][..], &(len as u16).to_be_bytes()].concat();
        [header, (0..len).map(|i| (i % 251) as u8).collect()].concat()
    }

    fn link() -> (DuplexStream, Whole<Compat<DuplexStream>>) {
        let (peer, ours) = tokio::io::duplex(1 << 20);
        (peer, Whole::new(ours.compat()))
    }

    /// Lets everything happen that can.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    /// Sends these parts, each when the one before has been dealt with; says what came, and how often the reader was
    /// asked for that.
    async fn trickle(parts: impl Iterator<Item = &[u8]>) -> (Vec<u8>, usize) {
        let (mut peer, mut whole) = link();
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&polls);
        let reader = tokio::spawn(async move {
            let (mut all, mut some) = (Vec::new(), vec![0; 32 << 10]);
            loop {
                let n = poll_fn(|cx| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    Pin::new(&mut whole).poll_read(cx, &mut some)
                })
                .await;
                match n.unwrap() {
                    0 => return all,
                    n => all.extend_from_slice(&some[..n]),
                }
            }
        });
        for part in parts {
            peer.write_all(part).await.unwrap();
            settle().await;
        }
        drop(peer);
        (reader.await.unwrap(), polls.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_record_that_comes_in_many_packets_wakes_the_connection_once() {
        let all = record(23, 16 << 10).repeat(20);
        let (got, polls) = trickle(all.chunks(1_448)).await;
        assert_eq!(got, all);
        let packets = all.len() / 1_448;
        assert!(polls < 20 * 3 && packets > 200, "{polls} of {packets}");
    }

    #[tokio::test]
    async fn whatever_comes_comes_in_order_and_to_its_end() {
        let parts = [record(22, 300), record(23, 9_000), record(23, 0), record(23, 16_640), record(21, 2)];
        let records = parts.concat().repeat(3);
        let no_tls: Vec<u8> = [record(23, 9_000), vec![77; 30_000]].concat();
        let cut_off = records[..records.len() - 3_000].to_vec();
        for all in [records, no_tls, cut_off, vec![255; 9_000]] {
            for most in [1, 7, 500, 1_448, 5_000, 17_000] {
                let (got, _) = trickle(all.chunks(most)).await;
                assert!(got == all, "{} bytes in parts of {most}", all.len());
            }
        }
    }

    /// A reader of its own task; it passes on what comes of each read.
    fn reads(mut whole: Whole<Compat<DuplexStream>>) -> tokio::sync::mpsc::UnboundedReceiver<usize> {
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut some = vec![0; 32 << 10];
            while let Ok(n) = whole.read(&mut some).await {
                if n == 0 || tell.send(n).is_err() {
                    return;
                }
            }
        });
        told
    }

    #[tokio::test]
    async fn a_short_record_after_long_ones_is_not_waited_with() {
        let (mut peer, whole) = link();
        let mut told = reads(whole);
        for part in record(23, 16 << 10).repeat(2).chunks(1_448) {
            peer.write_all(part).await.unwrap();
            settle().await;
        }
        while told.try_recv().is_ok() {}
        for _ in 0..3 {
            peer.write_all(&record(23, 40)).await.unwrap();
            settle().await;
            assert_eq!(told.try_recv(), Ok(45));
        }
    }

    #[tokio::test]
    async fn who_says_no_more_while_a_record_is_gathered_is_heard() {
        let (mut peer, whole) = link();
        let state = Arc::clone(&whole.0);
        let mut told = reads(whole);
        for part in record(23, 16 << 10)[..9_000].chunks(1_000) {
            peer.write_all(part).await.unwrap();
            settle().await;
        }
        assert!(lock(&state).gathers);
        drop(peer);
        let mut came = 0;
        while let Some(n) = told.recv().await {
            came += n;
        }
        assert_eq!(came, 9_000);
    }

    #[tokio::test]
    async fn a_connection_that_is_dropped_while_a_record_is_gathered_closes_at_once() {
        let (mut peer, mut whole) = link();
        let mut some = vec![0; 32 << 10];
        for part in record(23, 16 << 10)[..9_000].chunks(1_000) {
            peer.write_all(part).await.unwrap();
            let read = poll_fn(|cx| Poll::Ready(Pin::new(&mut whole).poll_read(cx, &mut some))).await;
            drop(read);
            let read = poll_fn(|cx| Poll::Ready(Pin::new(&mut whole).poll_read(cx, &mut some))).await;
            assert!(read.is_pending());
            settle().await;
        }
        let state = Arc::downgrade(&whole.0);
        assert!(lock(&whole.0).gathers);
        drop(whole);
        assert!(peer.write_all(&[0]).await.is_err());
        settle().await;
        assert!(state.upgrade().is_none(), "its task has ended");
    }

    #[tokio::test]
    async fn where_much_comes_at_once_nothing_is_gathered() {
        let all = record(23, 16 << 10).repeat(8);
        let (mut peer, mut whole) = link();
        let mut got = vec![0; all.len()];
        let (_, read) = tokio::join!(
            async {
                for part in all.chunks(20_000) {
                    peer.write_all(part).await.unwrap();
                    settle().await;
                }
            },
            whole.read_exact(&mut got)
        );
        read.unwrap();
        assert_eq!(got, all);
        assert!(lock(&whole.0).task.is_none());
    }
}
