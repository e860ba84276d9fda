//! One ring, one question: what `dunlin lab ring --ids ...` shows.

use std::time::Duration;

use serde::Serialize;

use super::net::Net;
use super::space::Space;
use super::{RingConfig, RingError};

/// A ring to build, who leaves it, and what is asked then.
#[derive(Clone, Debug)]
pub struct Example {
    pub bits: u32,
    pub ids: Vec<u64>,
    /// (who asks, for which key).
    pub lookup: Option<(u64, u64)>,
    /// Keep fingers.
    pub shortcuts: bool,
    /// Know and route by so many successors; `None`: know two, route by the first.
    pub successors: Option<usize>,
    /// These go without a goodbye, one after another, the ring being repaired in between.
    pub leave: Vec<u64>,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Who the key belongs to; `None` if nothing was asked.
    pub owner: Option<u64>,
    /// Messages until the owner had the query (its reply not counted).
    pub messages: Option<u32>,
    /// Who had the query, the asking peer first.
    pub path: Vec<u64>,
    /// The ring after repair, in order of ID.
    pub peers: Vec<PeerView>,
}

/// What a peer knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerView {
    pub id: u64,
    pub successors: Vec<u64>,
    pub predecessor: Option<u64>,
    /// Its shortcuts, each once, in order of distance; empty without them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shortcuts: Vec<u64>,
}

/// Every peer joins through the first, the leavers leave, the question is asked.
pub fn run(example: &Example) -> Result<Outcome, RingError> {
    let (space, ids) = checked(example)?;
    let routed = example.successors.unwrap_or(1).max(1);
    let known = example.successors.unwrap_or(2).max(2);
    let config = RingConfig { known, routed, shortcuts: example.shortcuts, ..RingConfig::default() };
    let mut net = Net::new(space, config.clone(), 1);
    for &id in &ids {
        net.join(id, Some(ids[0]).filter(|&first| first != id));
        settle(&mut net, &config);
    }
    for &id in &example.leave {
        net.vanish(id);
        settle(&mut net, &config);
    }
    let mut outcome = Outcome { owner: None, messages: None, path: Vec::new(), peers: view(&net) };
    if let Some((from, key)) = example.lookup {
        net.lookup(from, key, 0, true);
        // Messages of repair go on meanwhile; the deadline of the look-up ends this at the latest.
        while outcome.messages.is_none() {
            net.run_to_answer();
            for answer in net.take_answers() {
                let owner = answer.owner.ok_or(RingError::Lost(key))?;
                outcome =
                    Outcome { owner: Some(owner), messages: Some(answer.hops), path: answer.path, ..outcome };
            }
        }
    }
    Ok(outcome)
}

fn checked(example: &Example) -> Result<(Space, Vec<u64>), RingError> {
    let space = Space::new(example.bits)?;
    let mut ids = example.ids.clone();
    ids.iter().try_for_each(|&id| space.check(id).map(drop))?;
    ids.sort_unstable();
    if let Some(twice) = ids.windows(2).find(|w| w[0] == w[1]) {
        return Err(RingError::Twice(twice[0]));
    }
    let mut left = ids.clone();
    for &id in &example.leave {
        let at = left.binary_search(&id).map_err(|_| RingError::Absent(id))?;
        left.remove(at);
    }
    if left.is_empty() {
        return Err(RingError::Empty);
    }
    if let Some((from, key)) = example.lookup {
        space.check(key)?;
        left.binary_search(&from).map_err(|_| RingError::Absent(from))?;
    }
    Ok((space, ids))
}

fn view(net: &Net) -> Vec<PeerView> {
    let one = |n: &super::node::Node| {
        let mut shortcuts: Vec<u64> = n.fingers().iter().map(|f| f.1).collect();
        shortcuts.dedup();
        PeerView { id: n.id(), successors: n.successors().to_vec(), predecessor: n.predecessor(), shortcuts }
    };
    net.nodes().map(one).collect()
}

