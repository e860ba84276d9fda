use super::*;
use crate::bitfield::Bitfield;
use crate::net::api::Outgoing;
use crate::units::ChunkIndex;
use crate::wire::exchange::{Message, Why};

fn join() -> Message {
    let (root, have) = (a_cid(1), Bitfield::new());
    Message::Join { root, have, complete: false, interested: true, any: false, has_nodes: false }
}

fn joined() -> Message {
    Message::Joined {
        root: a_cid(1),
        have: Bitfield::full(1_000),
        complete: true,
        interested: false,
        choked: false,
        nodes: vec![],
        peers: vec![],
        first: None,
    }
}

fn chunk(n: u32, len: u32) -> Message {
    Message::Chunk { root: a_cid(1), index: ChunkIndex::new(n).unwrap(), block_lens: vec![len] }
}

/// Join, Joined, then a thousand chunks that the receiver checks.
async fn a_thousand_chunks(listen: &str) {
    const LEN: u32 = 262_144;
    let (mut a, la, mut b, lb) = linked(listen).await;
    la.control.send(join()).await.unwrap();
    match b.next().await {
        Inbound::Message { peer, link, message } => {
            assert_eq!((peer, link, message), (a.id(), lb.id, join()));
        }
        other => panic!("{other:?}"),
    }
    lb.control.send(joined()).await.unwrap();
    assert!(matches!(a.next().await, Inbound::Message { message, .. } if message == joined()));

    let serve = async {
        let mut back = 0;
        for n in 0..1_000u32 {
            let mut body = b.net.pool.get();
            body.resize(LEN as usize, 0);
            body.fill(n as u8);
            body[..4].copy_from_slice(&n.to_le_bytes());
            lb.data.send(Outgoing { message: chunk(n, LEN), body }).await.unwrap();
            while n + 1 - back >= 16 || (n == 999 && back < 1_000) {
                match b.inbound.recv().await.unwrap() {
                    Inbound::Sent { body, .. } => b.net.pool.put(body),
                    other => panic!("{other:?}"),
                }
                back += 1;
            }
        }
    };
    let fetch = async {
        let mut next = 0u32;
        while next < 1_000 {
            match a.inbound.recv().await.unwrap() {
                Inbound::Chunk { message, body, .. } => {
                    assert_eq!(message, chunk(next, LEN));
                    assert_eq!(body.len(), LEN as usize);
                    assert_eq!(body[..4], next.to_le_bytes());
                    assert!(body[4..].iter().all(|&x| x == next as u8));
                    a.net.pool.put(body);
                    next += 1;
                }
                Inbound::Progress { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(LONG, async { tokio::join!(serve, fetch) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_travel_over_tcp() {
    a_thousand_chunks(TCP).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_travel_over_quic() {
    a_thousand_chunks(QUIC).await;
}

#[tokio::test]
async fn refusals_and_chunks_come_in_order_on_the_data_stream() {
    let (mut a, _la, _b, lb) = linked(TCP).await;
    let no = |why| Message::NoChunk { root: a_cid(1), index: ChunkIndex::new(3).unwrap(), why };
    let whys = [Why::Gone, Why::Choked, Why::Cancelled];
    for why in whys {
        lb.data.send(Outgoing { message: no(why), body: vec![] }).await.unwrap();
    }
    lb.data.send(Outgoing { message: chunk(9, 5), body: b"hello".to_vec() }).await.unwrap();
    lb.data.send(Outgoing { message: chunk(10, 0), body: vec![] }).await.unwrap();
    for why in whys {
        assert!(matches!(a.next().await, Inbound::Message { message, .. } if message == no(why)));
    }
    assert!(matches!(a.next().await, Inbound::Chunk { body, .. } if body == b"hello"));
    assert!(matches!(a.next().await, Inbound::Chunk { body, .. } if body.is_empty()));
}

#[tokio::test]
async fn both_sides_may_open_at_once() {
    let (mut a, mut b) = (Node::new(TCP).await, Node::new(TCP).await);
    a.connect(&b).await;
    b.event(|e| matches!(e, Event::Connected { .. }).then_some(())).await;
    a.tell(Command::OpenLink { peer: b.id() }).await;
    b.tell(Command::OpenLink { peer: a.id() }).await;
    let (la, lb) = (a.link_up().await, b.link_up().await);
    la.control.send(join()).await.unwrap();
    lb.control.send(joined()).await.unwrap();
    assert!(matches!(b.next().await, Inbound::Message { message, .. } if message == join()));
    assert!(matches!(a.next().await, Inbound::Message { message, .. } if message == joined()));
}

#[tokio::test]
async fn what_was_queued_arrives_before_the_link_that_is_dropped_closes() {
    let (mut a, _la, mut b, lb) = linked(TCP).await;
    for n in 0..8 {
        let body = vec![n as u8; 100_000];
        lb.data.send(Outgoing { message: chunk(n, 100_000), body }).await.unwrap();
    }
    drop(lb);
    for n in 0..8u8 {
        assert!(matches!(a.next().await, Inbound::Chunk { body, .. } if body == vec![n; 100_000]));
    }
    assert!(matches!(a.next().await, Inbound::Closed { .. }));
    a.link_down().await;
    b.link_down().await;
}

#[tokio::test]
async fn a_link_can_be_opened_again_and_again() {
    let (mut a, mut la, mut b, mut lb) = linked(TCP).await;
    for n in 0..20 {
        drop(la);
        assert!(matches!(b.next().await, Inbound::Closed { .. }), "round {n}");
        drop(lb);
        assert!(matches!(a.next().await, Inbound::Closed { .. }), "round {n}");
        a.link_down().await;
        a.tell(Command::OpenLink { peer: b.id() }).await;
        la = a.link_up().await;
        lb = b.event(|e| if let Event::LinkUp { link, .. } = e { Some(link) } else { None }).await;
        la.control.send(join()).await.unwrap();
        assert!(matches!(b.next().await, Inbound::Message { link, .. } if link == lb.id), "round {n}");
    }
}

#[tokio::test]
async fn a_link_to_nobody_is_said_so() {
    let mut a = Node::new(TCP).await;
    a.tell(Command::OpenLink { peer: PeerId::random() }).await;
    assert_eq!(a.link_down().await, "not connected");
}

#[tokio::test]
async fn a_peer_that_vanishes_is_noticed() {
    let (mut a, _la, b, _lb) = linked(TCP).await;
    b.tell(Command::Shutdown).await;
    assert!(matches!(a.next().await, Inbound::Closed { .. }));
    a.event(|e| matches!(e, Event::Disconnected { .. }).then_some(())).await;
}

#[tokio::test]
async fn a_banned_peer_stays_out() {
    let (mut a, _la, mut b, _lb) = linked(TCP).await;
    a.tell(Command::Ban { peer: b.id() }).await;
    a.event(|e| matches!(e, Event::Disconnected { .. }).then_some(())).await;
    b.event(|e| matches!(e, Event::Disconnected { .. }).then_some(())).await;
    b.tell(Command::Dial { peer: Some(a.id()), addrs: vec![a.addr()] }).await;
    // It may connect for a moment, until we know who it is; it never stays.
    b.event(|e| matches!(e, Event::Disconnected { .. } | Event::DialFailed { .. }).then_some(())).await;
}

#[tokio::test]
async fn a_link_keeps_its_connection_and_an_unused_one_is_closed() {
    let cfg = || {
        let mut c = config(TCP);
        c.limits.idle_timeout = Duration::from_millis(300);
        c
    };
    let (mut a, mut b, c) = (Node::with(cfg()).await, Node::with(cfg()).await, Node::with(cfg()).await);
    a.connect(&b).await;
    a.tell(Command::OpenLink { peer: b.id() }).await;
    let (la, _lb) = (a.link_up().await, b.link_up().await);
    a.connect(&c).await;
    let gone = a.event(|e| if let Event::Disconnected { peer } = e { Some(peer) } else { None }).await;
    assert_eq!(gone, c.id());
    la.control.send(join()).await.unwrap();
    assert!(matches!(b.next().await, Inbound::Message { .. }));
}
