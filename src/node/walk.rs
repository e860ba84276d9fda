//! Walking a manifest as its inner nodes arrive: verify, keep, walk on, tell the store. Blocking, and run
//! off the driver; one walk a content at a time, the walker travelling with it.

use bytes::Bytes;

use crate::content::Cid;
use crate::content::block::verify_block;
use crate::content::chunk::{ChunkSpec, verify_chunk};
use crate::content::manifest::{Item, Step, Walker};
use crate::store::{Store, StoreError};
use crate::units::{CHUNK_LEN, ChunkIndex, ContentKey, PeerKey};

use super::merging::{Name, name_of};

/// Nodes given to a newcomer, at most.
const MAX_FIRST_NODES: usize = crate::wire::exchange::MAX_CIDS as usize;
/// Items taken from the walker before the store is told of them.
const BATCH: usize = 4_096;

/// Another content with the same root, which has the same numbers: one that was fetched elsewhere, or as far as it
/// was read. The index of blocks knows it only once it is whole.
#[derive(Clone, Copy, Debug)]
pub struct Twin(Option<ContentKey>);

pub struct Walk {
    pub content: ContentKey,
    pub walker: Walker,
    /// As an earlier walk of this fetch found it: all contents have to be looked through for it.
    pub twin: Option<Twin>,
    /// Inner nodes that came, not verified yet, and from whom.
    pub arrived: Vec<(PeerKey, Cid, Bytes)>,
}

/// What a walk found.
pub struct Walked {
    pub content: ContentKey,
    pub walker: Walker,
    pub twin: Option<Twin>,
    /// Runs of new chunks: how many, and how long each is (a claim).
    pub grew: Vec<(u32, u32)>,
    /// Chunks that another content of ours had, copied, with their bytes of files.
    pub copied: Vec<(ChunkIndex, u64)>,
    /// The names of the new chunks that are not here.
    pub names: Vec<(ChunkIndex, Name)>,
    /// The walk stopped for breath only.
    pub more: bool,
    /// Inner nodes that are needed next.
    pub missing: Vec<Cid>,
    /// Those who sent nodes with the wrong bytes.
    pub bad: Vec<PeerKey>,
    pub done: bool,
    pub error: Option<WalkError>,
}

