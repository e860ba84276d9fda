//! A peer that speaks the protocol's name and then does what it likes.

use super::*;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    SubstreamProtocol, Swarm, THandler, THandlerOutEvent, ToSwarm,
};
use libp2p::{Stream, StreamProtocol, SwarmBuilder, noise, tcp, yamux};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use crate::wire::exchange::{Hello, Message, StreamKind};

/// Takes and gives bare streams of a protocol's name.
#[derive(Clone)]
struct Bare(StreamProtocol);

impl UpgradeInfo for Bare {
    type Info = StreamProtocol;
    type InfoIter = std::iter::Once<StreamProtocol>;
    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(self.0.clone())
    }
}

impl InboundUpgrade<Stream> for Bare {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;
    fn upgrade_inbound(self, s: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(s))
    }
}

impl OutboundUpgrade<Stream> for Bare {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;
    fn upgrade_outbound(self, s: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(s))
    }
}

/// Opens so many streams, and hands all streams out.
struct Opener {
    bare: Bare,
    open: usize,
    out: mpsc::Sender<(bool, Stream)>,
}

impl ConnectionHandler for Opener {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Bare;
    type OutboundProtocol = Bare;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Bare, ()> {
        SubstreamProtocol::new(self.bare.clone(), ())
    }
    fn connection_keep_alive(&self) -> bool {
        true
    }
    fn on_behaviour_event(&mut self, _: Infallible) {}
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Bare, (), Infallible>> {
        if self.open == 0 {
            return Poll::Pending;
        }
        self.open -= 1;
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
            protocol: SubstreamProtocol::new(self.bare.clone(), ()),
        })
    }
    fn on_connection_event(&mut self, event: ConnectionEvent<Bare, Bare>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.out.try_send((false, protocol)).unwrap();
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                self.out.try_send((true, protocol)).unwrap();
            }
            _ => {}
        }
    }
}

struct Hostile(Bare, usize, mpsc::Sender<(bool, Stream)>);

impl NetworkBehaviour for Hostile {
    type ConnectionHandler = Opener;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Opener { bare: self.0.clone(), open: self.1, out: self.2.clone() })
    }
    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: libp2p::core::Endpoint,
        _: libp2p::core::transport::PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Opener { bare: self.0.clone(), open: self.1, out: self.2.clone() })
    }
    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}
    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, e: THandlerOutEvent<Self>) {
        match e {}
    }
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, Infallible>> {
        Poll::Pending
    }
}

/// A node of ours, and `n` bare streams to it. The swarm behind them runs while the task does.
async fn attacked(n: usize) -> (Node, Vec<Stream>, mpsc::Receiver<(bool, Stream)>) {
    attacked_by(crate::net::exchange::PROTOCOL, n).await
}

/// The same by another protocol.
pub async fn attacked_by(
    protocol: StreamProtocol,
    n: usize,
) -> (Node, Vec<Stream>, mpsc::Receiver<(bool, Stream)>) {
    attacked_with(config(TCP), protocol, n).await
}

/// The same, and the node's settings.
pub async fn attacked_with(
    cfg: NetConfig,
    protocol: StreamProtocol,
    n: usize,
) -> (Node, Vec<Stream>, mpsc::Receiver<(bool, Stream)>) {
    let node = Node::with(cfg).await;
    let (tx, mut rx) = mpsc::channel(64);
    let mut swarm: Swarm<Hostile> = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| Hostile(Bare(protocol), n, tx))
        .unwrap()
        .build();
    swarm.dial(node.addr()).unwrap();
    tokio::spawn(async move {
        loop {
            swarm.next().await;
        }
    });
    let mut streams = Vec::new();
    while streams.len() < n {
        let (ours, s) = timeout(LONG, rx.recv()).await.unwrap().unwrap();
        assert!(ours, "nothing was opened to us yet");
        streams.push(s);
    }
    (node, streams, rx)
}

