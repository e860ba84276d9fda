//! Listing a folder and following a path, over whatever inner nodes are held.

use bytes::Bytes;

use super::dagpb::PbLink;
use super::fault::{DagFault, Why};
use super::hamt::{ShardPlace, hash_name};
use super::manifest::{MAX_DEPTH, check_shard};
use super::names::check_name;
use super::node::{Node, fetch};
use super::unixfs::Kind;
use super::{Cid, RAW};

/// Nodes named at once.
const MAX_MISSING: usize = 64;
/// Entries of one folder.
const MAX_ENTRIES: usize = 1 << 22;

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// The path exists. `tsize` is what the last link claims; `None` for the root, or where it does not tell.
    Found { cid: Cid, tsize: Option<u64> },
    /// These inner nodes are needed first.
    Missing(Vec<Cid>),
    /// The folder that the path leads through has no such entry.
    NotFound { name: String },
    /// Something that is no folder, with more of the path behind it. Symlinks are not followed. Empty for the root.
    NotAFolder { name: String },
}

/// What an entry is, as far as its node is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Dir,
    Symlink,
    /// Its node is not held.
    Unknown,
}

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub cid: Cid,
    /// File bytes where the entry's own node tells, else what the link claims: a hint.
    pub size: u64,
    pub kind: EntryKind,
}

/// A folder's entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    /// Sorted by name.
    Entries(Vec<Entry>),
    /// These inner nodes are needed first.
    Missing(Vec<Cid>),
}

/// Follows `path` (names joined by `/`; empty ones count for nothing) from `root`.
pub fn resolve(
    root: &Cid,
    path: &str,
    nodes: &mut dyn FnMut(&Cid) -> Option<Bytes>,
) -> Result<Resolved, DagFault> {
    let (mut cid, mut tsize, mut at) = (*root, None, "");
    for (depth, name) in path.split('/').filter(|name| !name.is_empty()).enumerate() {
        if depth == MAX_DEPTH {
            return Err(DagFault::new(&cid, Why::TooDeep(MAX_DEPTH)));
        }
        match look_up(&cid, name.as_bytes(), nodes)? {
            Found::Link(next, size) => (cid, tsize, at) = (next, size, name),
            Found::Nothing => return Ok(Resolved::NotFound { name: name.to_owned() }),
            Found::NoFolder => return Ok(Resolved::NotAFolder { name: at.to_owned() }),
            Found::Missing(cid) => return Ok(Resolved::Missing(vec![cid])),
        }
    }
    Ok(Resolved::Found { cid, tsize })
}

enum Found {
    Link(Cid, Option<u64>),
    Nothing,
    NoFolder,
    Missing(Cid),
}

/// One name in one folder; of a HAMT only the shards on the name's way are looked at.
fn look_up(dir: &Cid, name: &[u8], nodes: &mut dyn FnMut(&Cid) -> Option<Bytes>) -> Result<Found, DagFault> {
    if dir.codec() == RAW {
        return Ok(Found::NoFolder);
    }
    let mut shard: Option<(Cid, ShardPlace)> = None;
    loop {
        let cid = shard.as_ref().map_or(*dir, |(cid, _)| *cid);
        let Some(block) = fetch(&cid, nodes) else { return Ok(Found::Missing(cid)) };
        let node = Node::decode(&cid, &block)?;
        if shard.is_none() && node.fs.kind == Kind::Directory {
            let link = node.pb.links().find(|link| link.name == name);
            return Ok(link.map_or(Found::Nothing, |link| Found::Link(link.cid, link.tsize)));
        }
        if shard.is_none() && node.fs.kind != Kind::HamtShard {
            return Ok(Found::NoFolder);
        }
        let place = check_shard(&cid, &node, shard.map(|(_, place)| place))?;
        let index = place.index_of(hash_name(name));
        let at_index = |link: &PbLink| place.split(link.name).is_ok_and(|(i, _)| i == index);
        let Some(link) = node.pb.links().find(at_index) else { return Ok(Found::Nothing) };
        match place.split(link.name) {
            Ok((_, [])) => {
                let below = place.child(index).map_err(|e| DagFault::new(&cid, e))?;
                shard = Some((link.cid, below));
            }
            Ok((_, rest)) if rest == name => return Ok(Found::Link(link.cid, link.tsize)),
            _ => return Ok(Found::Nothing),
        }
    }
}