#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The content is malformed; nobody who serves it is to blame.
    #[error("{0}")]
    Dag(#[from] crate::content::manifest::DagFault),
    #[error("{0}")]
    Store(#[from] StoreError),
}

pub fn walk(store: &dyn Store, job: Walk) -> Walked {
    let Walk { content, walker, twin, arrived } = job;
    let mut out = Walked {
        content,
        walker,
        twin,
        grew: vec![],
        copied: vec![],
        names: vec![],
        more: false,
        missing: vec![],
        bad: vec![],
        done: false,
        error: None,
    };
    let mut good = Vec::with_capacity(arrived.len());
    for (from, cid, bytes) in arrived {
        match verify_block(&cid, &bytes) {
            Ok(()) => good.push((cid, bytes)),
            Err(_) => out.bad.push(from),
        }
    }
    if let Err(e) = advance(store, &good, &mut out) {
        out.error = Some(e);
    }
    out
}

fn advance(store: &dyn Store, good: &[(Cid, Bytes)], out: &mut Walked) -> Result<(), WalkError> {
    if !good.is_empty() {
        store.put_nodes(out.content, good)?;
    }
    let mut items = Vec::new();
    let mut failed = None;
    let step = out.walker.advance(
        &mut |cid| match store.node(cid) {
            Ok(node) => node,
            Err(e) => {
                failed = Some(e);
                None
            }
        },
        BATCH,
        &mut items,
    );
    if let Some(e) = failed {
        return Err(e.into());
    }
    store.extend(out.content, &items)?;
    note_chunks(&items, &mut out.grew);
    copy_what_is_here(store, &items, out)?;
    match step? {
        Step::More => out.more = true,
        Step::Missing(cids) => out.missing = cids,
        Step::Done => {
            store.manifest_complete(out.content)?;
            out.done = true;
        }
    }
    Ok(())
}

/// Chunks that need not come over the network. An empty one is what its CID says. One that another content of
/// ours holds is read there, verified as if a peer had sent it, and written here.
fn copy_what_is_here(store: &dyn Store, items: &[Item], out: &mut Walked) -> Result<(), StoreError> {
    if !items.iter().any(|item| matches!(item, Item::Chunk { first: true, .. })) {
        return Ok(());
    }
    let have = store.have(out.content)?;
    let Twin(twin) = match out.twin {
        Some(twin) => twin,
        None => *out.twin.insert(find_twin(store, out.content)?),
    };
    // One that was removed meanwhile is none.
    let twin = twin.and_then(|twin| Some((twin, store.have(twin).ok()?)));
    let mut body = Vec::new();
    for item in items {
        let Item::Chunk { index, first: true, spec, .. } = item else { continue };
        if have.contains(*index) {
            continue;
        }
        let there = twin.as_ref().filter(|(_, has)| has.contains(*index)).map(|(twin, _)| (*twin, *index));
        match copy_if_here(store, out.content, *index, spec, there, &mut body)? {
            Some(bytes) => out.copied.push((*index, bytes)),
            None => out.names.extend(name_of(spec).map(|name| (*index, name))),
        }
    }
    Ok(())
}

fn find_twin(store: &dyn Store, content: ContentKey) -> Result<Twin, StoreError> {
    let root = store.info(content)?.root;
    let twins = store.list()?.into_iter().filter(|i| i.root == root && i.key != content);
    Ok(Twin(twins.max_by_key(|i| i.held).map(|most| most.key)))
}

/// One of them; says how many bytes of files it has, if it is held now.
fn copy_if_here(
    store: &dyn Store,
    content: ContentKey,
    index: ChunkIndex,
    spec: &ChunkSpec,
    there: Option<(ContentKey, ChunkIndex)>,
    body: &mut Vec<u8>,
) -> Result<Option<u64>, StoreError> {
    // Nobody has to send nothing; and kubo does not.
    if let Ok(nothing) = verify_chunk(spec, &[], &[0]) {
        store.write_chunk(content, index, &nothing)?;
        return Ok(Some(0));
    }
    if let Some(there) = there
        && let Some(bytes) = copy_chunk(store, there, (content, index), spec, body)?
    {
        return Ok(Some(bytes));
    }
    let found = store.find_block(spec.cid.hash())?;
    let Some((other, chunk, _)) = found.filter(|(other, _, block)| *other != content && *block == 0) else {
        return Ok(None);
    };
    copy_chunk(store, (other, chunk), (content, index), spec, body)
}

/// Copies a chunk from one content to another; `None` if it is not there (a file that changed) or is another
/// (cut otherwise): then it has to come over the network.
///
/// # Errors
/// If it cannot be written.
pub fn copy_chunk(
    store: &dyn Store,
    (other, from): (ContentKey, ChunkIndex),
    (content, to): (ContentKey, ChunkIndex),
    spec: &ChunkSpec,
    body: &mut Vec<u8>,
) -> Result<Option<u64>, StoreError> {
    let Ok(read) = store.read_chunk(other, from, body) else { return Ok(None) };
    let Ok(data) = verify_chunk(spec, body, &read.block_lens) else { return Ok(None) };
    store.write_chunk(content, to, &data)?;
    Ok(Some(data.data_len()))
}

/// Adds the first occurrences among `items` to the runs of equal length.
fn note_chunks(items: &[Item], grew: &mut Vec<(u32, u32)>) {
    let mut guess = None;
    for item in items {
        if let Item::File { size, .. } = item {
            guess = *size;
        }
        let Item::Chunk { first: true, spec, .. } = item else { continue };
        let len = spec.len.or(guess).map_or(CHUNK_LEN, |l| u32::try_from(l).unwrap_or(u32::MAX));
        match grew.last_mut() {
            Some((count, l)) if *l == len => *count += 1,
            _ => grew.push((1, len)),
        }
    }
}

/// Inner nodes from the root on, in the order of the walk, at most `budget` bytes of them: what a
/// newcomer is given with the first answer.
pub fn first_nodes(store: &dyn Store, root: Cid, budget: usize) -> Vec<(Cid, Bytes)> {
    let (mut given, mut spent) = (Vec::new(), 0);
    let mut walker = Walker::new(root);
    let mut items = Vec::new();
    loop {
        items.clear();
        let step = walker.advance(
            &mut |cid| {
                if let Some((_, bytes)) = given.iter().find(|(c, _)| c == cid) {
                    return Some(Bytes::clone(bytes));
                }
                let bytes = store
                    .node(cid)
                    .ok()
                    .flatten()
                    .filter(|b| spent + b.len() <= budget && given.len() < MAX_FIRST_NODES)?;
                spent += bytes.len();
                given.push((*cid, bytes.clone()));
                Some(bytes)
            },
            BATCH,
            &mut items,
        );
        match step {
            Ok(Step::More) => {}
            // The budget is spent, or all is given. A fault cannot be: the content was walked before.
            Ok(Step::Missing(_) | Step::Done) | Err(_) => return given,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::content::profile::Profile;
    use crate::store::{MemStore, MemTree, NewFetch};

    const P: &Profile = &Profile::V1_256K;
    const HONEST: PeerKey = PeerKey(1);
    const LIAR: PeerKey = PeerKey(2);

    fn begin(content: ContentKey, root: Cid) -> Walk {
        Walk { content, walker: Walker::new(root), twin: None, arrived: Vec::new() }
    }

    fn bytes(seed: u8, len: usize) -> Vec<u8> {
        (0..len).map(|i| (i / 251) as u8 ^ (i as u8).wrapping_mul(seed)).collect()
    }

    fn tree(files: &[(&str, Vec<u8>)]) -> MemTree {
        MemTree::Dir(files.iter().map(|(n, b)| ((*n).to_owned(), MemTree::File(b.clone()))).collect())
    }

    fn store_with(tree: MemTree) -> (MemStore, ContentKey, Cid) {
        let store = MemStore::new();
        store.put(Path::new("/there"), tree);
        let key = store.import(Path::new("/there"), P).unwrap();
        let root = store.info(key).unwrap().root;
        (store, key, root)
    }

    /// Begins to fetch `root` into a store, and walks with what `from` has.
    fn fetch(store: &MemStore, from: &MemStore, root: Cid) -> (ContentKey, Walked) {
        let new = NewFetch { root, name: None, dest: "/fetched".into(), force: false };
        let content = store.begin_fetch(&new).unwrap();
        let mut walked = walk(store, begin(content, root));
        while !walked.done {
            assert!(walked.error.is_none(), "{:?}", walked.error);
            let node = |cid: &Cid| (HONEST, *cid, from.node(cid).unwrap().unwrap());
            let arrived = walked.missing.iter().map(node).collect();
            walked = walk(store, Walk { content, walker: walked.walker, twin: walked.twin, arrived });
        }
        (content, walked)
    }

    #[test]
    fn chunks_that_another_content_has_are_copied_and_held() {
        let same = bytes(3, 600_000);
        let (store, ..) = store_with(tree(&[("mine", same.clone()), ("other", bytes(5, 9))]));
        let (from, _, root) = store_with(tree(&[("new", bytes(7, 400_000)), ("theirs", same.clone())]));
        let (key, walked) = fetch(&store, &from, root);
        // Two chunks of the new file, then the three that are here.
        let copied: Vec<_> = walked.copied.iter().map(|(chunk, bytes)| (chunk.get(), *bytes)).collect();
        assert_eq!(copied, [(2, 262_144), (3, 262_144), (4, 75_712)]);
        let have: Vec<_> = store.have(key).unwrap().iter().map(ChunkIndex::get).collect();
        assert_eq!(have, [2, 3, 4]);
        let mut body = Vec::new();
        store.read_chunk(key, ChunkIndex::new(2).unwrap(), &mut body).unwrap();
        assert!(body == same[..262_144]);
    }

    #[test]
    fn what_was_fetched_of_the_same_root_elsewhere_is_copied_though_it_is_not_whole() {
        let (from, source, root) = store_with(tree(&[("f", bytes(3, 600_000))]));
        let store = MemStore::new();
        let (first, _) = fetch(&store, &from, root);
        let chunk = ChunkIndex::new(1).unwrap();
        let spec = store.chunk(first, chunk).unwrap();
        copy_between((&from, source), (&store, first), chunk, &spec);
        let new = NewFetch { root, name: None, dest: "/second".into(), force: false };
        let second = store.begin_fetch(&new).unwrap();
        let walked = walk(&store, begin(second, root));
        assert!(walked.done && walked.error.is_none());
        assert_eq!(walked.copied, [(chunk, 262_144)]);
    }

    fn copy_between(
        (from, source): (&MemStore, ContentKey),
        (to, key): (&MemStore, ContentKey),
        chunk: ChunkIndex,
        spec: &ChunkSpec,
    ) {
        let mut body = Vec::new();
        let read = from.read_chunk(source, chunk, &mut body).unwrap();
        to.write_chunk(key, chunk, &verify_chunk(spec, &body, &read.block_lens).unwrap()).unwrap();
    }

    #[test]
    fn an_empty_chunk_is_held_without_anybody_sending_it() {
        let (from, _, root) = store_with(tree(&[("a", Vec::new()), ("b", bytes(1, 9)), ("c", Vec::new())]));
        let store = MemStore::new();
        let (key, walked) = fetch(&store, &from, root);
        assert_eq!(walked.copied, [(ChunkIndex::new(0).unwrap(), 0)]);
        assert_eq!(store.have(key).unwrap().iter().map(ChunkIndex::get).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn a_copy_whose_file_has_changed_is_left_to_the_network() {
        let same = bytes(3, 600_000);
        let (store, ..) = store_with(tree(&[("mine", same.clone())]));
        let (from, _, root) = store_with(tree(&[("theirs", same)]));
        store.put(Path::new("/there"), tree(&[("mine", bytes(11, 600_000))]));
        let (key, walked) = fetch(&store, &from, root);
        assert!(walked.copied.is_empty() && store.have(key).unwrap().is_empty());
    }

    #[test]
    fn who_sends_other_bytes_for_a_node_is_named_and_the_node_stays_missing() {
        let (from, _, root) = store_with(tree(&[("a", bytes(1, 300_000))]));
        let store = MemStore::new();
        let new = NewFetch { root, name: None, dest: "/fetched".into(), force: false };
        let content = store.begin_fetch(&new).unwrap();
        let good = from.node(&root).unwrap().unwrap();
        let bad = Bytes::from([&good[..], b"!"].concat());
        let walked = walk(&store, Walk { arrived: vec![(LIAR, root, bad.clone())], ..begin(content, root) });
        assert_eq!((walked.bad, walked.missing), (vec![LIAR], vec![root]));
        assert!(store.node(&root).unwrap().is_none(), "it was kept");
        let arrived = vec![(LIAR, root, bad), (HONEST, root, good)];
        let walked = walk(&store, Walk { content, walker: walked.walker, twin: walked.twin, arrived });
        assert_eq!(walked.bad, [LIAR]);
        assert!(walked.error.is_none() && store.node(&root).unwrap().is_some());
    }

    #[test]
    fn a_newcomer_is_given_the_first_nodes_in_order_up_to_the_budget() {
        let many: Vec<(String, Vec<u8>)> = (0..20).map(|i| (format!("{i:02}"), bytes(i, 300_000))).collect();
        let many: Vec<_> = many.iter().map(|(n, b)| (n.as_str(), b.clone())).collect();
        let (store, _, root) = store_with(tree(&many));
        let all = first_nodes(&store, root, 1 << 20);
        assert_eq!((all.len(), all[0].0), (21, root));
        let budget = all[..4].iter().map(|(_, b)| b.len()).sum();
        assert_eq!(first_nodes(&store, root, budget), all[..4]);
    }
}
