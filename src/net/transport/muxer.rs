//! yamux with longer frames than `libp2p-yamux` allows to be set: 16 KiB ones cost a tenth of the rate.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

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

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_inbound(self, io: C, _: &'static str) -> Self::Future {
        ready(Ok(Muxer::new(io, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_outbound(self, io: C, _: &'static str) -> Self::Future {
        ready(Ok(Muxer::new(io, Mode::Client)))
    }
}

/// A connection. yamux only moves while it is asked for inbound streams, and the swarm asks for them
/// when it has room; so those that come in between wait in `untaken`.
pub struct Muxer<C> {
    connection: Connection<Frames<Records<C>>>,
    untaken: VecDeque<Stream>,
    taker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(io: C, mode: Mode) -> Muxer<C> {
        Muxer {
            connection: Connection::new(Frames::new(Records::new(io)), config(), mode),
            untaken: VecDeque::new(),
            taker: None,
        }
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_next_inbound(cx).map(|s| s.unwrap_or(Err(ConnectionError::Closed)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        if let Some(stream) = self.untaken.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let polled = self.next(cx);
        if polled.is_pending() {
            self.taker = Some(cx.waker().clone());
        }
        polled
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.connection.poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        loop {
            let stream = std::task::ready!(self.next(cx))?;
            if self.untaken.len() < MAX_UNTAKEN {
                self.untaken.push_back(stream);
            } // else it is dropped, which resets it
            if let Some(taker) = self.taker.take() {
                taker.wake();
            }
        }
    }
}
