//! Files, folders and symlinks in memory.

use std::collections::BTreeMap;

/// What a path can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemTree {
    File(Vec<u8>),
    Dir(BTreeMap<String, MemTree>),
    Symlink(String),
}

impl MemTree {
    /// An empty folder.
    pub fn dir() -> MemTree {
        MemTree::Dir(BTreeMap::new())
    }

    /// What is at a `/`-joined path; itself at the empty one.
    pub fn get(&self, rel: &str) -> Option<&MemTree> {
        rel.split('/').filter(|c| !c.is_empty()).try_fold(self, |at, name| match at {
            MemTree::Dir(entries) => entries.get(name),
            _ => None,
        })
    }

    /// The bytes of the file at a path.
    pub fn file(&self, rel: &str) -> Option<&[u8]> {
        match self.get(rel)? {
            MemTree::File(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Puts something at a path, its folders too; false if a file is in the way.
    pub fn put(&mut self, rel: &str, what: MemTree) -> bool {
        let mut at = self;
        let names: Vec<&str> = rel.split('/').filter(|c| !c.is_empty()).collect();
        for name in &names {
            let MemTree::Dir(entries) = at else { return false };
            at = entries.entry((*name).to_owned()).or_insert_with(MemTree::dir);
        }
        *at = what;
        true
    }
}
