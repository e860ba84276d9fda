//! The first chunk, of the choice of whom is asked.

use super::net::{CHUNK, K};
use super::one::*;
use crate::bitfield::Bitfield;
use crate::engine::*;
use crate::units::{ChunkIndex, PeerKey, Time};

/// Wants a content of which it knows no chunk.
fn newcomer() -> One {
    let mut one = One { e: Engine::new(Config::default(), 1), now: Time(1_000_000_000), said: Vec::new() };
    one.content(K, ContentEvent::Added { want: true });
    one
}

fn asks_any(said: &[Action], p: u64) -> bool {
    has(said, |a| matches!(a, Action::Join { peer, any: true, .. } if peer.0 == p))
}

/// A seed that has unchoked us says what it sends.
fn promises(one: &mut One, p: u64, chunk: Option<u32>) {
    one.peer(p, PeerEvent::Unchoked);
    one.peer(p, PeerEvent::Joined { content: K, have: Bitfield::new(), complete: true });
    one.peer(p, PeerEvent::Promised { content: K, chunk: chunk.map(ix) });
}

fn grow(one: &mut One, count: u32) -> Vec<Action> {
    let mut said = one.content(K, ContentEvent::Grew { count, len: CHUNK }).to_vec();
    said.extend_from_slice(one.content(K, ContentEvent::ManifestComplete));
    said
}

#[test]
fn what_is_promised_is_wanted_and_not_asked_for() {
    let mut one = newcomer();
    one.connect(1);
    assert!(asks_any(&one.said, 1));
    promises(&mut one, 1, Some(7));
    let asked = requests(&grow(&mut one, 40));
    assert_eq!(asked.len(), 1, "one, as of any newcomer: {asked:?}");
    assert!(!asked.contains(&(1, 7)));
    assert_eq!(one.deliver(1, 7), Arrival::Wanted);
    assert_eq!(requests(&one.said), [], "nobody has looked at it yet");
    assert!(requests(one.store(1, 7)).len() >= 4);
    assert_eq!(one.view(1).trust, 3);
}

#[test]
fn one_peer_at_a_time_chooses_and_only_while_no_chunk_is_known() {
    let mut one = newcomer();
    one.connect(1);
    one.connect(2);
    assert!(!asks_any(&one.said, 2), "two would choose the same one");
    one.peer(1, PeerEvent::Left { content: K });
    one.connect(3);
    assert!(asks_any(&one.said, 3));
    one.peer(3, PeerEvent::Disconnected);
    one.connect(4);
    assert!(asks_any(&one.said, 4));
    promises(&mut one, 4, None);
    one.connect(5);
    assert!(asks_any(&one.said, 5), "the one before had nothing to give");
    grow(&mut one, 40);
    one.peer(5, PeerEvent::Left { content: K });
    one.connect(6);
    assert!(!asks_any(&one.said, 6));
    one.peer(7, PeerEvent::Connected { kind: PeerKind::Bitswap, rtt: None });
    assert!(!asks_any(&one.said, 7));
}

#[test]
fn what_comes_before_it_is_promised_is_nobodys_fault_and_not_waited_for() {
    let mut one = newcomer();
    one.connect(1);
    assert_eq!(one.deliver(1, 7), Arrival::Late);
    promises(&mut one, 1, Some(7));
    let asked = requests(&grow(&mut one, 40));
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(one.deliver(1, asked[0].1), Arrival::Wanted);
    assert_eq!(one.view(1).trust, 3);
    let other = (0..40).find(|c| !asked.contains(&(1, *c))).unwrap();
    assert_eq!(one.deliver(1, other), Arrival::Unasked, "that was once");
}

#[test]
fn what_is_here_already_is_cancelled() {
    let mut one = newcomer();
    one.connect(1);
    promises(&mut one, 1, Some(7));
    let news = [
        ContentEvent::Grew { count: 40, len: CHUNK },
        ContentEvent::Held(r(0, 10)),
        ContentEvent::ManifestComplete,
    ];
    one.e.handle_content_all(one.now, K, news);
    let cancel = Action::Cancel { peer: PeerKey(1), content: K, chunks: vec![ix(7)] };
    assert!(one.collect().contains(&cancel));
    assert_eq!(one.deliver(1, 7), Arrival::Late);
    assert_eq!(one.view(1).trust, 3);
}

#[test]
fn what_is_refused_after_all_is_asked_for_like_any_other() {
    for known in [false, true] {
        let mut one = newcomer();
        one.connect(1);
        promises(&mut one, 1, Some(7));
        let mut asked = if known { requests(&grow(&mut one, 9)) } else { Vec::new() };
        let refused = PeerEvent::Refused { content: K, chunk: ix(7), why: Refusal::Choked };
        asked.extend(requests(one.peer(1, refused)));
        if !known {
            asked.extend(requests(&grow(&mut one, 9)));
        }
        while let Some((p, c)) = asked.pop() {
            assert_eq!(one.deliver(p, c), Arrival::Wanted);
            asked.extend(requests(&one.said));
            asked.extend(requests(one.store(p, c)));
        }
        assert!(one.e.is_complete(K));
    }
}

#[test]
fn a_promise_of_a_peer_that_leaves_is_late_if_it_comes() {
    let mut one = newcomer();
    one.connect(1);
    promises(&mut one, 1, Some(7));
    one.peer(1, PeerEvent::Left { content: K });
    assert_eq!(one.deliver(1, 7), Arrival::Late);
    assert_eq!(one.view(1).trust, 3);
}

fn gives(one: &mut One, p: u64) -> Option<ChunkIndex> {
    one.e.handle_any(one.now, PeerKey(p), K)
}

#[test]
fn newcomers_are_given_different_chunks_at_once() {
    let mut one = One::seed(40);
    let (mut given, mut sent) = (Vec::new(), Vec::new());
    for p in 0..3 {
        one.taker(p);
        let chunk = gives(&mut one, p).unwrap();
        given.push((p, chunk.get()));
        sent.extend(sends(one.collect()));
        assert_eq!(gives(&mut one, p), None, "one is on its way to it");
    }
    for (p, c) in given.clone() {
        let left = PeerEvent::Sent { content: K, chunk: ix(c), bytes: LEN };
        sent.extend(sends(one.peer(p, left)));
    }
    sent.sort_unstable();
    assert_eq!(sent, given);
    given.sort_unstable_by_key(|(_, c)| *c);
    given.dedup_by_key(|(_, c)| *c);
    assert_eq!(given.len(), 3, "a seed sends first what nobody has: {given:?}");
}

#[test]
fn nothing_is_given_to_who_is_choked_has_some_or_is_no_member() {
    let mut one = One::new(Config { slots: Slots::Fixed(1), ..Config::default() }, 40, false);
    one.connect(1);
    assert_eq!(gives(&mut one, 1), None);
    one.peer(1, PeerEvent::Joined { content: K, have: [ix(3)].into_iter().collect(), complete: false });
    one.peer(1, PeerEvent::Interested { content: K, interested: true });
    assert_eq!(gives(&mut one, 1), None);
    one.taker(2);
    assert_eq!(gives(&mut one, 2), None, "there is one slot");
    assert_eq!(gives(&mut one, 9), None);
    assert_eq!(one.e.handle_any(one.now, PeerKey(1), crate::units::ContentKey(9)), None);
}
