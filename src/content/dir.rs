//! Folders as kubo builds them: one block, or a HAMT where the profile's rule asks for it.

use super::Cid;
use super::builder::{Built, NodeSink, finish_node};
use super::dagpb::NewLink;
use super::hamt::{bitfield, hash_name};
use super::profile::{HamtRule, Profile};
use super::unixfs::{self, Meta};

/// Puts a folder's entries together. Entries come in any order, each name once.
#[derive(Debug)]
pub struct DirBuilder {
    profile: Profile,
    meta: Meta,
    entries: Vec<NewLink>,
    size: u64,
}

impl DirBuilder {
    pub fn new(profile: &Profile, meta: Meta) -> DirBuilder {
        DirBuilder { profile: *profile, meta, entries: Vec::new(), size: 0 }
    }

    /// Adds a file, folder or symlink under a name that the folder does not have yet.
    pub fn entry(&mut self, name: &str, child: &Built) {
        self.entries.push(NewLink { cid: child.cid, name: name.to_owned(), tsize: child.tsize });
        self.size = self.size.saturating_add(child.size);
    }

    /// Finishes the folder: its node, or the nodes of its HAMT, go to the sink.
    pub fn finish(mut self, sink: &mut NodeSink) -> Built {
        let sharded = self.wants_hamt().then(|| self.finish_hamt(sink)).flatten();
        let (cid, tsize) = sharded.unwrap_or_else(|| {
            self.entries.sort_by(|a, b| a.name.cmp(&b.name));
            finish_node(&self.profile, &self.entries, &unixfs::dir_message(&self.meta), sink)
        });
        Built { cid, tsize, size: self.size }
    }

    fn wants_hamt(&self) -> bool {
        match self.profile.hamt {
            HamtRule::Links(limit) => {
                self.entries.iter().map(|e| e.name.len() + e.cid.encoded_len()).sum::<usize>() > limit
            }
            HamtRule::Block(limit) => {
                let data = unixfs::dir_message(&self.meta).len();
                self.entries.iter().map(NewLink::encoded_len).sum::<usize>() + data + 2 > limit
            }
        }
    }

    /// `None` if two names have the same hash: no HAMT can hold both (kubo gives up there).
    fn finish_hamt(&self, sink: &mut NodeSink) -> Option<(Cid, u64)> {
        let mut order: Vec<(u64, usize)> =
            self.entries.iter().enumerate().map(|(i, e)| (hash_name(e.name.as_bytes()), i)).collect();
        order.sort_unstable();
        if order.windows(2).any(|w| w[0].0 == w[1].0) {
            return None;
        }
        Some(self.shard(&order, 0, sink))
    }

    /// The shard of the entries given, which agree in the first `used` bits of their hashes.
    fn shard(&self, order: &[(u64, usize)], used: u32, sink: &mut NodeSink) -> (Cid, u64) {
        let fanout = self.profile.hamt_fanout;
        let width = fanout.trailing_zeros();
        let place = |hash: u64| (hash << used >> (64 - width)) as u32;
        let digits = width.div_ceil(4) as usize;
        let mut links = Vec::new();
        let mut places = Vec::new();
        for group in order.chunk_by(|a, b| place(a.0) == place(b.0)) {
            let index = place(group[0].0);
            places.push(index);
            links.push(match *group {
                [(_, only)] => {
                    let entry = &self.entries[only];
                    NewLink { name: format!("{index:0digits$X}{}", entry.name), ..entry.clone() }
                }
                _ => {
                    let (cid, tsize) = self.shard(group, used + width, sink);
                    NewLink { cid, name: format!("{index:0digits$X}"), tsize }
                }
            });
        }
        let meta = if used == 0 { self.meta } else { Meta::NONE };
        let message = unixfs::hamt_message(&bitfield(places.into_iter(), fanout), fanout, &meta);
        finish_node(&self.profile, &links, &message, sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::RAW;
    use crate::content::block::cid_of;

    #[test]
    fn the_order_of_the_entries_does_not_matter() {
        let child = |i: u32| Built { cid: cid_of(false, RAW, &i.to_le_bytes()), tsize: 4, size: 4 };
        for (profile, count) in [(&Profile::V1_256K, 100u32), (&Profile::V1_256K, 7_000)] {
            let build = |order: &mut dyn Iterator<Item = u32>| {
                let mut dir = DirBuilder::new(profile, Meta::NONE);
                order.for_each(|i| dir.entry(&format!("name-{i}"), &child(i)));
                dir.finish(&mut |_, _| {})
            };
            assert_eq!(build(&mut (0..count)), build(&mut (0..count).rev()));
        }
    }

    #[test]
    fn names_that_no_hamt_can_hold_make_a_plain_folder() {
        let profile = Profile { hamt: HamtRule::Links(0), ..Profile::V1_256K };
        let child = Built { cid: cid_of(false, RAW, b""), tsize: 0, size: 0 };
        let build = |names: [&str; 2], profile: &Profile| {
            let mut dir = DirBuilder::new(profile, Meta::NONE);
            names.iter().for_each(|name| dir.entry(name, &child));
            dir.finish(&mut |_, _| {}).cid
        };
        // The same name twice stands for two names of one hash.
        assert_eq!(build(["a", "a"], &profile), build(["a", "a"], &Profile::V1_256K));
        assert_ne!(build(["a", "b"], &profile), build(["a", "b"], &Profile::V1_256K));
    }
}
