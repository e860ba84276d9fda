use super::hostile::{attacked_by, write};
use super::*;
use crate::content::block::cid_of;
use crate::content::{DAG_PB, RAW};
use crate::net::bitswap::{Block, Link, News, PROTOCOLS, What};
use crate::wire::bitswap::{Ask, Entry, Message, Prefix};

impl Node {
    async fn bitswap_up(&mut self) -> Link {
        self.event(|e| match e {
            Event::BitswapUp { link, .. } => Some(link),
            _ => None,
        })
        .await
    }

    async fn bitswap_down(&mut self) -> u64 {
        self.event(|e| match e {
            Event::BitswapDown { link, .. } => Some(link),
            _ => None,
        })
        .await
    }

    async fn news(&mut self) -> News {
        loop {
            match self.next().await {
                Inbound::Bitswap(News { what: What::Progress { .. }, .. }) => {}
                Inbound::Bitswap(news) => return news,
                other => panic!("{other:?}"),
            }
        }
    }

    async fn violation(&mut self) -> String {
        loop {
            match self.news().await.what {
                What::Violation(what) => return what,
                What::Message { .. } | What::Block { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn want(cid: Cid) -> Message {
    let entries = vec![Entry { cid, ask: Ask::Block, priority: 1, dont_have: true }];
    Message { entries, ..Message::default() }
}

/// Two nodes; the first made a link and asked for a block, so that the second has one too.
async fn met(listen: &str) -> (Node, Link, Node, Link) {
    let (mut a, mut b) = (Node::new(listen).await, Node::new(listen).await);
    a.connect(&b).await;
    a.tell(Command::OpenBitswap { peer: b.id() }).await;
    let la = a.bitswap_up().await;
    assert!(la.say(want(a_cid(1))));
    let lb = b.bitswap_up().await;
    let News { peer, link, what } = b.news().await;
    assert_eq!((peer, link), (a.id(), lb.id));
    match what {
        What::Message { entries, full: false, presences } => {
            assert_eq!((entries, presences), (want(a_cid(1)).entries, vec![]));
        }
        other => panic!("{other:?}"),
    }
    (a, la, b, lb)
}

async fn blocks_go_over(listen: &str) {
    let (mut a, _la, mut b, lb) = met(listen).await;
    lb.say(Message { presences: vec![(a_cid(1), false)], ..Message::default() });
    assert!(
        matches!(a.news().await.what, What::Message { presences, .. } if presences == [(a_cid(1), false)])
    );
    for (len, codec) in [(0usize, RAW), (5, RAW), (262_144, RAW), (2 << 20, DAG_PB)] {
        let body: Vec<u8> = (0..len + 7).map(|n| (n % 251) as u8).collect();
        let cid = cid_of(codec == DAG_PB, codec, &body[3..len + 3]);
        let (bytes, data) = (len as u64, body[3..len + 3].to_vec());
        lb.blocks.send(Block { cid, body, range: 3..len + 3, chunk: None, bytes }).await.unwrap();
        match a.news().await.what {
            What::Block { cid: Some(came), body } => assert_eq!((came, body), (cid, data)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(b.news().await.what, What::Sent { bytes: b, .. } if b == bytes));
    }
}

#[tokio::test]
async fn wants_presences_and_blocks_go_over_tcp() {
    blocks_go_over(TCP).await;
}

#[tokio::test]
async fn wants_presences_and_blocks_go_over_quic() {
    blocks_go_over(QUIC).await;
}

#[tokio::test]
async fn a_link_that_is_dropped_ends_and_can_be_made_again() {
    let (mut a, la, _b, lb) = met(TCP).await;
    let first = la.id;
    drop(la);
    assert_eq!(a.bitswap_down().await, first);
    // What the other side says next makes a new one.
    for _ in 0..3 {
        lb.say(want(a_cid(2)));
    }
    let again = a.bitswap_up().await;
    assert!(again.id != first);
}

#[tokio::test]
async fn a_connection_without_wants_idles_out_and_one_with_wants_does_not() {
    let mut cfg = config(TCP);
    cfg.limits.idle_timeout = Duration::from_secs(1);
    cfg.kad = false;
    let mut a = Node::with(cfg).await;
    let (mut kept, mut idle) = (Node::new(TCP).await, Node::new(TCP).await);
    let (kept_id, idle_id) = (kept.id(), idle.id());
    for b in [&mut kept, &mut idle] {
        a.connect(b).await;
        a.tell(Command::OpenBitswap { peer: b.id() }).await;
        let link = a.bitswap_up().await;
        link.keep(b.id() == kept_id);
        link.say(want(a_cid(1)));
        b.bitswap_up().await;
        // The links live as long as the test does.
        std::mem::forget(link);
    }
    let gone = a
        .event(|e| match e {
            Event::Disconnected { peer } => Some(peer),
            _ => None,
        })
        .await;
    assert_eq!(gone, idle_id);
}

#[tokio::test]
async fn lengths_and_messages_outside_the_protocol_end_the_link() {
    let long = |len: usize| {
        let mut out = Vec::new();
        let blocks = vec![(Prefix::of(&a_cid(1)), vec![0; len].into())];
        Message { blocks, ..Message::default() }
            .encode(crate::wire::bitswap::Version::V1_2, &mut out)
            .unwrap();
        out
    };
    for (what, bytes) in [
        ("a message above 4 MiB", vec![0x81, 0x80, 0x80, 0x02]),
        ("a varint without end", vec![0xff; 16]),
        ("noise", vec![4, 0xff, 0xff, 0xff, 0xff]),
        // Nobody asked this peer for anything.
        ("a long message of a stranger", long(600 << 10)),
    ] {
        println!("{what}");
        let (mut node, mut s, _rx) = attacked_by(PROTOCOLS[0].0.clone(), 1).await;
        let _ = futures::AsyncWriteExt::write_all(&mut s[0], &bytes).await;
        let _ = futures::AsyncWriteExt::flush(&mut s[0]).await;
        let link = node.bitswap_up().await;
        node.violation().await;
        assert_eq!(node.bitswap_down().await, link.id);
    }
}

#[tokio::test]
async fn a_message_in_pieces_and_one_that_is_cut_off() {
    let (mut node, mut s, _rx) = attacked_by(PROTOCOLS[0].0.clone(), 2).await;
    let mut bytes = Vec::new();
    want(a_cid(7)).encode(crate::wire::bitswap::Version::V1_2, &mut bytes).unwrap();
    let second = s.pop().unwrap();
    let (first, rest) = (&mut s[0], [&bytes[..], &bytes[..20]].concat());
    for byte in rest {
        write(first, &[byte]).await;
    }
    let _link = node.bitswap_up().await;
    assert!(matches!(node.news().await.what, What::Message { entries, .. } if entries[0].cid == a_cid(7)));
    // The stream ends within its second message; another one still serves.
    drop(s);
    let mut second = second;
    write(&mut second, &bytes).await;
    assert!(matches!(node.news().await.what, What::Message { entries, .. } if entries[0].cid == a_cid(7)));
}
