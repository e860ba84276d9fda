//! What content costs: hashing a chunk, building a file's inner nodes, walking a manifest.

use std::collections::HashMap;
use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dunlin::content::builder::{Built, FileBuilder, Leaf, leaf};
use dunlin::content::chunk::{ChunkSpec, verify_chunk};
use dunlin::content::manifest::{Step, Walker};
use dunlin::content::profile::Profile;
use dunlin::content::{Cid, Meta};

const GIB: u64 = 1 << 30;

/// The leaves of a file of that many bytes, each with a CID of its own.
fn leaves(profile: &Profile, bytes: u64) -> Vec<Leaf> {
    let len = profile.chunk_len;
    let count = bytes.div_ceil(len.into());
    (0..count).map(|n| Leaf { data_len: len, block_len: len, ..leaf(profile, &n.to_le_bytes()) }).collect()
}

fn build(profile: &Profile, leaves: &[Leaf], sink: &mut dyn FnMut(Cid, Bytes)) -> Built {
    let mut file = FileBuilder::new(profile, Meta::NONE);
    leaves.iter().for_each(|leaf| file.push(*leaf, sink));
    file.finish(sink)
}

fn hashing(c: &mut Criterion) {
    let data = vec![7; 262_144];
    let mut group = c.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("leaf, raw", |b| b.iter(|| leaf(&Profile::V1_256K, black_box(&data))));
    group.bench_function("leaf, dag-pb", |b| b.iter(|| leaf(&Profile::V0_2015, black_box(&data))));
    let spec = ChunkSpec { cid: leaf(&Profile::V1_256K, &data).cid, len: Some(data.len() as u64) };
    let lens = [data.len() as u32];
    group.bench_function("verify", |b| b.iter(|| verify_chunk(&spec, black_box(&data), &lens).is_ok()));
    group.finish();
}

fn building(c: &mut Criterion) {
    let leaves = leaves(&Profile::V1_256K, GIB);
    let mut group = c.benchmark_group("build");
    group.throughput(Throughput::Elements(leaves.len() as u64));
    let sink = &mut |cid, node| drop(black_box((cid, node)));
    group.bench_function("inner nodes of 1 GiB", |b| b.iter(|| build(&Profile::V1_256K, &leaves, sink)));
    group.finish();
}

fn walking(c: &mut Criterion) {
    let mut nodes = HashMap::new();
    let leaves = leaves(&Profile::V1_256K, 10 * GIB);
    let root = build(&Profile::V1_256K, &leaves, &mut |cid, node| drop(nodes.insert(cid, node))).cid;
    let walk = || {
        let (mut walker, mut items) = (Walker::new(root), Vec::new());
        loop {
            items.clear();
            let step = walker.advance(&mut |cid| nodes.get(cid).cloned(), 1_024, &mut items);
            if step.expect("the file is well made") == Step::Done {
                return walker.chunks();
            }
        }
    };
    assert_eq!(walk() as usize, leaves.len());
    let mut group = c.benchmark_group("walk");
    group.throughput(Throughput::Elements(leaves.len() as u64));
    group.bench_function("manifest of 10 GiB", |b| b.iter(walk));
    group.finish();
}

criterion_group!(benches, hashing, building, walking);
criterion_main!(benches);
