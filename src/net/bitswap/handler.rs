//! One connection: opens our stream on it when told, and hands all streams to the behaviour.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade};
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandler, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{ConnectionHandlerEvent, SubstreamProtocol};
use libp2p::{Stream, StreamProtocol};

use super::{PROTOCOLS, Shared};
use crate::wire::bitswap::Version;

/// A stream whose two ends have not agreed on a version by then is dropped.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Streams that wait for the behaviour; more are dropped, which the peer sees as reset.
const MAX_WAITING: usize = 64;

/// A stream and the version that it speaks.
pub type Opened = (Stream, Version);

#[derive(Debug)]
pub struct Open;

#[derive(Debug)]
pub enum FromHandler {
    /// A stream that we asked for, or why it did not come to be.
    Ours(Result<Opened, String>),
    /// A stream that the peer opened.
    Theirs(Opened),
}

/// Agrees on one of the versions; nothing else is said.
#[derive(Clone, Copy, Debug)]
pub struct Upgrade;

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = std::array::IntoIter<StreamProtocol, 4>;

    fn protocol_info(&self) -> Self::InfoIter {
        PROTOCOLS.map(|(name, _)| name).into_iter()
    }
}

fn opened(mut stream: Stream, protocol: &StreamProtocol) -> Ready<Result<Opened, Infallible>> {
    let known = PROTOCOLS.into_iter().find(|(name, _)| name == protocol);
    // Bitswap's streams stand open while nothing is said; `Shared::keep` tells whether they are of use.
    stream.ignore_for_keep_alive();
    ready(Ok((stream, known.map_or(Version::V1_0, |(_, version)| version))))
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = Opened;
    type Error = Infallible;
    type Future = Ready<Result<Opened, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        opened(stream, &protocol)
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = Opened;
    type Error = Infallible;
    type Future = Ready<Result<Opened, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        opened(stream, &protocol)
    }
}

type Poked = ConnectionHandlerEvent<Upgrade, (), FromHandler>;

#[derive(Debug)]
pub struct Handler {
    shared: Arc<Shared>,
    queue: VecDeque<Poked>,
    waker: Option<Waker>,
}

impl Handler {
    pub fn new(shared: Arc<Shared>) -> Handler {
        Handler { shared, queue: VecDeque::new(), waker: None }
    }

    fn push(&mut self, event: Poked) {
        self.queue.push_back(event);
        if let Some(w) = self.waker.take() {
            w.wake();
        }
    }

    fn tell(&mut self, event: FromHandler) {
        self.push(ConnectionHandlerEvent::NotifyBehaviour(event));
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = FromHandler;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade, ()> {
        SubstreamProtocol::new(Upgrade, ()).with_timeout(TIMEOUT)
    }

    fn connection_keep_alive(&self) -> bool {
        self.shared.keep.load(Ordering::Relaxed)
    }

    fn on_behaviour_event(&mut self, Open: Open) {
        let protocol = SubstreamProtocol::new(Upgrade, ()).with_timeout(TIMEOUT);
        self.push(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Poked> {
        match self.queue.pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Upgrade, Upgrade, (), ()>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. })
                if self.queue.len() < MAX_WAITING =>
            {
                self.tell(FromHandler::Theirs(protocol));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                self.tell(FromHandler::Ours(Ok(protocol)));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                self.tell(FromHandler::Ours(Err(error.to_string())));
            }
            _ => {}
        }
    }
}
