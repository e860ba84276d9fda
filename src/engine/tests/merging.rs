//! Two contents that share chunks: each is fetched once, from whoever has either.

use std::time::Duration;

use super::net::K;
use super::one::*;
use crate::bitfield::Bitfield;
use crate::engine::*;
use crate::units::{ContentKey, PeerKey};

const L: ContentKey = ContentKey(1);

/// Two contents of so many chunks, wanted both; chunk i of one is chunk i of the other.
fn two(chunks: u32) -> One {
    let mut one = One::leech(chunks);
    one.content(L, ContentEvent::Added { want: true });
    one.content(L, ContentEvent::Grew { count: chunks, len: super::net::CHUNK });
    one.content(L, ContentEvent::ManifestComplete);
    for c in 0..chunks {
        one.content(L, ContentEvent::Same { chunk: ix(c), other: (K, ix(c)) });
    }
    one
}

/// A peer that has all of one of them, has unchoked us, and has proven itself with a third content.
fn source(one: &mut One, p: u64, content: ContentKey) -> Vec<Action> {
    one.connect(p);
    one.peer(p, PeerEvent::Unchoked);
    one.peer(p, PeerEvent::Joined { content, have: Bitfield::new(), complete: true }).to_vec()
}

fn asked(actions: &[Action], content: ContentKey) -> Vec<(u64, u32)> {
    let of = |a: &Action| match a {
        Action::Request { peer, content: k, chunks } if *k == content => {
            chunks.iter().map(|c| (peer.0, c.get())).collect()
        }
        _ => Vec::new(),
    };
    actions.iter().flat_map(of).collect()
}

