//! One connection: opens our streams on it when told, and hands all streams to the behaviour.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libp2p::Stream;
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandler, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
    ListenUpgradeError,
};
use libp2p::swarm::{ConnectionHandlerEvent, SubstreamProtocol};

use super::upgrade::{Accept, HelloError, Open, Opened};
use crate::wire::exchange::Hello;

/// A stream that has not said hello by then is dropped.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub enum ToHandler {
    Open(Hello),
}

#[derive(Debug)]
pub enum FromHandler {
    /// A stream that we asked for.
    Ours { hello: Hello, stream: Stream },
    /// A stream that the peer opened.
    Theirs(Box<Opened>),
    /// A stream that we asked for did not come to be.
    Failed { hello: Hello, why: String },
    /// The peer opened a stream and said something else than hello.
    Violation { what: String },
}

type Poked = ConnectionHandlerEvent<Open, Hello, FromHandler>;

#[derive(Debug, Default)]
pub struct Handler {
    queue: VecDeque<Poked>,
    waker: Option<Waker>,
}

impl Handler {
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
    type FromBehaviour = ToHandler;
    type ToBehaviour = FromHandler;
    type InboundProtocol = Accept;
    type OutboundProtocol = Open;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Hello;

    fn listen_protocol(&self) -> SubstreamProtocol<Accept, ()> {
        SubstreamProtocol::new(Accept, ()).with_timeout(HELLO_TIMEOUT)
    }

    fn on_behaviour_event(&mut self, ToHandler::Open(hello): ToHandler) {
        let protocol = SubstreamProtocol::new(Open(hello), hello).with_timeout(HELLO_TIMEOUT);
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

    fn on_connection_event(&mut self, event: ConnectionEvent<Accept, Open, (), Hello>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.tell(FromHandler::Theirs(Box::new(protocol)));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                self.tell(FromHandler::Ours { hello: info, stream: protocol });
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.tell(FromHandler::Failed { hello: info, why: error.to_string() });
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { error, .. }) => match error {
                HelloError::Io(_) => {}
                HelloError::Wire(_) | HelloError::NoHello => {
                    self.tell(FromHandler::Violation { what: error.to_string() });
                }
            },
            _ => {}
        }
    }
}
