//! Swarm merging: a chunk that several contents of ours want is fetched for one of them and copied, on our
//! own disk, to the others; the sources of each serve all.
//!
//! Equal chunks make a group. While one of them is asked for or with the store, the others are *elsewhere*:
//! missing, but not to be asked for. Which content asks is not fixed: whichever has a peer that can give the
//! chunk does, and a request that comes to nothing opens the chunk in all of them again. So no content ever
//! holds a chunk back for another, and none can wait for another in a circle. Once one of a group is held the
//! driver copies it to those that want it ([`Action::Copy`]); a copy that fails parts that chunk from its
//! group, and it is fetched on its own.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Engine;
use super::endgame::GAIN;
use super::event::Action;
use super::picker::State;
use super::state::Content;
use crate::units::{ChunkIndex, ContentKey, PeerKey};

/// Contents whose equal chunks are known of each other; one more fetches for itself.
const MAX_GROUP: usize = 8;
/// Chunks that are elsewhere and are looked at for one that an idle peer could give sooner.
const LOOK: usize = 64;

/// A chunk of some content.
pub(super) type Member = (ContentKey, u32);

/// The chunks of a content that others of ours have or want too.
#[derive(Debug, Default)]
pub(super) struct Twins(BTreeMap<u32, Twin>);

#[derive(Debug, Default)]
struct Twin {
    /// The rest of its group.
    others: Vec<Member>,
    /// The driver is copying it to here.
    copying: bool,
}

impl Twins {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn of(&self, c: u32) -> &[Member] {
        self.0.get(&c).map_or(&[], |t| &t.others)
    }

    fn copying(&self, c: u32) -> bool {
        self.0.get(&c).is_some_and(|t| t.copying)
    }

    /// Chunks of a range that are in a group.
    fn within(&self, range: std::ops::Range<u32>) -> Vec<u32> {
        self.0.range(range).map(|(c, _)| *c).collect()
    }
}

impl Engine {
    /// Two chunks have the same bytes by their names.
    pub(super) fn same(&mut self, key: ContentKey, c: u32, other: Member) {
        let known = |(k, c): Member| self.contents.get(&k).is_some_and(|x| c < x.picker.len());
        let grouped = |k, c| self.contents.get(&k).is_some_and(|x| x.twins.0.contains_key(&c));
        if !known((key, c)) || !known(other) || grouped(key, c) {
            return;
        }
        let mut group = vec![other];
        group.extend_from_slice(self.contents[&other.0].twins.of(other.1));
        // Within a content a name has one number; two that claim the same would only confuse.
        if group.len() >= MAX_GROUP || group.iter().any(|(k, _)| *k == key) {
            return;
        }
        for (k, o) in &group {
            if let Some(x) = self.contents.get_mut(k) {
                x.twins.0.entry(*o).or_default().others.push((key, c));
            }
        }
        if let Some(content) = self.contents.get_mut(&key) {
            content.twins.0.insert(c, Twin { others: group, copying: false });
        }
        self.share(key, c);
    }

    fn state(&self, (key, c): Member) -> Option<State> {
        self.contents.get(&key)?.picker.state(c)
    }

    /// The state of a chunk has changed: what does that mean for its group?
    pub(super) fn share(&mut self, key: ContentKey, c: u32) {
        let Some(content) = self.contents.get_mut(&key).filter(|x| !x.twins.is_empty()) else { return };
        let others = content.twins.of(c);
        if others.is_empty() {
            // It was being copied from one that has gone since, and that went well.
            if content.picker.state(c) == Some(State::Held) {
                content.twins.0.remove(&c);
            }
            return;
        }
        let mut group = others.to_vec();
        group.push((key, c));
        // What has come for one need not come for another. Each cancel comes back here, with one request fewer.
        let here = |e: &Engine, m: Member| matches!(e.state(m), Some(State::Arrived | State::Held));
        if group.iter().any(|m| here(self, *m)) {
            for (k, c) in &group {
                if self.state((*k, *c)) == Some(State::Asked) {
                    self.cancel_everywhere(*k, *c);
                }
            }
        }
        let held = group.iter().copied().find(|m| self.state(*m) == Some(State::Held));
        let busy = |m: &Member| matches!(self.state(*m), Some(State::Asked | State::Arrived));
        let taken = held.is_some() || group.iter().any(busy);
        for m in &group {
            self.settle_member(*m, taken, held);
        }
        if group.iter().all(|m| self.state(*m) == Some(State::Held)) {
            for (k, c) in group {
                if let Some(x) = self.contents.get_mut(&k) {
                    x.twins.0.remove(&c);
                }
            }
        }
    }