/// Lets rounds of repair pass until nothing has changed for three of them (and not for ever).
fn settle(net: &mut Net, config: &RingConfig) {
    let Some(interval) = config.interval else { return };
    let (mut before, mut same) = (Vec::new(), 0);
    for _ in 0..100 + 4 * net.len() {
        let step = interval + config.patience + Duration::from_secs(1);
        net.run_until(net.now() + step);
        let now = view(net);
        same = if now == before { same + 1 } else { 0 };
        before = now;
        if same == 3 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: [u64; 8] = [1, 3, 4, 5, 8, 10, 12, 15];

    fn ask(shortcuts: bool, successors: Option<usize>, leave: &[u64]) -> Outcome {
        let lookup = Some((3, 14));
        run(&Example { bits: 4, ids: RING.to_vec(), lookup, shortcuts, successors, leave: leave.to_vec() })
            .unwrap()
    }

    fn peer(o: &Outcome, id: u64) -> &PeerView {
        o.peers.iter().find(|p| p.id == id).unwrap()
    }

    #[test]
    fn peer_3_asking_for_14_costs_6_messages() {
        let o = ask(false, None, &[]);
        assert_eq!((o.owner, o.messages), (Some(15), Some(6)));
        assert_eq!(o.path, [3, 4, 5, 8, 10, 12, 15]);
    }

    #[test]
    fn with_shortcuts_it_costs_2() {
        let o = ask(true, None, &[]);
        assert_eq!((o.owner, o.messages), (Some(15), Some(2)));
        assert_eq!(o.path, [3, 12, 15]);
    }

    #[test]
    fn two_successors_halve_the_way() {
        let o = ask(false, Some(2), &[]);
        assert_eq!((o.owner, o.messages), (Some(15), Some(3)));
        let all = ask(false, Some(8), &[]);
        assert_eq!(all.messages, Some(1));
    }

    #[test]
    fn when_5_leaves_4_knows_8_and_10() {
        let before = ask(false, None, &[]);
        assert_eq!(peer(&before, 4).successors, [5, 8]);
        let after = ask(false, None, &[5]);
        assert_eq!(peer(&after, 4).successors, [8, 10]);
        assert_eq!(peer(&after, 3).successors, [4, 8]);
        assert_eq!(peer(&after, 8).predecessor, Some(4));
        assert_eq!(after.messages, Some(5));
    }

    #[test]
    fn keys_of_the_lectures_second_ring_find_their_owners() {
        let ids = vec![1, 12, 13, 25, 32, 40, 48, 60];
        for (key, owner) in [(51, 60), (60, 60), (61, 1), (1, 1), (13, 13), (14, 25)] {
            for (shortcuts, successors) in [(false, None), (true, None), (false, Some(3))] {
                let lookup = Some((32, key));
                let e = Example { bits: 6, ids: ids.clone(), lookup, shortcuts, successors, leave: vec![] };
                assert_eq!(run(&e).unwrap().owner, Some(owner), "key {key}");
            }
        }
    }

    #[test]
    fn all_may_leave_but_one() {
        let o = ask(true, None, &[1, 4, 5, 8, 10, 12, 15]);
        assert_eq!((o.owner, o.messages, o.path), (Some(3), Some(0), vec![3]));
        assert_eq!(o.peers.len(), 1);
    }

    #[test]
    fn impossible_questions_are_named() {
        let e = Example {
            bits: 4,
            ids: vec![1, 3],
            lookup: Some((3, 14)),
            shortcuts: false,
            successors: None,
            leave: vec![],
        };
        let err = |e: Example| run(&e).unwrap_err();
        assert_eq!(err(Example { bits: 65, ..e.clone() }), RingError::Bits(65));
        assert_eq!(err(Example { ids: vec![1, 16], ..e.clone() }), RingError::TooBig { id: 16, bits: 4 });
        assert_eq!(err(Example { ids: vec![1, 3, 1], ..e.clone() }), RingError::Twice(1));
        assert_eq!(err(Example { lookup: Some((2, 14)), ..e.clone() }), RingError::Absent(2));
        assert_eq!(err(Example { leave: vec![3], ..e.clone() }), RingError::Absent(3));
        assert_eq!(err(Example { ids: vec![], lookup: None, ..e }), RingError::Empty);
    }
}
