//! Files and folders: made from a seed, compared to the byte.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

pub const MIB: u64 = 1 << 20;

/// SplitMix64: small, good enough for file bytes, and the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn fill(&mut self, buf: &mut [u8]) {
        for eight in buf.chunks_mut(8) {
            eight.copy_from_slice(&self.next().to_le_bytes()[..eight.len()]);
        }
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }
}

/// Writes `len` bytes that follow from `seed`.
pub fn random_file(path: &Path, seed: u64, len: u64) {
    let (mut file, mut rng, mut left) = (File::create(path).unwrap(), Rng(seed), len);
    let mut buf = vec![0; MIB as usize];
    while left > 0 {
        let n = left.min(MIB) as usize;
        rng.fill(&mut buf[..n]);
        file.write_all(&buf[..n]).unwrap();
        left -= n as u64;
    }
}

/// Names in several scripts and of awkward characters, symlinks of every kind, empty folders, a file with
/// the same bytes as another, one of several chunks.
pub fn awkward_tree(root: &Path) {
    let long = "x".repeat(255);
    for dir in ["leer/ganz/unten", "日本語/документы", "empty", "with space/ "] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let names = [
        "naïve.txt",
        "e\u{301}",
        "\u{e9}",
        "日本語/документы/🦩",
        "-rf",
        "CON",
        "a\\b",
        "with space/ /tab\there",
    ];
    for (i, name) in names.into_iter().chain([&*long, "new\nline", "Upper", "upper", "%41", "~"]).enumerate()
    {
        fs::write(root.join(name), Rng(i as u64).bytes(i * 1_000)).unwrap();
    }
    random_file(&root.join("several chunks"), 5, 900_000);
    fs::copy(root.join("several chunks"), root.join("leer/same again")).unwrap();
    fs::write(root.join("leer/no bytes"), b"").unwrap();
    let links = [
        ("to file", "naïve.txt"),
        ("leer/up", "../naïve.txt"),
        ("absolute", "/etc/hostname"),
        ("outside", "../../../outside"),
        ("dangling", "nothing/here"),
        ("to folder", "leer"),
        ("日本語/ссылка", "документы/🦩"),
        ("loop", "loop"),
    ];
    for (name, target) in links {
        symlink(target, root.join(name)).unwrap();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Dir,
    File(u64),
    Link(PathBuf),
    Other(u32),
}

fn entries(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(rel) = todo.pop() {
        let path = if rel.as_os_str().is_empty() { root.to_owned() } else { root.join(&rel) };
        let meta = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let entry = match meta.file_type() {
            t if t.is_dir() => {
                todo.extend(fs::read_dir(&path).unwrap().map(|e| rel.join(e.unwrap().file_name())));
                Entry::Dir
            }
            t if t.is_file() => Entry::File(meta.len()),
            t if t.is_symlink() => Entry::Link(fs::read_link(&path).unwrap()),
            _ => Entry::Other(meta.mode()),
        };
        found.insert(rel, entry);
    }
    found
}

/// Both are the same in names, kinds, bytes, link targets and empty folders.
pub fn assert_same(want: &Path, got: &Path) {
    let (a, b) = (entries(want), entries(got));
    let differing: Vec<_> = a
        .iter()
        .filter(|(k, v)| b.get(*k) != Some(v))
        .map(|(k, v)| format!("{k:?}: want {v:?}, got {:?}", b.get(k)))
        .chain(
            b.iter()
                .filter(|(k, _)| !a.contains_key(*k))
                .map(|(k, v)| format!("{k:?}: not wanted, got {v:?}")),
        )
        .take(10)
        .collect();
    assert!(differing.is_empty(), "{} is not {}:\n{}", got.display(), want.display(), differing.join("\n"));
    for (rel, entry) in &a {
        if matches!(entry, Entry::File(_)) {
            let at = |root: &Path| if rel.as_os_str().is_empty() { root.to_owned() } else { root.join(rel) };
            if let Some(offset) = first_difference(&at(want), &at(got), |_| false) {
                panic!("{} differs from {} at byte {offset}", at(got).display(), at(want).display());
            }
        }
    }
}

/// Every byte written so far is right: where the files differ, `part` has a hole (zeroes).
pub fn assert_no_wrong_byte(want: &Path, part: &Path) {
    if let Some(offset) = first_difference(want, part, |got| got == 0) {
        panic!("{} has a wrong byte at {offset}", part.display());
    }
}

/// Where two files differ first, except where `excused` says that the second file's byte may be there.
fn first_difference(want: &Path, got: &Path, excused: impl Fn(u8) -> bool) -> Option<u64> {
    let open = |p: &Path| File::open(p).unwrap_or_else(|e| panic!("{}: {e}", p.display()));
    let (mut a, mut b) = (open(want), open(got));
    let (mut x, mut y) = (vec![0; MIB as usize], vec![0; MIB as usize]);
    let mut at = 0;
    loop {
        let (n, m) = (read_full(&mut a, &mut x), read_full(&mut b, &mut y));
        if x[..n] != y[..m] {
            let differs = (0..n.max(m)).find(|&i| match (x[..n].get(i), y[..m].get(i)) {
                (Some(want), Some(got)) => want != got && !excused(*got),
                (None, Some(_)) => true,
                (_, None) => !excused(0),
            });
            if let Some(i) = differs {
                return Some(at + i as u64);
            }
        }
        if n == 0 && m == 0 {
            return None;
        }
        at += n.max(m) as u64;
    }
}

/// Reads until the buffer is full or the file ends.
pub fn read_full(file: &mut File, buf: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read(&mut buf[filled..]).unwrap() {
            0 => break,
            n => filled += n,
        }
    }
    filled
}

/// Bytes of a file, or of the files of a folder, that are really on disk; 0 if it is not there. What
/// vanishes while it looks counts nothing.
pub fn allocated(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => {
            let inside = fs::read_dir(path).into_iter().flatten();
            inside.filter_map(Result::ok).map(|e| allocated(&e.path())).sum()
        }
        Ok(m) => m.blocks() * 512,
        Err(_) => 0,
    }
}