    /// Whether a chunk of a group may be asked for, or is to be copied.
    fn settle_member(&mut self, (key, c): Member, taken: bool, held: Option<Member>) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        let Some(twin) = content.twins.0.get_mut(&c) else { return };
        match content.picker.state(c) {
            Some(State::Missing) if taken => {
                content.picker.set(c, State::Elsewhere);
            }
            Some(State::Elsewhere) if !taken && !twin.copying => return self.reopen(key, c),
            Some(State::Held) => twin.copying = false,
            _ => {}
        }
        let Some((from, of)) = held else { return };
        let elsewhere = content.picker.state(c) == Some(State::Elsewhere);
        if elsewhere && content.picker.is_wanted(c) && !content.paused && !twin.copying {
            twin.copying = true;
            if let (Some(of), Some(chunk)) = (ChunkIndex::new(of), ChunkIndex::new(c)) {
                self.actions.push_back(Action::Copy { from: (from, of), content: key, chunk });
            }
        }
    }

    /// A chunk that was elsewhere may be asked for again.
    fn reopen(&mut self, key: ContentKey, c: u32) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        content.picker.set(c, State::Missing);
        content.reshelve(c);
        self.refill = true;
    }

    /// Looks anew at all chunks of a range that are in a group: what is wanted has changed.
    pub(super) fn share_range(&mut self, key: ContentKey, range: std::ops::Range<u32>) {
        let Some(content) = self.contents.get(&key).filter(|x| !x.twins.is_empty()) else { return };
        content.twins.within(range).into_iter().for_each(|c| self.share(key, c));
    }

    /// The driver could not copy a chunk: the file that had it changed, or the bytes are others.
    pub(super) fn not_copied(&mut self, key: ContentKey, c: u32) {
        if self.contents.get(&key).is_some_and(|x| x.twins.copying(c)) {
            self.part(key, c);
        }
    }

    /// Takes a chunk out of its group.
    fn part(&mut self, key: ContentKey, c: u32) {
        let Some(twin) = self.contents.get_mut(&key).and_then(|x| x.twins.0.remove(&c)) else { return };
        if self.state((key, c)) == Some(State::Elsewhere) {
            self.reopen(key, c);
        }
        for (k, o) in twin.others {
            let Some(x) = self.contents.get_mut(&k) else { continue };
            let Some(t) = x.twins.0.get_mut(&o) else { continue };
            t.others.retain(|m| *m != (key, c));
            if !t.others.is_empty() {
                self.share(k, o);
            } else if t.copying {
                // From the one that has gone; the driver's answer is still to come.
            } else {
                self.part(k, o);
            }
        }
    }

    /// A content is about to go: its chunks are nobody's twins any more.
    pub(super) fn part_all(&mut self, key: ContentKey) {
        let Some(content) = self.contents.get(&key) else { return };
        content.twins.within(0..u32::MAX).into_iter().for_each(|c| self.part(key, c));
    }

    /// Requests for a chunk, for whichever content they are.
    pub(super) fn asks_of(&self, key: ContentKey, c: u32) -> u8 {
        let Some(content) = self.contents.get(&key) else { return 0 };
        let asks = |(k, c): &Member| self.contents.get(k).map_or(0, |x| x.picker.asks(*c));
        content.twins.of(c).iter().map(asks).fold(content.picker.asks(c), u8::saturating_add)
    }

    /// A twin of this chunk has come already.
    pub(super) fn is_here(&self, key: ContentKey, c: u32) -> bool {
        let Some(content) = self.contents.get(&key) else { return false };
        let here = |m: &Member| matches!(self.state(*m), Some(State::Arrived | State::Held));
        content.twins.copying(c) || content.twins.of(c).iter().any(here)
    }

    /// In the endgame of one content: a chunk that is asked for in another, and would come sooner from this
    /// peer, is asked of it as well. The loser is cancelled.
    pub(super) fn best_twin(&self, idle: PeerKey) -> Option<Member> {
        let p = self.peers.get(&idle)?;
        let mut best: Option<(Duration, Member)> = None;
        for key in &p.contents {
            let endgame = |x: &&Content| x.wants() && x.picker.open() == 0 && x.picker.elsewhere() > 0;
            let Some(content) = self.contents.get(key).filter(endgame) else { continue };
            let Some(me) = content.swarm.get(&idle) else { continue };
            let elsewhere = content.twins.0.keys().copied().filter(|c| {
                content.picker.state(*c) == Some(State::Elsewhere) && content.picker.is_wanted(*c)
            });
            for c in elsewhere.take(LOOK).filter(|c| me.has(*c)) {
                let asks = self.asks_of(*key, c);
                if asks == 0 || asks >= self.cfg.endgame_copies || p.pipeline.position(*key, c).is_some() {
                    continue;
                }
                let Some(there) = self.soonest(*key, c) else { continue };
                let here = self.would_take(p, u64::from(content.len_of(c)));
                let gain = there.saturating_sub(here + here / 2 + GAIN);
                if gain > best.map_or(Duration::ZERO, |b| b.0) {
                    best = Some((gain, (*key, c)));
                }
            }
        }
        best.map(|b| b.1)
    }

    pub(super) fn check_twins(&self, key: ContentKey, content: &Content) -> Result<(), String> {
        let want = |ok: bool, what: &str| if ok { Ok(()) } else { Err(format!("merging: {what}")) };
        for (c, twin) in &content.twins.0 {
            let here = content.picker.state(*c);
            want(twin.others.len() < MAX_GROUP, "a group is too large")?;
            want(!twin.others.is_empty() || twin.copying, "a chunk without twins")?;
            want(!twin.copying || here == Some(State::Elsewhere), "copied to where it is not wanted")?;
            for (k, o) in &twin.others {
                let known = self.contents.get(k).is_some_and(|x| x.twins.of(*o).contains(&(key, *c)));
                want(*k != key && known, "twins that do not know each other")?;
            }
            let taken = twin
                .others
                .iter()
                .any(|m| matches!(self.state(*m), Some(State::Asked | State::Arrived | State::Held)));
            match here {
                Some(State::Missing) => want(!taken, "open, though it is fetched elsewhere")?,
                Some(State::Elsewhere) => want(taken || twin.copying, "held back for nothing")?,
                _ => {}
            }
        }
        let elsewhere =
            content.twins.0.keys().filter(|c| content.picker.state(**c) == Some(State::Elsewhere)).count();
        want(elsewhere as u32 == content.picker.elsewhere(), "held back without a twin")
    }
}
