//! A store with a place for files, of either kind, and the moving of chunks between two.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::content::Cid;
use crate::content::chunk::verify_chunk;
use crate::content::manifest::{Step, Walker};
use crate::content::profile::Profile;
use crate::store::{FsStore, ImportOptions, MemStore, MemTree, NewFetch, Options, Store, StoreError, import};
use crate::units::{ChunkIndex, ContentKey};

pub trait Bench {
    type S: Store;
    fn new() -> Self;
    fn store(&self) -> &Self::S;
    /// The absolute path of a name in the place for files.
    fn path(&self, name: &str) -> PathBuf;
    fn put(&self, name: &str, what: &MemTree);
    fn at(&self, name: &str) -> Option<MemTree>;
    fn import(&self, name: &str, profile: &'static Profile) -> Result<ContentKey, StoreError>;
    /// Stops the store as a killed process would, or as a power cut if that is what it can play, and opens it again.
    fn crash(&mut self);
}

#[derive(Default)]
pub struct MemBench(MemStore);

impl Bench for MemBench {
    type S = MemStore;

    fn new() -> Self {
        MemBench::default()
    }

    fn store(&self) -> &MemStore {
        &self.0
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new("/files").join(name)
    }

    fn put(&self, name: &str, what: &MemTree) {
        self.0.put(&self.path(name), what.clone());
    }

    fn at(&self, name: &str) -> Option<MemTree> {
        self.0.at(&self.path(name))
    }

    fn import(&self, name: &str, profile: &'static Profile) -> Result<ContentKey, StoreError> {
        self.0.import(&self.path(name), profile)
    }

    fn crash(&mut self) {
        self.0.crash();
    }
}

pub struct FsBench {
    pub dir: tempfile::TempDir,
    pub store: Option<FsStore>,
    pub opts: Options,
}

/// A clock for which every file is old.
pub fn late() -> i64 {
    i64::MAX / 2
}

impl FsBench {
    pub fn with(opts: Options) -> FsBench {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("files")).unwrap();
        let mut bench = FsBench { dir, store: None, opts };
        bench.open();
        bench
    }

    pub fn open(&mut self) {
        self.store = Some(FsStore::open(&self.dir.path().join("data"), self.opts.clone()).unwrap());
    }

    /// A kill, and a start after the machine's. What was not synced is the test's to destroy.
    pub fn power_cut(&mut self) {
        self.opts.boot = Some(format!("after {}", self.opts.boot.as_deref().unwrap_or_default()));
        self.crash();
    }

    /// A clean stop and start.
    pub fn restart(&mut self) {
        self.store = None;
        self.open();
    }
}

impl Bench for FsBench {
    type S = FsStore;

    fn new() -> Self {
        FsBench::with(Options { clock: late, ..Options::default() })
    }

    fn store(&self) -> &FsStore {
        self.store.as_ref().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("files").join(name)
    }

    fn put(&self, name: &str, what: &MemTree) {
        let path = self.path(name);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).unwrap();
        }
        put(&path, what);
    }

    fn at(&self, name: &str) -> Option<MemTree> {
        at(&self.path(name))
    }

    fn import(&self, name: &str, profile: &'static Profile) -> Result<ContentKey, StoreError> {
        let opts = ImportOptions { profile, hidden: true, ..ImportOptions::default() };
        import(self.store(), &self.path(name), &opts, &|_| (), &AtomicBool::new(false))
            .map(|i| i.key.unwrap())
    }

    fn crash(&mut self) {
        let index = self.dir.path().join("data/index.redb");
        // What a killed process leaves is what is in the file; redb tidies up as it is dropped.
        let left = std::fs::read(&index).unwrap();
        self.store.take().unwrap().crash();
        std::fs::write(&index, left).unwrap();
        self.open();
    }
}

pub fn put(path: &Path, what: &MemTree) {
    match what {
        MemTree::File(bytes) => std::fs::write(path, bytes).unwrap(),
        MemTree::Symlink(target) => symlink(target, path).unwrap(),
        MemTree::Dir(entries) => {
            std::fs::create_dir(path).unwrap();
            entries.iter().for_each(|(name, entry)| put(&path.join(name), entry));
        }
    }
}

