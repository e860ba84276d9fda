//! Contents come into being: imports and fetches.

use std::path::Path;

use cid::Cid;

use crate::bitfield::Bitfield;
use crate::content::builder::{Built, DirBuilder, FileBuilder, NodeSink, leaf, small_file, symlink};
use crate::content::chunk::ChunkFrame;
use crate::content::manifest::{Meta, Step, Walker};
use crate::content::profile::Profile;
use crate::units::ContentKey;

use super::super::{ContentInfo, NewFetch, Origin, StoreError};
use super::{MemContent, MemTree, World};

/// Puts a tree's DAG together.
pub fn build(tree: &MemTree, profile: &Profile, sink: &mut NodeSink) -> Built {
    match tree {
        MemTree::Symlink(target) => symlink(profile, target.as_bytes(), sink),
        MemTree::File(bytes) if bytes.len() <= profile.chunk_len as usize => {
            small_file(profile, Meta::NONE, bytes, sink)
        }
        MemTree::File(bytes) => {
            let mut b = FileBuilder::new(profile, Meta::NONE);
            bytes.chunks(profile.chunk_len as usize).for_each(|c| b.push(leaf(profile, c), sink));
            b.finish(sink)
        }
        MemTree::Dir(entries) => {
            let mut b = DirBuilder::new(profile, Meta::NONE);
            for (name, entry) in entries {
                let built = build(entry, profile, sink);
                b.entry(name, &built);
            }
            b.finish(sink)
        }
    }
}

impl World {
    fn insert(&mut self, root: Cid, name: Option<String>, origin: Origin, force: bool) -> ContentKey {
        self.next += 1;
        let key = ContentKey(self.next);
        let info = ContentInfo {
            key,
            root,
            name,
            origin,
            size: 0,
            files: 0,
            chunks: 0,
            held: 0,
            held_bytes: 0,
            manifest_complete: false,
            complete: false,
            seeding: true,
            changed: Vec::new(),
            created: 0,
        };
        let content = MemContent {
            info,
            force,
            files: Vec::new(),
            folders: Vec::new(),
            symlinks: Vec::new(),
            chunks: Vec::new(),
            held: Bitfield::new(),
            nodes: Vec::new(),
        };
        self.contents.insert(key, content);
        key
    }

    pub fn import(
        &mut self,
        path: &Path,
        tree: &MemTree,
        profile: &'static Profile,
        origin: Origin,
    ) -> Result<ContentKey, StoreError> {
        let mut nodes = Vec::new();
        let root = build(tree, profile, &mut |cid, block| nodes.push((cid, block))).cid;
        let known = self.contents.iter().find(|(_, c)| c.info.root == root && c.info.origin == origin);
        if let Some((&key, _)) = known {
            self.look_again(key)?;
            return Ok(key);
        }
        let name = path.file_name().and_then(|n| n.to_str()).map(str::to_owned);
        let key = self.insert(root, name, origin, false);
        self.content(key)?.nodes.extend(nodes.iter().map(|n| n.0));
        self.nodes.extend(nodes);
        let known = self.nodes.clone();
        let mut find = |cid: &Cid| known.get(cid).cloned();
        let mut walker = Walker::new(root);
        let c = self.content(key)?;
        loop {
            let mut items = Vec::new();
            let step =
                walker.advance(&mut find, 1000, &mut items).map_err(|e| StoreError::Dag(e.to_string()))?;
            c.extend(&items)?;
            match step {
                Step::More => {}
                Step::Done => break,
                Step::Missing(_) => return Err(StoreError::damaged("an import's node is missing")),
            }
        }
        for chunk in &mut c.chunks {
            chunk.frame = ChunkFrame::of_own(profile, &chunk.spec, &mut find)
                .map_err(|e| StoreError::Dag(e.to_string()))?;
            for (file, _) in &chunk.places {
                let path = &c.files[*file].path;
                let whole = tree.file(path).map(|b| b.len() as u64);
                chunk.spec.len = chunk.spec.len.or(whole);
                c.files[*file].size = whole;
            }
        }
        c.info.size = c.files.iter().filter_map(|f| f.size).sum();
        (c.info.complete, c.info.manifest_complete) = (true, true);
        self.look_again(key)?;
        Ok(key)
    }

    pub fn begin(&mut self, new: &NewFetch) -> Result<ContentKey, StoreError> {
        let mut known = self
            .contents
            .values()
            .filter(|c| matches!(&c.info.origin, Origin::Fetched { path } if *path == new.dest));
        if let Some(c) = known.clone().find(|c| c.info.root == new.root) {
            let key = c.info.key;
            return self.begin_again(key, new);
        }
        if let Some(other) = known.find(|c| !c.info.complete) {
            return Err(StoreError::Busy { path: new.dest.clone(), root: other.info.root });
        }
        if let Some(tree) = self.disk.get(&new.dest).cloned() {
            for profile in Profile::ALL {
                if build(&tree, profile, &mut |_, _| ()).cid == new.root {
                    return self.import(
                        &new.dest,
                        &tree,
                        profile,
                        Origin::Fetched { path: new.dest.clone() },
                    );
                }
            }
            if !new.force {
                return Err(StoreError::Exists { path: new.dest.clone() });
            }
        }
        Ok(self.insert(new.root, new.name.clone(), Origin::Fetched { path: new.dest.clone() }, new.force))
    }

    fn begin_again(&mut self, key: ContentKey, new: &NewFetch) -> Result<ContentKey, StoreError> {
        if !self.content(key)?.info.complete {
            self.content(key)?.force |= new.force;
            return Ok(key);
        }
        self.look_again(key)?;
        let there = self.disk.contains_key(&new.dest);
        let c = self.content(key)?;
        if there && c.info.held == c.info.chunks && c.info.changed.is_empty() {
            return Ok(key);
        }
        if there && !new.force {
            return Err(StoreError::Exists { path: new.dest.clone() });
        }
        c.held = Bitfield::new();
        (c.info.complete, c.info.manifest_complete, c.force) = (false, false, new.force);
        c.info.changed.clear();
        c.count();
        Ok(key)
    }
}
