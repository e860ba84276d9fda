//! Random sequences of operations: the two stores must agree after each.

use proptest::prelude::*;

use crate::content::profile::Profile;
use crate::store::{MemTree, Store, StoreError};
use crate::units::ContentKey;

use super::bench::*;

#[derive(Clone, Debug)]
enum Op {
    Write(u32),
    Read(u32),
    Learn,
    Checkpoint,
    Begin,
    Finish,
    Verify,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u32..12).prop_map(Op::Write),
        3 => (0u32..12).prop_map(Op::Read),
        1 => Just(Op::Learn),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Begin),
        1 => Just(Op::Finish),
        1 => Just(Op::Verify),
    ]
}

fn tree() -> impl Strategy<Value = MemTree> {
    let leaf = prop_oneof![
        (0u64..3, prop::sample::select(vec![0usize, 1, 1000, 262_144, 300_000, 600_000]))
            .prop_map(|(s, n)| file(s, n)),
        (0usize..3).prop_map(|n| MemTree::File(vec![0; n * 262_144])),
        Just(MemTree::Symlink("../x".into())),
    ];
    prop::collection::btree_map("[a-c]{1,2}", leaf, 0..5)
        .prop_map(|m| dir([("sub", MemTree::Dir(m.clone())), ("again", MemTree::Dir(m))]))
}

/// What an operation gave, without what the stores need not agree on.
fn said<T: std::fmt::Debug>(done: Result<T, StoreError>) -> String {
    match done {
        Ok(v) => format!("{v:?}"),
        Err(e) => format!("{e:?}").split([' ', '(']).next().unwrap_or_default().to_owned(),
    }
}

fn run<B: Bench>(source: &MemBench, ka: ContentKey, b: &B, key: ContentKey, op: &Op) -> String {
    let s = b.store();
    let mut buf = Vec::new();
    match op {
        Op::Write(n) => match s.chunk(key, chunk(*n)) {
            Ok(_) => said(carry(source.store(), ka, s, key, *n)),
            Err(e) => said::<()>(Err(e)),
        },
        Op::Read(n) => {
            let read = said(s.read_chunk(key, chunk(*n), &mut buf));
            format!("{read} {buf:?}")
        }
        Op::Learn => {
            learn(source.store(), s, key);
            String::new()
        }
        Op::Checkpoint => said(s.checkpoint()),
        Op::Begin => said(s.begin_fetch(&fetch_of(s.info(key).unwrap().root, b.path("dest")))),
        Op::Finish => said(s.finish_fetch(key).map(|_| ())),
        Op::Verify => said(s.verify(key, &mut |_| ()).map(|(lost, blamed)| (lost, blamed.len()))),
    }
}

fn state<B: Bench>(b: &B, key: ContentKey) -> String {
    let i = b.store().info(key).unwrap();
    let held: Vec<u32> = b.store().have(key).unwrap().iter().map(|n| n.get()).collect();
    format!("{:?}", (i.size, i.files, i.chunks, i.held, i.held_bytes, i.manifest_complete, i.complete, held))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn both_stores_say_the_same(tree in tree(), profile in 0usize..3, ops in prop::collection::vec(op(), 1..30)) {
        let (source, mem, fs) = (MemBench::new(), MemBench::new(), FsBench::new());
        source.put("src", &tree);
        let ka = source.import("src", Profile::ALL[profile]).unwrap();
        let root = source.store().info(ka).unwrap().root;
        let km = mem.store().begin_fetch(&fetch_of(root, mem.path("dest"))).unwrap();
        let kf = fs.store().begin_fetch(&fetch_of(root, fs.path("dest"))).unwrap();
        for op in &ops {
            let (m, f) = (run(&source, ka, &mem, km, op), run(&source, ka, &fs, kf, op));
            prop_assert!(m == f, "{:?}: mem {:.200}, fs {:.200}", op, m, f);
            prop_assert_eq!(state(&mem, km), state(&fs, kf), "after {:?}", op);
        }
        prop_assert_eq!(mem.at("dest"), fs.at("dest"));
        learn(source.store(), fs.store(), kf);
        carry_all(source.store(), ka, fs.store(), kf);
        fs.store().finish_fetch(kf).unwrap();
        prop_assert_eq!(fs.at("dest").unwrap(), tree);
    }
}