/// The entries of a folder, HAMT or not. Of what an entry is only what is held is said.
pub fn list(dir: &Cid, nodes: &mut dyn FnMut(&Cid) -> Option<Bytes>) -> Result<Listing, DagFault> {
    if dir.codec() == RAW {
        return Err(DagFault::new(dir, Why::NotAFolder));
    }
    let Some(block) = fetch(dir, nodes) else { return Ok(Listing::Missing(vec![*dir])) };
    let node = Node::decode(dir, &block)?;
    let mut list = List { nodes, entries: Vec::new(), missing: Vec::new() };
    match node.fs.kind {
        Kind::Directory => {
            for link in node.pb.links() {
                list.entry(dir, link.name, &link)?;
            }
        }
        Kind::HamtShard => list.shard(dir, &node, check_shard(dir, &node, None)?)?,
        _ => return Err(DagFault::new(dir, Why::NotAFolder)),
    }
    if !list.missing.is_empty() {
        return Ok(Listing::Missing(list.missing));
    }
    list.entries.sort_by(|a, b| a.name.cmp(&b.name));
    if list.entries.windows(2).any(|w| w[0].name == w[1].name) {
        return Err(DagFault::new(dir, Why::SameNameTwice));
    }
    Ok(Listing::Entries(list.entries))
}

struct List<'a> {
    nodes: &'a mut dyn FnMut(&Cid) -> Option<Bytes>,
    entries: Vec<Entry>,
    missing: Vec<Cid>,
}