fn copies(actions: &[Action]) -> Vec<(ContentKey, u32)> {
    let of = |a: &Action| match a {
        Action::Copy { content, chunk, .. } => Some((*content, chunk.get())),
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

fn missing(one: &One, k: ContentKey) -> u32 {
    one.e.content(one.now, k).unwrap().wanted_missing
}

#[test]
fn a_shared_chunk_is_asked_for_once_and_copied_and_told() {
    let mut one = two(1);
    assert_eq!(asked(&source(&mut one, 1, K), K), [(1, 0)]);
    assert!(asked(&source(&mut one, 2, L), L).is_empty(), "it is on its way already");
    one.connect(3);
    one.peer(3, PeerEvent::Joined { content: L, have: Bitfield::new(), complete: false });
    assert_eq!(one.deliver(1, 0), Arrival::Wanted);
    assert!(copies(&one.said).is_empty(), "it is not verified yet");
    let said = one.store(1, 0).to_vec();
    assert_eq!(copies(&said), [(L, 0)]);
    assert!(has(&said, |a| *a == Action::Finished { content: K }));
    let said = one.content(L, ContentEvent::Held(r(0, 1)));
    assert!(has(said, |a| *a == Action::Finished { content: L }));
    assert!(has(said, |a| matches!(a, Action::Have { peer, content: L, .. } if peer.0 == 3)));
}

#[test]
fn the_sources_of_either_content_serve_both() {
    let mut one = two(40);
    source(&mut one, 1, K);
    source(&mut one, 2, L);
    let (mut got, mut copied) = ([0u32; 2], 0);
    for _ in 0..200 {
        for (p, k, n) in [(1, K, 0), (2, L, 1)] {
            let Some(c) = (0..40).find(|c| one.e.contents[&k].picker.asks(*c) > 0) else { continue };
            if one.e.handle_chunk(one.now, PeerKey(p), k, ix(c), LEN) == Arrival::Wanted {
                one.collect();
                got[n] += 1;
                one.e.handle_store(
                    one.now,
                    StoreResult::Stored { content: k, chunk: ix(c), from: PeerKey(p) },
                );
                for (k, c) in copies(one.collect()) {
                    copied += 1;
                    one.content(k, ContentEvent::Held(r(c, c + 1)));
                }
            }
            one.pass(10);
        }
    }
    assert_eq!((missing(&one, K), missing(&one, L)), (0, 0));
    assert_eq!((got[0] + got[1], copied), (40, 40), "each came once");
    assert!(got.iter().all(|n| *n > 10), "{got:?}: both sources gave");
}

#[test]
fn what_one_content_asks_for_in_vain_the_other_asks_its_own_sources_for() {
    let mut one = two(1);
    source(&mut one, 1, K);
    source(&mut one, 2, L);
    assert_eq!(asked(one.peer(1, PeerEvent::Disconnected), L), [(2, 0)]);
    // And back again, when that is refused.
    source(&mut one, 3, K);
    let gone = PeerEvent::Refused { content: L, chunk: ix(0), why: Refusal::Gone };
    assert_eq!(asked(one.peer(2, gone), K), [(3, 0)]);
}

#[test]
fn a_silent_source_of_one_content_does_not_hold_up_the_other() {
    let mut one = two(1);
    source(&mut one, 1, K);
    source(&mut one, 2, L);
    let said = one.pass(30_000);
    assert_eq!(asked(&said, L), [(2, 0)]);
    assert_eq!(one.e.handle_chunk(one.now, PeerKey(2), L, ix(0), LEN), Arrival::Wanted);
    let said = one.collect().to_vec();
    assert!(asked(&said, K).is_empty());
    // What the silent one sends after all is late, and no fault.
    assert_eq!(one.deliver(1, 0), Arrival::Late);
}

#[test]
fn a_content_that_is_paused_or_removed_gives_its_chunks_back() {
    for event in [ContentEvent::Paused(true), ContentEvent::Removed] {
        let mut one = two(1);
        source(&mut one, 1, K);
        source(&mut one, 2, L);
        assert_eq!(asked(one.content(K, event), L), [(2, 0)]);
    }
    // The same while the chunk is with the store.
    let mut one = two(1);
    source(&mut one, 1, K);
    source(&mut one, 2, L);
    one.deliver(1, 0);
    assert_eq!(asked(one.content(K, ContentEvent::Removed), L), [(2, 0)]);
}

#[test]
fn a_paused_content_is_copied_to_once_it_is_resumed() {
    let mut one = two(1);
    one.content(L, ContentEvent::Paused(true));
    source(&mut one, 1, K);
    one.deliver(1, 0);
    assert!(copies(one.store(1, 0)).is_empty());
    assert_eq!(copies(one.content(L, ContentEvent::Paused(false))), [(L, 0)]);
}

#[test]
fn what_is_not_wanted_is_not_copied_before_it_is() {
    let mut one = two(2);
    one.content(L, ContentEvent::Priority { range: r(0, 2), level: 0 });
    source(&mut one, 1, K);
    let c = (0..2).find(|c| one.e.contents[&K].picker.asks(*c) > 0).unwrap();
    one.deliver(1, c);
    assert!(copies(one.store(1, c)).is_empty());
    assert_eq!(copies(one.content(L, ContentEvent::Priority { range: r(c, c + 1), level: 1 })), [(L, c)]);
}

#[test]
fn a_copy_that_fails_is_fetched() {
    let mut one = two(1);
    source(&mut one, 1, K);
    source(&mut one, 2, L);
    one.deliver(1, 0);
    assert_eq!(copies(one.store(1, 0)), [(L, 0)]);
    assert_eq!(asked(one.content(L, ContentEvent::NotCopied(ix(0))), L), [(2, 0)]);
    // Even if the content that had it is gone by then.
    let mut one = two(1);
    source(&mut one, 1, K);
    source(&mut one, 2, L);
    one.deliver(1, 0);
    one.store(1, 0);
    assert!(asked(one.content(K, ContentEvent::Removed), L).is_empty());
    assert_eq!(asked(one.content(L, ContentEvent::NotCopied(ix(0))), L), [(2, 0)]);
}

#[test]
fn wrong_bytes_for_one_content_leave_the_chunk_to_the_other() {
    let mut one = two(1);
    source(&mut one, 1, K);
    source(&mut one, 2, L);
    one.deliver(1, 0);
    one.e.handle_store(one.now, StoreResult::Bad { content: K, chunk: ix(0), from: PeerKey(1) });
    assert_eq!(asked(one.collect(), L), [(2, 0)]);
}

#[test]
fn a_reader_does_not_wait_for_another_contents_slow_source() {
    let mut one = two(1);
    source(&mut one, 1, K);
    // The reader's source is known to be quick.
    source(&mut one, 2, L);
    one.peer(2, PeerEvent::Receiving { bytes: 10_000_000 });
    let window =
        ContentEvent::Window { start: ix(0), count: 1, per_chunk: std::time::Duration::from_millis(100) };
    assert_eq!(asked(one.content(L, window), L), [(2, 0)]);
    one.e.handle_chunk(one.now, PeerKey(2), L, ix(0), LEN);
    assert!(has(one.collect(), |a| matches!(a, Action::Cancel { content: K, .. })), "the loser is cancelled");
}

#[test]
fn three_contents_fetch_once_and_copy_twice() {
    let mut one = two(1);
    let third = ContentKey(2);
    one.content(third, ContentEvent::Added { want: true });
    one.content(third, ContentEvent::Grew { count: 1, len: super::net::CHUNK });
    one.content(third, ContentEvent::ManifestComplete);
    one.content(third, ContentEvent::Same { chunk: ix(0), other: (L, ix(0)) });
    source(&mut one, 1, third);
    assert!(asked(&source(&mut one, 2, K), K).is_empty());
    one.e.handle_chunk(one.now, PeerKey(1), third, ix(0), LEN);
    one.e.handle_store(one.now, StoreResult::Stored { content: third, chunk: ix(0), from: PeerKey(1) });
    let mut made = copies(one.collect());
    made.sort();
    assert_eq!(made, [(K, 0), (L, 0)]);
    one.content(K, ContentEvent::Held(r(0, 1)));
    one.content(L, ContentEvent::Held(r(0, 1)));
    assert!(one.e.contents.values().all(|c| c.twins.is_empty()), "nothing is kept of what is done");
}

#[test]
fn chunks_told_with_their_twins_are_not_asked_for_in_between() {
    let mut one = One::leech(1);
    one.source(1);
    one.content(L, ContentEvent::Added { want: true });
    source(&mut one, 2, L);
    let same = ContentEvent::Same { chunk: ix(0), other: (K, ix(0)) };
    one.e.handle_content_all(one.now, L, [ContentEvent::Grew { count: 1, len: 9 }, same]);
    assert!(asked(one.collect(), L).is_empty());
}

/// A reader's window asked for it again, and the disk was as full as before.
#[test]
fn what_a_full_disk_holds_back_is_not_asked_for_because_another_content_asks_for_its_like() {
    let mut one = two(4);
    let first = asked(&source(&mut one, 1, K), K)[0].1;
    one.pass(100);
    one.deliver(1, first);
    let c = asked(one.store(1, first), K)[0].1;
    assert_eq!(one.deliver(1, c), Arrival::Wanted);
    one.e.handle_store(one.now, StoreResult::NotStored { content: K, chunk: ix(c) });
    one.collect();
    one.connect(2);
    one.peer(2, PeerEvent::Unchoked);
    let have = [ix(c)].into_iter().collect();
    assert_eq!(asked(one.peer(2, PeerEvent::Joined { content: L, have, complete: false }), L), [(2, c)]);
    let per_chunk = Duration::from_millis(50);
    let said = one.content(K, ContentEvent::Window { start: ix(c), count: 1, per_chunk }).to_vec();
    assert_eq!(asked(&said, K), []);
    one.content(K, ContentEvent::Paused(true));
    one.content(K, ContentEvent::Paused(false));
    assert_eq!(one.view(1).trust, 3);
}
