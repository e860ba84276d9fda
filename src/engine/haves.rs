//! When neighbours are told what we hold: at once while they are short of work or the chunk is new to
//! the neighbourhood, else together, once a second, and only when something changed.
//!
//! What we got is written to a log; each neighbour has a place in it. So a thousand pending haves cost
//! a thousand numbers, not a thousand for each neighbour.

use std::collections::VecDeque;

use super::Engine;
use super::event::Action;
use crate::units::{ChunkIndex, ChunkRange, ContentKey, PeerKey, Time};

/// Chunks in the order in which we got them, as far as somebody is yet to be told.
#[derive(Clone, Debug)]
pub(super) struct Log {
    /// The place of the first entry.
    base: u64,
    chunks: VecDeque<u32>,
    /// When the next telling is due; `Time::MAX` if nobody waits.
    pub flush_at: Time,
    flushed_at: Time,
}

impl Default for Log {
    fn default() -> Log {
        Log { base: 0, chunks: VecDeque::new(), flush_at: Time::MAX, flushed_at: Time::ZERO }
    }
}

impl Log {
    pub fn end(&self) -> u64 {
        self.base + self.chunks.len() as u64
    }

    fn since(&self, place: u64) -> impl Iterator<Item = u32> + '_ {
        let skip = place.saturating_sub(self.base).min(self.chunks.len() as u64) as usize;
        self.chunks.iter().skip(skip).copied()
    }
}

/// Numbers as runs, in order.
pub(super) fn runs(mut chunks: Vec<u32>) -> Vec<ChunkRange> {
    chunks.sort_unstable();
    chunks.dedup();
    let mut out: Vec<ChunkRange> = Vec::new();
    for c in chunks {
        let start = match out.last() {
            Some(last) if last.end() == c => {
                let start = last.start();
                out.pop();
                start
            }
            _ => c,
        };
        out.extend(ChunkRange::new(start, c + 1));
    }
    out
}

impl Engine {
    /// A chunk is held from now on: the neighbours' counts, interest and news.
    pub(super) fn spread_held(&mut self, key: ContentKey, c: u32) {
        let now = self.now;
        let (Some(content), Some(i)) = (self.contents.get_mut(&key), ChunkIndex::new(c)) else { return };
        let fresh = content.picker.spread(c) == 0;
        let log_from = content.log.end();
        let plain = content.plain();
        let mut later = false;
        let mut at_once: Vec<PeerKey> = std::mem::take(&mut self.scratch);
        for (peer, n) in &mut content.swarm {
            if n.complete {
                later = true;
                continue;
            }
            let offered = n.counts.offers() > 0;
            if n.counts.hold(i, &n.have, &content.picker, plain, fresh, self.cfg.short_of_work) {
                at_once.push(*peer);
            } else {
                later = true;
            }
            if offered && n.counts.offers() == 0 && n.told == Some(true) {
                self.fickle.push((key, *peer));
            }
        }
        if !content.swarm.is_empty() || !content.joining.is_empty() {
            content.log.chunks.push_back(c);
        }
        if later && content.log.flush_at == Time::MAX {
            content.log.flush_at = (content.log.flushed_at + self.cfg.have_interval).max(now);
            self.due = self.due.min(content.log.flush_at);
        }
        let mut alone = Vec::new();
        for peer in at_once.drain(..) {
            // Mostly the chunk is the only news.
            let Some(n) = content.swarm.get_mut(&peer) else { continue };
            let ranges = if n.log_at >= log_from {
                alone.clear();
                alone.extend(ChunkIndex::new(c).map(ChunkRange::one));
                alone.clone()
            } else {
                runs(content.log.since(n.log_at).collect())
            };
            n.log_at = content.log.end();
            self.actions.push_back(Action::Have { peer, content: key, ranges });
        }
        self.scratch = at_once;
        if !later && content.log.chunks.len() > 64 {
            Self::trim(content);
        }
    }

    /// One of many chunks that are held from now on; the counts are made afresh after the last.
    pub(super) fn log_held(&mut self, key: ContentKey, c: u32) {
        if let Some(content) = self.contents.get_mut(&key)
            && !(content.swarm.is_empty() && content.joining.is_empty())
        {
            content.log.chunks.push_back(c);
        }
    }

    /// Tells everybody what is new to them.
    pub(super) fn flush_haves(&mut self, key: ContentKey) {
        let now = self.now;
        let Some(content) = self.contents.get_mut(&key) else { return };
        (content.log.flush_at, content.log.flushed_at) = (Time::MAX, now);
        let end = content.log.end();
        // Most neighbours are at the same place.
        let mut last: Option<(u64, Vec<ChunkRange>)> = None;
        for (peer, n) in &mut content.swarm {
            if n.log_at >= end {
                continue;
            }
            let ranges = match &last {
                Some((at, ranges)) if *at == n.log_at => ranges.clone(),
                _ => {
                    let held = content.picker.held();
                    let held = |c: &u32| ChunkIndex::new(*c).is_some_and(|i| held.contains(i));
                    let ranges = runs(content.log.since(n.log_at).filter(held).collect());
                    last = Some((n.log_at, ranges.clone()));
                    ranges
                }
            };
            n.log_at = end;
            if !ranges.is_empty() {
                self.actions.push_back(Action::Have { peer: *peer, content: key, ranges });
            }
        }
        Self::trim(content);
    }

    /// Everything there is is held: that alone is told.
    pub(super) fn tell_complete(&mut self, key: ContentKey) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        if content.told_complete || content.paused || !content.complete() {
            return;
        }
        content.told_complete = true;
        let end = content.log.end();
        for (peer, n) in &mut content.swarm {
            n.log_at = end;
            self.actions.push_back(Action::Complete { peer: *peer, content: key });
        }
        Self::trim(content);
    }

    /// Chunks are held no more.
    pub(super) fn tell_lost(&mut self, key: ContentKey, ranges: &[ChunkRange]) {
        let Some(content) = self.contents.get_mut(&key) else { return };
        content.told_complete = false;
        for peer in content.swarm.keys() {
            self.actions.push_back(Action::Lost { peer: *peer, content: key, ranges: ranges.to_vec() });
        }
    }

    /// Forgets what everybody knows.
    fn trim(content: &mut super::state::Content) {
        let places = content.swarm.values().map(|n| n.log_at).chain(content.joining.values().copied());
        let known = places.min().unwrap_or(u64::MAX).min(content.log.end());
        let n = known.saturating_sub(content.log.base) as usize;
        content.log.chunks.drain(..n);
        content.log.base += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_merged_and_in_order() {
        let r = runs(vec![7, 1, 2, 9, 3, 8, 3]);
        assert_eq!(r, [ChunkRange::new(1, 4).unwrap(), ChunkRange::new(7, 10).unwrap()]);
        assert!(runs(Vec::new()).is_empty());
    }
}
