//! One connection: a stream for each job, some at a time.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libp2p::core::upgrade::DeniedUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, ConnectionHandler, DialUpgradeError, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandlerEvent, SubstreamProtocol};

use super::behaviour::AskId;
use super::upgrade::Job;
use crate::wire::kad::Answer;

/// From the stream's begin to the answer's end.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Streams open at a time, and jobs that wait for one. Servers take 32 streams of a connection.
const MAX_OPEN: usize = 8;
const MAX_WAITING: usize = 64;

#[derive(Debug)]
pub struct Done {
    pub id: AskId,
    pub result: Result<Answer, String>,
}

#[derive(Debug, Default)]
pub struct Handler {
    waiting: VecDeque<(AskId, Job)>,
    open: usize,
    done: VecDeque<Done>,
    waker: Option<Waker>,
}

impl Handler {
    fn over(&mut self, id: AskId, result: Result<Answer, String>) {
        self.open = self.open.saturating_sub(1);
        self.done.push_back(Done { id, result });
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = (AskId, Job);
    type ToBehaviour = Done;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = Job;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = AskId;

    fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade, ()> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.open > 0 || !self.waiting.is_empty()
    }

    fn on_behaviour_event(&mut self, (id, job): (AskId, Job)) {
        if self.waiting.len() >= MAX_WAITING {
            self.done.push_back(Done { id, result: Err("too much to ask this peer".into()) });
        } else {
            self.waiting.push_back((id, job));
        }
        if let Some(w) = self.waker.take() {
            w.wake();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Job, AskId, Done>> {
        if let Some(done) = self.done.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(done));
        }
        if self.open < MAX_OPEN
            && let Some((id, job)) = self.waiting.pop_front()
        {
            self.open += 1;
            let protocol = SubstreamProtocol::new(job, id).with_timeout(TIMEOUT);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<DeniedUpgrade, Job, (), AskId>) {
        match event {
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                self.over(info, Ok(protocol));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.over(info, Err(error.to_string()));
            }
            _ => {}
        }
    }
}