fn hello(stream: StreamKind, link: u64) -> Vec<u8> {
    let mut out = Vec::new();
    Message::Hello(Hello { stream, features: 0, link, answers: 0 }).encode(&mut out).unwrap();
    out
}

pub async fn write(s: &mut Stream, bytes: &[u8]) {
    s.write_all(bytes).await.unwrap();
    s.flush().await.unwrap();
}

async fn violation(node: &mut Node) -> String {
    loop {
        match node.next().await {
            Inbound::Violation { what, .. } => return what,
            Inbound::Message { .. } | Inbound::Progress { .. } => {}
            other => panic!("{other:?}: {}", node.link_down().await),
        }
    }
}

/// Opens a proper pair, then writes `bytes` on one of its streams.
async fn after_hello(on: usize, bytes: &[u8]) -> String {
    let (mut node, mut s, _rx) = attacked(2).await;
    write(&mut s[0], &hello(StreamKind::Control, 1)).await;
    write(&mut s[1], &hello(StreamKind::Data, 1)).await;
    let _link = node.link_up().await;
    write(&mut s[on], bytes).await;
    let what = violation(&mut node).await;
    node.link_down().await;
    what
}

#[tokio::test]
async fn garbage_instead_of_a_hello() {
    let (mut node, mut s, _rx) = attacked(1).await;
    write(&mut s[0], &[3, 0xff, 0xff, 0xff]).await;
    violation(&mut node).await;
}

#[tokio::test]
async fn another_message_instead_of_a_hello() {
    let (mut node, mut s, _rx) = attacked(1).await;
    let mut out = Vec::new();
    Message::Unknown { root: a_cid(1) }.encode(&mut out).unwrap();
    write(&mut s[0], &out).await;
    assert_eq!(violation(&mut node).await, "something else than a hello came first");
}

#[tokio::test]
async fn a_stream_of_an_unknown_kind() {
    let (mut node, mut s, _rx) = attacked(1).await;
    write(&mut s[0], &[6, 0x0a, 4, 0x08, 9, 0x18, 1]).await;
    assert_eq!(violation(&mut node).await, "a bad value of stream");
}

#[tokio::test]
async fn two_control_streams_of_one_link() {
    let (mut node, mut s, _rx) = attacked(2).await;
    write(&mut s[0], &hello(StreamKind::Control, 1)).await;
    write(&mut s[1], &hello(StreamKind::Control, 1)).await;
    assert_eq!(violation(&mut node).await, "two streams of one kind");
}

#[tokio::test]
async fn many_streams_that_are_no_pair() {
    let (mut node, mut s, _rx) = attacked(5).await;
    for (n, s) in s.iter_mut().enumerate() {
        write(s, &hello(StreamKind::Control, n as u64 + 1)).await;
    }
    assert_eq!(violation(&mut node).await, "too many streams that are not a pair");
}

#[tokio::test]
async fn a_second_pair_beside_a_link() {
    let (mut node, mut s, _rx) = attacked(4).await;
    write(&mut s[0], &hello(StreamKind::Control, 1)).await;
    write(&mut s[1], &hello(StreamKind::Data, 1)).await;
    let _link = node.link_up().await;
    write(&mut s[2], &hello(StreamKind::Control, 2)).await;
    write(&mut s[3], &hello(StreamKind::Data, 2)).await;
    assert_eq!(violation(&mut node).await, "a second pair of streams");
    node.event(|e| matches!(e, Event::Disconnected { .. }).then_some(())).await;
}

#[tokio::test]
async fn receipts_for_what_was_not_sent_and_without_end() {
    let receipts = |n: usize, bytes: u64| {
        let mut out = Vec::new();
        for at in 0..n as u64 {
            Message::Received { bytes, at }.encode(&mut out).unwrap();
        }
        out
    };
    assert_eq!(after_hello(0, &receipts(1, 1)).await, "a receipt for what was not sent");
    assert_eq!(after_hello(0, &receipts(20_000, 0)).await, "receipts without end");
}

