//! Walking a manifest as its inner nodes arrive: verify, keep, walk on, tell the store. Blocking, and run
//! off the driver; one walk a content at a time, the walker travelling with it.

use bytes::Bytes;

use crate::content::Cid;
use crate::content::block::verify_block;
use crate::content::chunk::verify_chunk;
use crate::content::manifest::{Item, Step, Walker};
use crate::store::{Store, StoreError};
use crate::units::{CHUNK_LEN, ChunkIndex, ContentKey, PeerKey};

/// Nodes given to a newcomer, at most.
const MAX_FIRST_NODES: usize = crate::wire::exchange::MAX_CIDS as usize;
/// Items taken from the walker before the store is told of them.
const BATCH: usize = 4_096;

pub struct Walk {
    pub content: ContentKey,
    pub walker: Walker,
    /// Inner nodes that came, not verified yet, and from whom.
    pub arrived: Vec<(PeerKey, Cid, Bytes)>,
}

/// What a walk found.
pub struct Walked {
    pub content: ContentKey,
    pub walker: Walker,
    /// Runs of new chunks: how many, and how long each is (a claim).
    pub grew: Vec<(u32, u32)>,
    /// Chunks that another content of ours had, copied, with their bytes of files.
    pub copied: Vec<(ChunkIndex, u64)>,
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
    let Walk { content, walker, arrived } = job;
    let mut out = Walked {
        content,
        walker,
        grew: vec![],
        copied: vec![],
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
    copy_what_is_here(store, out.content, &items, &mut out.copied)?;
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

/// Chunks that another content of ours holds need not come over the network: they are read there, verified
/// as if a peer had sent them, and written here.
fn copy_what_is_here(
    store: &dyn Store,
    content: ContentKey,
    items: &[Item],
    copied: &mut Vec<(ChunkIndex, u64)>,
) -> Result<(), StoreError> {
    let have = store.have(content)?;
    let mut body = Vec::new();
    for item in items {
        let Item::Chunk { index, first: true, spec, .. } = item else { continue };
        if have.contains(*index) {
            continue;
        }
        let Some((other, chunk, 0)) = store.find_block(spec.cid.hash())? else { continue };
        if other == content {
            continue;
        }
        // A file that changed meanwhile, or a chunk cut otherwise: then it comes over the network.
        let Ok(read) = store.read_chunk(other, chunk, &mut body) else { continue };
        let Ok(data) = verify_chunk(spec, &body, &read.block_lens) else { continue };
        store.write_chunk(content, *index, &data)?;
        copied.push((*index, data.data_len()));
    }
    Ok(())
}

/// Adds the first occurrences among `items` to the runs of equal length.
fn note_chunks(items: &[Item], grew: &mut Vec<(u32, u32)>) {
    for item in items {
        let Item::Chunk { first: true, spec, .. } = item else { continue };
        let len = spec.len.map_or(CHUNK_LEN, |l| u32::try_from(l).unwrap_or(u32::MAX));
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
