//! What is kept at hand: parsed pages of the index, open files. Both bounded, both by last use.

use std::collections::HashMap;
use std::fs::File;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::units::ContentKey;

use super::super::tree::Root;
use super::super::{StoreError, index::Index, index::Paged};
use super::content::lock;

/// Pages of each kind kept parsed (some 25 KiB each).
const PAGES: usize = 64;
/// Open files kept.
const FILES: usize = 256;
/// Open roots kept.
const ROOTS: usize = 16;

/// A small map that forgets what was used longest ago. To find that it looks at all: they are few.
#[derive(Debug)]
struct Lru<K, V> {
    map: HashMap<K, (V, u64)>,
    tick: u64,
    cap: usize,
}

impl<K: Hash + Eq + Copy, V: Clone> Lru<K, V> {
    fn new(cap: usize) -> Self {
        Lru { map: HashMap::with_capacity(cap), tick: 0, cap }
    }

    fn get(&mut self, k: &K) -> Option<V> {
        self.tick += 1;
        let (v, used) = self.map.get_mut(k)?;
        *used = self.tick;
        Some(v.clone())
    }

    fn put(&mut self, k: K, v: V) {
        self.tick += 1;
        if self.map.len() >= self.cap && !self.map.contains_key(&k) {
            let oldest = self.map.iter().min_by_key(|(_, (_, used))| *used).map(|(k, _)| *k);
            oldest.map(|k| self.map.remove(&k));
        }
        self.map.insert(k, (v, self.tick));
    }
}

type Page<R> = Arc<Vec<R>>;

/// Parsed pages of one kind of record.
#[derive(Debug)]
pub struct PageCache<R>(Mutex<Lru<(ContentKey, u32), Page<R>>>);

impl<R: Paged> PageCache<R> {
    pub fn new() -> Self {
        PageCache(Mutex::new(Lru::new(PAGES)))
    }

    /// The record with this number, `None` if there is none.
    pub fn record(&self, index: &Index, key: ContentKey, n: u32) -> Result<Option<R>, StoreError> {
        let (page, at) = (n / R::PER_PAGE, (n % R::PER_PAGE) as usize);
        Ok(self.page(index, key, page)?.get(at).cloned())
    }

    pub fn page(&self, index: &Index, key: ContentKey, page: u32) -> Result<Page<R>, StoreError> {
        if let Some(p) = lock(&self.0).get(&(key, page)) {
            return Ok(p);
        }
        let parsed = Arc::new(index.page::<R>(key, page)?);
        lock(&self.0).put((key, page), parsed.clone());
        Ok(parsed)
    }

    pub fn forget(&self, key: ContentKey, page: u32) {
        lock(&self.0).map.remove(&(key, page));
    }

    pub fn forget_content(&self, key: ContentKey) {
        lock(&self.0).map.retain(|k, _| k.0 != key);
    }
}

/// An open file.
#[derive(Debug)]
pub struct Handle {
    pub file: File,
    pub writable: bool,
    /// Held while writing. The kernel lets one write to a file at a time; who waits for it there burns a processor that
    /// others could use.
    pub writing: Mutex<()>,
    /// For messages.
    pub path: PathBuf,
}

/// Open files and roots.
#[derive(Debug)]
pub struct FileCache {
    files: Mutex<Lru<(ContentKey, u32), Arc<Handle>>>,
    roots: Mutex<Lru<ContentKey, Arc<Root>>>,
}

impl FileCache {
    pub fn new() -> Self {
        FileCache { files: Mutex::new(Lru::new(FILES)), roots: Mutex::new(Lru::new(ROOTS)) }
    }

    pub fn get(&self, key: ContentKey, file: u32, write: bool) -> Option<Arc<Handle>> {
        lock(&self.files).get(&(key, file)).filter(|h| h.writable || !write)
    }

    pub fn put(&self, key: ContentKey, file: u32, handle: Arc<Handle>) {
        lock(&self.files).put((key, file), handle);
    }

    pub fn forget(&self, key: ContentKey, file: u32) {
        lock(&self.files).map.remove(&(key, file));
    }

    pub fn root(&self, key: ContentKey) -> Option<Arc<Root>> {
        lock(&self.roots).get(&key)
    }

    pub fn put_root(&self, key: ContentKey, root: Arc<Root>) {
        lock(&self.roots).put(key, root);
    }

    pub fn forget_content(&self, key: ContentKey) {
        lock(&self.files).map.retain(|k, _| k.0 != key);
        lock(&self.roots).map.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_is_forgotten_first() {
        let mut lru = Lru::new(2);
        lru.put(1, 'a');
        lru.put(2, 'b');
        assert_eq!(lru.get(&1), Some('a'));
        lru.put(3, 'c');
        assert_eq!((lru.get(&1), lru.get(&2), lru.get(&3)), (Some('a'), None, Some('c')));
    }
}
