//! Reading one of the peer's streams: messages, their blocks named by what their bytes hash to.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt};
use libp2p::Stream;
use tokio::sync::Semaphore;

use super::What;
use super::link::{Context, End};
use crate::wire::bitswap::{MAX_MESSAGE, Message, read_len};

/// What all streams of a peer may hold of messages that are not whole, in KiB.
pub const BUDGET: usize = 8 << 10;
/// The longest message of a peer that was never asked for anything: wants and presences are short.
const MAX_UNASKED: usize = 512 << 10;
/// What is read at once where a message begins.
const READ_LEN: usize = 4 << 10;
/// A message's buffer never grows by more than this beyond what has come.
const STEP: usize = 256 << 10;
/// Signs of life from within a message are at least this far apart.
const PROGRESS: Duration = Duration::from_millis(100);
/// A message that has begun must be whole after this and what its length needs at 8 KiB/s.
const PATIENCE: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 8 << 10;

pub async fn run(context: Context, mut stream: Stream, budget: Arc<Semaphore>) -> End {
    let mut start = Vec::with_capacity(READ_LEN);
    loop {
        match next(&context, &mut stream, &mut start, &budget).await {
            Ok(true) => {}
            Ok(false) => return End::Finished,
            Err(end) => return end,
        }
    }
}

/// Reads one message and hands it on; false at the stream's end. `start` holds what came beyond the last one.
async fn next(
    context: &Context,
    stream: &mut (impl AsyncRead + Unpin),
    start: &mut Vec<u8>,
    budget: &Semaphore,
) -> Result<bool, End> {
    let max = || match context.shared.asked.load(Ordering::Relaxed) {
        true => MAX_MESSAGE,
        false => MAX_UNASKED,
    };
    let mut some = [0; READ_LEN];
    let (len, prefix) = loop {
        if let Some(found) = read_len(start, max())? {
            break found;
        }
        match stream.read(&mut some).await? {
            0 if start.is_empty() => return Ok(false),
            0 => return Err(End::Lost("cut off within a length".into())),
            n => start.extend_from_slice(&some[..n]),
        }
    };
    // Messages are at most 4 MiB, so this is at most half of the budget, and held until the message is handed on.
    let kib = u32::try_from(len / 1_024 + 1).unwrap_or(u32::MAX);
    let _held = budget.acquire_many(kib).await.map_err(|_| End::Lost("the link is over".into()))?;
    start.drain(..prefix);
    let frame = tokio::time::timeout(
        PATIENCE + Duration::from_secs(len as u64 / SLOWEST),
        read_frame(context, stream, start, len),
    );
    let frame = frame.await.map_err(|_| End::Lost("a message came too slowly".into()))??;
    hand_on(context, frame).await?;
    Ok(true)
}

async fn read_frame(
    context: &Context,
    stream: &mut (impl AsyncRead + Unpin),
    start: &mut Vec<u8>,
    len: usize,
) -> Result<Vec<u8>, End> {
    let mut frame = context.pool.get();
    frame.truncate(len);
    let mut filled = start.len().min(len);
    frame.resize(filled.max(frame.len()), 0);
    frame[..filled].copy_from_slice(&start[..filled]);
    start.drain(..filled);
    let (mut told, mut last) = (0, Instant::now());
    while filled < len {
        let goal = len.min(filled + STEP);
        if frame.len() < goal {
            frame.resize(goal, 0);
        }
        match stream.read(&mut frame[filled..goal]).await? {
            0 => return Err(End::Lost("cut off within a message".into())),
            n => filled += n,
        }
        if filled < len && last.elapsed() >= PROGRESS {
            last = Instant::now();
            let bytes = (filled - told) as u64;
            let news = super::News { peer: context.peer, link: context.link, what: What::Progress { bytes } };
            // A node that is behind gets the sum next time.
            if context.inbound.try_send(crate::net::api::Inbound::Bitswap(news)).is_ok() {
                told = filled;
            }
        }
    }
    frame.truncate(len);
    Ok(frame)
}

/// Hashes the blocks here, in the stream's own task, as only the hash says which they are.
async fn hand_on(context: &Context, frame: Vec<u8>) -> Result<(), End> {
    let Message { entries, full, blocks, presences } = Message::decode(Bytes::from(frame))?;
    if full || !entries.is_empty() || !presences.is_empty() {
        context.tell(What::Message { entries, full, presences }).await?;
    }
    for (prefix, data) in blocks {
        let cid = prefix.name(&data);
        // The last block of a message takes its buffer over; others are copied.
        context.tell(What::Block { cid, body: Vec::from(data) }).await?;
    }
    Ok(())
}
