//! yamux with longer frames than `libp2p-yamux` allows to be set (16 KiB ones cost a tenth of the rate), and a task of
//! its own that moves what the streams carry.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{self, Ready, poll_fn};
use std::iter;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{Config, Connection, ConnectionError, Mode, Stream};

use super::frames::Frames;
use super::records::Records;

/// Streams of one connection at a time. Their windows start at 256 KiB each, which the specification
/// fixes, and grow with the round trip to [`WINDOW_GROWTH`] more in all.
const MAX_STREAMS: usize = 128;
const WINDOW_GROWTH: usize = 16 << 20;
/// The longest frame that is sent.
pub const FRAME: usize = 128 << 10;
/// Streams opened by the peer that nobody has taken yet; more are reset.
const MAX_UNTAKEN: usize = 64;

/// The upgrade.
#[derive(Clone, Copy, Debug)]
pub struct Yamux;

fn config() -> Config {
    let mut c = Config::default();
    c.set_max_num_streams(MAX_STREAMS);
    let least = MAX_STREAMS * yamux::DEFAULT_CREDIT as usize;
    c.set_max_connection_receive_window(Some(least + WINDOW_GROWTH));
    c.set_split_send_size(FRAME);
    c
}

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_inbound(self, io: C, _: &'static str) -> Self::Future {
        future::ready(Ok(Muxer::new(io, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_outbound(self, io: C, _: &'static str) -> Self::Future {
        future::ready(Ok(Muxer::new(io, Mode::Client)))
    }
}

/// What a connection and its task share.
struct Shared<C> {
    /// `None` when nobody needs it any more.
    connection: Option<Connection<Frames<Records<C>>>>,
    untaken: VecDeque<Stream>,
    /// How it ended, until somebody is told.
    over: Option<ConnectionError>,
    owner: Option<Waker>,
    task: Option<Waker>,
    closing: bool,
}

impl<C> Shared<C> {
    fn wake_owner(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.wake();
        }
    }

    fn wake_task(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// What the owner waits for.
    fn ended(&mut self, cx: &Context<'_>) -> Poll<ConnectionError> {
        match self.over.take() {
            Some(over) => Poll::Ready(over),
            None => {
                self.owner = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Shared<C> {
    /// The task's part: moves what the streams carry.
    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.task = Some(cx.waker().clone());
        while let Some(connection) = self.connection.as_mut().filter(|_| !self.closing) {
            match ready!(connection.poll_next_inbound(cx)).unwrap_or(Err(ConnectionError::Closed)) {
                Ok(stream) if self.untaken.len() < MAX_UNTAKEN => self.untaken.push_back(stream),
                Ok(_) => continue, // it is dropped, which resets it
                Err(over) => {
                    self.over = Some(over);
                    self.closing = true;
                }
            }
            self.wake_owner();
        }
        Poll::Ready(())
    }
}

/// A connection. A task of its own moves what its streams carry: libp2p's task, which each frame would wake else, asks
/// all protocols at each wake whether there is something to do, and most of the time there is not.
pub struct Muxer<C>(Arc<Mutex<Shared<C>>>);

fn lock<C>(shared: &Mutex<Shared<C>>) -> MutexGuard<'_, Shared<C>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> Muxer<C> {
    fn new(io: C, mode: Mode) -> Muxer<C> {
        let shared = Arc::new(Mutex::new(Shared {
            connection: Some(Connection::new(Frames::new(Records::new(io)), config(), mode)),
            untaken: VecDeque::new(),
            over: None,
            owner: None,
            task: None,
            closing: false,
        }));
        let moved = Arc::clone(&shared);
        tokio::spawn(poll_fn(move |cx| lock(&moved).poll_move(cx)));
        Muxer(shared)
    }
}

impl<C> Drop for Muxer<C> {
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.connection = None;
        shared.untaken.clear();
        shared.wake_task();
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        let mut shared = lock(&self.0);
        match shared.untaken.pop_front() {
            Some(stream) => Poll::Ready(Ok(stream)),
            None => shared.ended(cx).map(Err),
        }
    }

    fn poll_outbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        let mut shared = lock(&self.0);
        let Some(connection) = &mut shared.connection else {
            return Poll::Ready(Err(ConnectionError::Closed));
        };
        let stream = connection.poll_new_outbound(cx);
        if stream.is_ready() {
            shared.wake_task(); // which does not know of it yet
        }
        stream
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let mut shared = lock(&self.0);
        shared.closing = true;
        shared.wake_task();
        shared.connection.as_mut().map_or(Poll::Ready(Ok(())), |connection| connection.poll_close(cx))
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        lock(&self.0).ended(cx).map(Err)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use futures::{AsyncReadExt, AsyncWriteExt};
    use libp2p::core::muxing::StreamMuxerExt;
    use tokio::io::DuplexStream;
    use tokio::time::timeout;
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

    use super::*;

    type Link = Muxer<Compat<DuplexStream>>;

    fn link() -> (Link, Link) {
        let (us, peer) = tokio::io::duplex(32 << 10);
        (Muxer::new(us.compat(), Mode::Client), Muxer::new(peer.compat(), Mode::Server))
    }

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(60), what).await.unwrap()
    }

    /// A stream that has said something.
    async fn open(link: &mut Link) -> Stream {
        let mut stream = soon(poll_fn(|cx| link.poll_outbound_unpin(cx))).await.unwrap();
        stream.write_all(&[1]).await.unwrap();
        stream
    }

    async fn take(link: &mut Link) -> Stream {
        soon(poll_fn(|cx| link.poll_inbound_unpin(cx))).await.unwrap()
    }

    async fn end(link: &mut Link) -> ConnectionError {
        soon(poll_fn(|cx| link.poll_unpin(cx))).await.unwrap_err()
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts how often its owner is woken, who waits for all that there is to wait for.
    fn watch(link: &mut Link) -> Arc<Wakes> {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        assert!(link.poll_unpin(&mut cx).is_pending());
        assert!(link.poll_inbound_unpin(&mut cx).is_pending());
        wakes
    }

    /// Each frame woke libp2p's task, 450 times a second in a leecher of eight, which asked all protocols each time.
    #[tokio::test]
    async fn what_a_stream_carries_does_not_wake_the_owner() {
        let (mut us, mut peer) = link();
        let mut there = open(&mut us).await;
        let mut here = take(&mut peer).await;
        let wakes = [watch(&mut us), watch(&mut peer)];
        let sent = vec![7; 1 << 20];
        let mut got = vec![0; 1 + sent.len()];
        let (wrote, read) =
            soon(async { tokio::join!(there.write_all(&sent), here.read_exact(&mut got)) }).await;
        wrote.and(read).unwrap();
        assert!(got[1..] == sent);
        assert_eq!(wakes.map(|w| w.0.load(Ordering::Relaxed)), [0, 0]);
        open(&mut us).await;
        let mut second = take(&mut peer).await;
        assert_eq!(soon(second.read(&mut got)).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_stream_that_comes_wakes_the_owner_and_too_many_are_reset() {
        let (mut us, mut peer) = link();
        let wakes = watch(&mut peer);
        let mut streams = Vec::new();
        for _ in 0..=MAX_UNTAKEN {
            streams.push(open(&mut us).await);
        }
        let mut reset = streams.pop().unwrap();
        assert!(!matches!(soon(reset.read(&mut [0])).await, Ok(1..)));
        assert!(wakes.0.load(Ordering::Relaxed) > 0);
        for _ in 0..MAX_UNTAKEN {
            take(&mut peer).await;
        }
        watch(&mut peer);
    }

    #[tokio::test]
    async fn an_owner_that_is_gone_ends_the_connection_and_its_task() {
        let (mut us, mut peer) = link();
        let mut there = open(&mut us).await;
        let mut here = take(&mut peer).await;
        let shared = Arc::downgrade(&peer.0);
        drop(peer);
        end(&mut us).await;
        assert!(soon(poll_fn(|cx| us.poll_outbound_unpin(cx))).await.is_err());
        let mut some = [0; 2];
        assert!(!matches!(soon(there.read(&mut some)).await, Ok(1..)));
        assert_eq!(soon(here.read(&mut some)).await.unwrap(), 1, "what had come is there");
        assert!(!matches!(soon(here.read(&mut some)).await, Ok(1..)));
        soon(async {
            while shared.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_says_so_to_the_peer() {
        let (mut us, mut peer) = link();
        let mut there = open(&mut us).await;
        let mut here = take(&mut peer).await;
        soon(poll_fn(|cx| us.poll_close_unpin(cx))).await.unwrap();
        assert!(matches!(end(&mut peer).await, ConnectionError::Closed));
        let mut all = Vec::new();
        soon(here.read_to_end(&mut all)).await.unwrap();
        assert_eq!(all, [1]);
        assert!(!matches!(soon(there.read(&mut [0])).await, Ok(1..)));
    }
}