#[tokio::test]
async fn an_oversized_frame() {
    // A length of 4 MiB + 1 in four bytes, and of 16 KiB + 1 on the data stream.
    let what = after_hello(0, &[0x81, 0x80, 0x80, 0x02]).await;
    assert_eq!(what, "a frame of 4194305 bytes, more than is allowed");
    let what = after_hello(1, &[0x81, 0x80, 0x01]).await;
    assert_eq!(what, "a frame of 16385 bytes, more than is allowed");
}

#[tokio::test]
async fn a_varint_without_end() {
    assert_eq!(after_hello(1, &[0x80; 4]).await, "a length that is no varint");
}

#[tokio::test]
async fn garbage_on_the_control_stream() {
    after_hello(0, &[4, 0xde, 0xad, 0xbe, 0xef]).await;
}

#[tokio::test]
async fn messages_on_the_wrong_stream() {
    let mut out = Vec::new();
    Message::Unknown { root: a_cid(1) }.encode(&mut out).unwrap();
    assert!(after_hello(1, &out).await.contains("data stream"));
    assert!(after_hello(0, &hello(StreamKind::Control, 1)).await.contains("control stream"));
}

#[tokio::test]
async fn a_chunk_beyond_the_caps() {
    let mut out = Vec::new();
    let index = crate::units::ChunkIndex::new(0).unwrap();
    Message::Chunk { root: a_cid(1), index, block_lens: vec![u32::MAX] }.encode(&mut out).unwrap();
    assert_eq!(after_hello(1, &out).await, "a bad value of block lengths");
}

#[tokio::test]
async fn bytes_against_the_streams_direction() {
    let (mut node, mut s, mut rx) = attacked(2).await;
    write(&mut s[0], &hello(StreamKind::Control, 1)).await;
    write(&mut s[1], &hello(StreamKind::Data, 1)).await;
    let _link = node.link_up().await;
    let (_, mut theirs) = timeout(LONG, rx.recv()).await.unwrap().unwrap();
    write(&mut theirs, &[1, 2, 3]).await;
    assert_eq!(violation(&mut node).await, "bytes against the stream's direction");
}

#[tokio::test]
async fn a_stream_that_says_nothing_is_dropped() {
    let (mut node, mut s, _rx) = attacked(2).await;
    // One says nothing, one is only half of a pair. (Ten seconds of real time: the swarm's own timers
    // are not tokio's and cannot be made to run faster.)
    write(&mut s[1], &hello(StreamKind::Control, 1)).await;
    for s in &mut s {
        s.flush().await.unwrap();
        let end = timeout(LONG, s.read(&mut [0; 1])).await.expect("dropped in time");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    assert!(node.inbound.try_recv().is_err());
    assert!(node.events.try_recv().is_ok_and(|e| !matches!(e, Event::LinkUp { .. })));
}

#[tokio::test]
async fn a_peer_that_stops_in_the_middle_of_a_chunk_holds_nothing_up() {
    let (mut node, mut s, _rx) = attacked(2).await;
    write(&mut s[0], &hello(StreamKind::Control, 1)).await;
    write(&mut s[1], &hello(StreamKind::Data, 1)).await;
    let _link = node.link_up().await;
    let mut out = Vec::new();
    let index = crate::units::ChunkIndex::new(0).unwrap();
    Message::Chunk { root: a_cid(1), index, block_lens: vec![1_000] }.encode(&mut out).unwrap();
    out.extend([7; 500]);
    write(&mut s[1], &out).await;
    let mut unknown = Vec::new();
    Message::Unknown { root: a_cid(1) }.encode(&mut unknown).unwrap();
    write(&mut s[0], &unknown).await;
    assert!(matches!(node.next().await, Inbound::Message { .. }));
    drop(s);
    assert!(matches!(node.next().await, Inbound::Closed { .. }));
}