impl List<'_> {
    /// A checked shard and those beneath it; as deep as a hash has steps, at most 21.
    fn shard(&mut self, cid: &Cid, node: &Node, place: ShardPlace) -> Result<(), DagFault> {
        for link in node.pb.links() {
            if self.missing.len() == MAX_MISSING {
                return Ok(());
            }
            let (index, name) = place.split(link.name).map_err(|e| DagFault::new(cid, e))?;
            if !name.is_empty() {
                self.entry(cid, name, &link)?;
                continue;
            }
            let below = place.child(index).map_err(|e| DagFault::new(cid, e))?;
            match fetch(&link.cid, self.nodes) {
                Some(block) => {
                    let inner = Node::decode(&link.cid, &block)?;
                    check_shard(&link.cid, &inner, Some(below))?;
                    self.shard(&link.cid, &inner, below)?;
                }
                None => self.missing.push(link.cid),
            }
        }
        Ok(())
    }

    fn entry(&mut self, dir: &Cid, name: &[u8], link: &PbLink) -> Result<(), DagFault> {
        if self.entries.len() == MAX_ENTRIES {
            return Err(DagFault::new(dir, Why::TooMany("4,194,304 entries")));
        }
        let name = check_name(name).map_err(|e| DagFault::new(dir, e))?.to_owned();
        let (kind, size) = self.describe(&link.cid);
        let size = size.or(link.tsize).unwrap_or(0);
        self.entries.push(Entry { name, cid: link.cid, size, kind });
        Ok(())
    }

    /// What an entry is. One whose node is malformed is listed all the same, as unknown.
    fn describe(&mut self, cid: &Cid) -> (EntryKind, Option<u64>) {
        if cid.codec() == RAW {
            return (EntryKind::File, None);
        }
        let Some(block) = fetch(cid, self.nodes) else { return (EntryKind::Unknown, None) };
        let Ok(node) = Node::decode(cid, &block) else { return (EntryKind::Unknown, None) };
        match node.fs.kind {
            Kind::File | Kind::Raw => (EntryKind::File, node.file_size(cid, None).ok()),
            Kind::Directory | Kind::HamtShard => (EntryKind::Dir, None),
            Kind::Symlink => (EntryKind::Symlink, Some(0)),
            Kind::Metadata => (EntryKind::Unknown, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Meta;
    use super::super::builder::{Built, DirBuilder, small_file, symlink};
    use super::super::profile::{HamtRule, Profile};
    use super::super::testing::{Dag, some_raw};
    use super::*;

    fn profiles() -> [Profile; 2] {
        [Profile::V1_256K, Profile { hamt: HamtRule::Links(0), ..Profile::V1_256K }]
    }

    /// A folder of 300 raw files, a sub-folder, a symlink and a dag-pb file.
    fn tree(profile: &Profile) -> (Dag, Cid) {
        let mut dag = Dag::default();
        let mut sink = dag.sink();
        let mut sub = DirBuilder::new(profile, Meta::NONE);
        sub.entry("deep", &Built { cid: some_raw(1_000), tsize: 77, size: 77 });
        let mut dir = DirBuilder::new(profile, Meta::NONE);
        for i in 0..300 {
            dir.entry(&format!("file {i:03}"), &Built { cid: some_raw(i), tsize: i, size: i });
        }
        dir.entry("sub", &sub.finish(&mut sink));
        dir.entry("link", &symlink(profile, b"sub", &mut sink));
        dir.entry("inline", &small_file(&profile.preserving(), Meta::NONE, b"12345", &mut sink));
        let root = dir.finish(&mut sink).cid;
        drop(sink);
        (dag, root)
    }

    #[test]
    fn paths_are_followed_through_folders_and_hamts() {
        for profile in profiles() {
            let (dag, root) = tree(&profile);
            let at = |path| resolve(&root, path, &mut dag.get()).unwrap();
            let found = |cid, tsize| Resolved::Found { cid, tsize };
            for path in ["", "/", "//"] {
                assert_eq!(at(path), found(root, None));
            }
            assert_eq!(at("file 123"), found(some_raw(123), Some(123)));
            assert_eq!(at("/sub//deep/"), found(some_raw(1_000), Some(77)));
            for (path, name) in [("none", "none"), ("sub/no", "no"), ("..", ".."), ("sub/../sub", "..")] {
                assert_eq!(at(path), Resolved::NotFound { name: name.into() });
            }
            for (path, name) in [("file 001/x", "file 001"), ("link/deep", "link"), ("inline/x", "inline")] {
                assert_eq!(at(path), Resolved::NotAFolder { name: name.into() });
            }
        }
    }

    #[test]
    fn a_path_needs_only_the_nodes_on_its_way_and_says_which() {
        for profile in profiles() {
            let (dag, root) = tree(&profile);
            let mut held = Dag::default();
            let mut steps = 0;
            let end = loop {
                let step = resolve(&root, "sub/deep", &mut held.get()).unwrap();
                match step {
                    Resolved::Missing(cids) => {
                        held.0.extend(cids.iter().map(|cid| (*cid, dag.0[cid].clone())));
                        steps += 1;
                    }
                    end => break end,
                }
            };
            assert_eq!(end, Resolved::Found { cid: some_raw(1_000), tsize: Some(77) });
            assert!(steps <= 4, "{steps}");
        }
        let raw = some_raw(1);
        assert_eq!(resolve(&raw, "x", &mut |_| None), Ok(Resolved::NotAFolder { name: String::new() }));
    }

    #[test]
    fn listings_are_sorted_and_say_what_each_entry_is() {
        for profile in profiles() {
            let (dag, root) = tree(&profile);
            let Ok(Listing::Entries(entries)) = list(&root, &mut dag.get()) else { panic!() };
            assert_eq!(entries.len(), 303);
            assert!(entries.is_sorted_by(|a, b| a.name < b.name));
            let entry = |name| {
                let e = entries.iter().find(|e| e.name == name).unwrap();
                (e.kind, e.size)
            };
            assert_eq!(entry("file 007"), (EntryKind::File, 7));
            assert_eq!(entry("inline"), (EntryKind::File, 5));
            assert_eq!(entry("link"), (EntryKind::Symlink, 0));
            assert_eq!(entry("sub").0, EntryKind::Dir);
        }
    }

    #[test]
    fn a_listing_asks_for_missing_shards_and_leaves_unheld_entries_unknown() {
        let (dag, root) = tree(&profiles()[1]);
        assert_eq!(list(&root, &mut |_| None), Ok(Listing::Missing(vec![root])));
        let mut held = Dag::default();
        let entries = loop {
            let listing = list(&root, &mut held.get()).unwrap();
            match listing {
                Listing::Missing(cids) => {
                    assert!((1..=MAX_MISSING).contains(&cids.len()));
                    held.0.extend(cids.iter().map(|cid| (*cid, dag.0[cid].clone())));
                }
                Listing::Entries(entries) => break entries,
            }
        };
        let unknown = entries.iter().filter(|e| e.kind == EntryKind::Unknown).count();
        assert_eq!((entries.len(), unknown), (303, 3));
    }

    #[test]
    fn what_is_no_folder_or_has_bad_names_is_refused() {
        let mut dag = Dag::default();
        let file = dag.file(b"x", &[]);
        for cid in [file, some_raw(1)] {
            assert_eq!(list(&cid, &mut dag.get()), Err(DagFault::new(&cid, Why::NotAFolder)));
        }
        for names in [["a", ".."], ["a", "a"], ["a/b", "c"]] {
            let dir = dag.dir(&names.map(|name| (name, file)));
            assert_eq!(list(&dir, &mut dag.get()).unwrap_err().cid, dir);
        }
    }
}
