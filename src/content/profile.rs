//! The ways to cut and arrange content: which CID a file gets is decided here.
//!
//! A profile is a promise: the same bytes under the same profile have the same CID in every program
//! that knows it. `v1-256k` is `ipfs add --cid-version=1`; the other two are those of IPIP-499.

/// When a folder's entries are spread over a HAMT instead of standing in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HamtRule {
    /// When the bytes of all names and CIDs together are more than this.
    Links(usize),
    /// When its whole block would be longer than this.
    Block(usize),
}

/// How content is cut into chunks and put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    pub name: &'static str,
    /// 0 or 1. Raw blocks have CIDv1 in either case.
    pub cid_version: u8,
    /// File bytes in a chunk; only a file's last one is shorter.
    pub chunk_len: u32,
    /// Children of a file's inner node.
    pub max_links: usize,
    /// Chunks are blocks of file bytes and nothing else; otherwise each is wrapped in a dag-pb node.
    pub raw_leaves: bool,
    pub hamt: HamtRule,
    /// Children of a HAMT node.
    pub hamt_fanout: u32,
}

impl Profile {
    /// The default: `ipfs add --cid-version=1`.
    pub const V1_256K: Profile = Profile {
        name: "v1-256k",
        cid_version: 1,
        chunk_len: 262_144,
        max_links: 174,
        raw_leaves: true,
        hamt: HamtRule::Links(262_144),
        hamt_fanout: 256,
    };

    /// IPIP-499, `unixfs-v1-2025`: chunks of 1 MiB.
    pub const V1_2025: Profile = Profile {
        name: "unixfs-v1-2025",
        cid_version: 1,
        chunk_len: 1 << 20,
        max_links: 1_024,
        raw_leaves: true,
        hamt: HamtRule::Block(262_144),
        hamt_fanout: 256,
    };

    /// IPIP-499, `unixfs-v0-2015`: CIDs that begin with `Qm`.
    pub const V0_2015: Profile = Profile {
        name: "unixfs-v0-2015",
        cid_version: 0,
        chunk_len: 262_144,
        max_links: 174,
        raw_leaves: false,
        hamt: HamtRule::Links(262_144),
        hamt_fanout: 256,
    };

    /// Every profile, the default first.
    pub const ALL: [&'static Profile; 3] = [&Profile::V1_256K, &Profile::V1_2025, &Profile::V0_2015];

    /// A profile by the name that `--profile` takes.
    pub fn by_name(name: &str) -> Option<&'static Profile> {
        Profile::ALL.into_iter().find(|p| p.name == name)
    }

    /// This profile with modes or times preserved: only dag-pb nodes can carry them, so kubo then
    /// makes no raw leaves at all, and neither do we.
    pub const fn preserving(self) -> Profile {
        Profile { raw_leaves: false, ..self }
    }

    /// Whether dag-pb nodes get CIDv0.
    pub const fn v0(&self) -> bool {
        self.cid_version == 0
    }
}

impl Default for Profile {
    fn default() -> Profile {
        Profile::V1_256K
    }
}
