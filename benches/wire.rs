//! The exchange's codec: what one chunk, one request and one join cost beside the bytes they move.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dunlin::bitfield::Bitfield;
use dunlin::content::Cid;
use dunlin::units::{ChunkIndex, ChunkRange};
use dunlin::wire::exchange::Message;
use dunlin::wire::frame::FrameBuf;

fn messages() -> Vec<(&'static str, Message)> {
    let root: Cid = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku".parse().expect("a CID");
    let index = ChunkIndex::new(12_345).expect("in range");
    let mut have = Bitfield::new();
    for start in (0..40_000).step_by(7) {
        have.insert_range(ChunkRange::new(start, start + 3).expect("not empty"));
    }
    vec![
        ("chunk header", Message::Chunk { root, index, block_lens: vec![262_144] }),
        ("request of 16", Message::GetChunks { root, indices: vec![index; 16] }),
        (
            "join with 40,000 chunks in runs",
            Message::Join { root, have, complete: false, interested: true, any: true, has_nodes: false },
        ),
    ]
}

fn codec(c: &mut Criterion) {
    for (name, message) in messages() {
        let mut frame = Vec::new();
        message.encode(&mut frame).expect("within the caps");
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(frame.len() as u64));
        let mut out = Vec::with_capacity(frame.len());
        group.bench_function("encode", |b| {
            b.iter(|| {
                out.clear();
                black_box(&message).encode(&mut out).expect("within the caps");
            });
        });
        let mut frames = FrameBuf::new();
        frames.extend(&frame);
        let body = frames.next_frame().expect("within the caps").expect("one whole frame").to_vec();
        group.bench_function("decode", |b| {
            b.iter(|| Message::decode(black_box(&body)).expect("our own message"))
        });
        group.finish();
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