pub fn at(path: &Path) -> Option<MemTree> {
    let kind = std::fs::symlink_metadata(path).ok()?.file_type();
    Some(if kind.is_symlink() {
        MemTree::Symlink(std::fs::read_link(path).unwrap().to_str().unwrap().to_owned())
    } else if kind.is_dir() {
        let entries = std::fs::read_dir(path).unwrap().map(|e| e.unwrap());
        MemTree::Dir(
            entries.map(|e| (e.file_name().into_string().unwrap(), at(&e.path()).unwrap())).collect(),
        )
    } else {
        MemTree::File(std::fs::read(path).unwrap())
    })
}

/// Bytes that no compression or repetition makes equal.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend(x.to_le_bytes());
    }
    out.truncate(len);
    out
}

pub fn file(seed: u64, len: usize) -> MemTree {
    MemTree::File(bytes(seed, len))
}

pub fn dir<const N: usize>(entries: [(&str, MemTree); N]) -> MemTree {
    MemTree::Dir(entries.into_iter().map(|(n, t)| (n.to_owned(), t)).collect::<BTreeMap<_, _>>())
}

/// One of everything: empty, small and many-chunk files, the same bytes twice, zeros, folders within folders, empty ones,
/// links to wherever.
pub fn sampler() -> MemTree {
    dir([
        ("empty", file(0, 0)),
        ("one", file(1, 1)),
        ("big", file(2, 700_001)),
        ("same as big", file(2, 700_001)),
        ("zeros", MemTree::File(vec![0; 1_000_000])),
        (".hidden", file(3, 10)),
        ("a", dir([("b", dir([("c", file(4, 5000)), ("none", dir([]))])), ("b.txt", file(5, 300_000))])),
        ("z\u{fc}rich \u{1f426}", file(6, 20)),
        ("link", MemTree::Symlink("a/b/c".into())),
        ("out", MemTree::Symlink("../../../etc/passwd".into())),
        ("abs", MemTree::Symlink("/nowhere".into())),
    ])
}

pub fn fetch_of(root: Cid, dest: PathBuf) -> NewFetch {
    NewFetch { root, name: None, dest, force: false }
}

/// Walks the manifest in `to`, with nodes that `to` has or `from` gives.
pub fn learn(from: &dyn Store, to: &dyn Store, key: ContentKey) {
    let mut walker = Walker::new(to.info(key).unwrap().root);
    loop {
        let mut items = Vec::new();
        let step = walker.advance(&mut |cid| to.node(cid).unwrap(), 7, &mut items).unwrap();
        to.extend(key, &items).unwrap();
        match step {
            Step::More => {}
            Step::Missing(cids) => {
                let nodes: Vec<_> = cids.iter().map(|c| (*c, from.node(c).unwrap().unwrap())).collect();
                to.put_nodes(key, &nodes).unwrap();
            }
            Step::Done => return to.manifest_complete(key).unwrap(),
        }
    }
}

pub fn chunk(n: u32) -> ChunkIndex {
    ChunkIndex::new(n).unwrap()
}

/// One chunk from one store to another, as the network would bring it.
pub fn carry(
    from: &dyn Store,
    a: ContentKey,
    to: &dyn Store,
    b: ContentKey,
    n: u32,
) -> Result<(), StoreError> {
    bring((from, a, n), (to, b, n))
}

/// The same for a chunk that has another number there.
pub fn bring(
    (from, a, m): (&dyn Store, ContentKey, u32),
    (to, b, n): (&dyn Store, ContentKey, u32),
) -> Result<(), StoreError> {
    let mut buf = Vec::new();
    let read = from.read_chunk(a, chunk(m), &mut buf)?;
    let spec = to.chunk(b, chunk(n))?;
    let verified = verify_chunk(&spec, &buf, &read.block_lens).expect("what a store serves is right");
    to.write_chunk(b, chunk(n), &verified)
}

/// All chunks that are missing.
pub fn carry_all(from: &dyn Store, a: ContentKey, to: &dyn Store, b: ContentKey) {
    for n in 0..to.info(b).unwrap().chunks {
        carry(from, a, to, b, n).unwrap();
    }
}

/// A whole fetch.
pub fn fetch<F: Bench, T: Bench>(from: &F, a: ContentKey, to: &T, dest: &str) -> ContentKey {
    let root = from.store().info(a).unwrap().root;
    let b = to.store().begin_fetch(&fetch_of(root, to.path(dest))).unwrap();
    learn(from.store(), to.store(), b);
    carry_all(from.store(), a, to.store(), b);
    assert_eq!(to.store().finish_fetch(b).unwrap(), to.path(dest));
    b
}
