//! Threads that hash, read and write, so that neither the network nor the driver ever waits for a disk.
//!
//! Two small pools with bounded queues: one takes arrived chunks (verify, then write), the other reads
//! chunks that are to be sent. They are apart so that a busy download does not hold up an upload. Their
//! results come back over one bounded channel; the driver never blocks on the queues (it keeps what does not
//! fit, and stops reading the network until it does), so the two directions cannot wait for each other.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use libp2p::PeerId;
use tokio::sync::mpsc;

use crate::content::Cid;
use crate::content::chunk::{ChunkFault, verify_chunk};
use crate::net::api::{Link, Outgoing};
use crate::store::{Store, StoreError};
use crate::units::{ChunkIndex, ContentKey};
use crate::wire::exchange::Message;

use super::bitswap::Sending;
use super::walk::copy_chunk;

/// Jobs that wait in a pool's queue; more are kept by the driver.
const QUEUE: usize = 32;
/// Results that wait for the driver.
pub const RESULTS: usize = 256;

/// An arrived chunk.
pub struct WriteJob {
    pub content: ContentKey,
    pub chunk: ChunkIndex,
    pub from: PeerId,
    pub block_lens: Vec<u32>,
    pub body: Vec<u8>,
}

/// A chunk of one content that another of ours wants as well.
pub struct CopyJob {
    pub from: (ContentKey, ChunkIndex),
    pub content: ContentKey,
    pub chunk: ChunkIndex,
    pub body: Vec<u8>,
}

/// What the writing threads do.
pub enum WriterJob {
    Arrived(WriteJob),
    Copy(CopyJob),
}

/// A chunk that a peer is to get.
pub struct ReadJob {
    pub content: ContentKey,
    pub chunk: ChunkIndex,
    /// Where the store has it: the same, unless the content is only a part of another.
    pub source: (ContentKey, ChunkIndex),
    pub to: PeerId,
    pub sink: Sink,
    pub body: Vec<u8>,
}

/// Where a chunk that was read goes.
pub enum Sink {
    Exchange { root: Cid, link: Link },
    Bitswap(Sending),
}

/// How copying a chunk went.
#[derive(Debug)]
pub enum Copied {
    Ok,
    /// It is not where it was, or is another after all.
    Gone,
    /// It could not be written: our own store is at fault.
    Failed(StoreError),
}

/// How a chunk that arrived was found.
#[derive(Debug)]
pub enum Written {
    Ok,
    /// Its bytes do not have its name: whoever sent it is to blame.
    Bad,
    /// Its bytes are right, and no peer could send better ones: the content itself is malformed.
    Malformed(String),
    Failed(StoreError),
}

/// What a worker says when it is done.
pub enum Done {
    Written {
        content: ContentKey,
        chunk: ChunkIndex,
        from: PeerId,
        data_len: u64,
        outcome: Written,
        body: Vec<u8>,
    },
    Copied {
        content: ContentKey,
        chunk: ChunkIndex,
        data_len: u64,
        outcome: Copied,
        body: Vec<u8>,
    },
    /// Only of reads that failed: a chunk that was read went to the peer's stream without the driver.
    Unreadable {
        content: ContentKey,
        chunk: ChunkIndex,
        to: PeerId,
        error: StoreError,
        body: Vec<u8>,
    },
}

/// One pool with what did not fit its queue.
pub struct Pool<J> {
    queue: Option<SyncSender<J>>,
    waiting: VecDeque<J>,
    threads: Vec<JoinHandle<()>>,
}

impl<J: Send + 'static> Pool<J> {
    fn start(
        name: &str,
        threads: usize,
        work: impl Fn(J) + Send + Sync + 'static,
    ) -> std::io::Result<Pool<J>> {
        let (tx, rx) = sync_channel::<J>(QUEUE);
        let (rx, work) = (Arc::new(Mutex::new(rx)), Arc::new(work));
        let threads = (0..threads)
            .map(|i| {
                let (rx, work) = (rx.clone(), work.clone());
                std::thread::Builder::new().name(format!("{name}-{i}")).spawn(move || {
                    while let Some(job) = next(&rx) {
                        work(job);
                    }
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Pool { queue: Some(tx), waiting: VecDeque::new(), threads })
    }

    /// Takes a job; it never blocks.
    pub fn give(&mut self, job: J) {
        self.waiting.push_back(job);
        self.push();
    }

    /// Moves what waits into the queue, as far as it fits.
    pub fn push(&mut self) {
        let Some(queue) = &self.queue else { return };
        while let Some(job) = self.waiting.pop_front() {
            if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) = queue.try_send(job) {
                self.waiting.push_front(job);
                return;
            }
        }
    }

    /// Jobs are waiting that do not fit: take no more from the network.
    pub fn behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Lets the threads finish what is queued, and end. Blocking.
    pub fn stop(&mut self) {
        self.queue = None;
        for t in self.threads.drain(..) {
            if t.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

fn next<J>(rx: &Mutex<Receiver<J>>) -> Option<J> {
    // A poisoned lock means that a sibling panicked while waiting: nothing it guards can be broken.
    rx.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv().ok()
}

pub fn writers(
    store: Arc<dyn Store>,
    done: mpsc::Sender<Done>,
    threads: usize,
) -> std::io::Result<Pool<WriterJob>> {
    Pool::start("dunlin-write", threads, move |job| {
        let result = match job {
            WriterJob::Arrived(job) => {
                let (data_len, outcome) = write(&*store, &job);
                let WriteJob { content, chunk, from, body, .. } = job;
                Done::Written { content, chunk, from, data_len, outcome, body }
            }
            WriterJob::Copy(CopyJob { from, content, chunk, mut body }) => {
                let copied = store
                    .chunk(content, chunk)
                    .and_then(|spec| copy_chunk(&*store, from, (content, chunk), &spec, &mut body));
                let (data_len, outcome) = match copied {
                    Ok(Some(data_len)) => (data_len, Copied::Ok),
                    Ok(None) => (0, Copied::Gone),
                    Err(e) => (0, Copied::Failed(e)),
                };
                Done::Copied { content, chunk, data_len, outcome, body }
            }
        };
        // The driver is gone when this fails: the node is shutting down.
        let _ = done.blocking_send(result);
    })
}

fn write(store: &dyn Store, job: &WriteJob) -> (u64, Written) {
    let spec = match store.chunk(job.content, job.chunk) {
        Ok(spec) => spec,
        Err(e) => return (0, Written::Failed(e)),
    };
    let data = match verify_chunk(&spec, &job.body, &job.block_lens) {
        Ok(data) => data,
        Err(ChunkFault::WrongBytes { .. }) => return (0, Written::Bad),
        Err(fault) => return (0, Written::Malformed(fault.to_string())),
    };
    match store.write_chunk(job.content, job.chunk, &data) {
        Ok(()) => (data.data_len(), Written::Ok),
        Err(e) => (0, Written::Failed(e)),
    }
}

pub fn readers(
    store: Arc<dyn Store>,
    done: mpsc::Sender<Done>,
    threads: usize,
) -> std::io::Result<Pool<ReadJob>> {
    Pool::start("dunlin-read", threads, move |mut job: ReadJob| {
        match store.read_chunk(job.source.0, job.source.1, &mut job.body) {
            Ok(read) => match job.sink {
                Sink::Exchange { root, link } => {
                    let message = Message::Chunk { root, index: job.chunk, block_lens: read.block_lens };
                    let out = Outgoing { message, body: job.body };
                    // The engine keeps fewer sends under way than the stream's queue holds, so a full queue
                    // means that the link is going down, which the driver hears of anyway.
                    let _ = link.data.try_send(out);
                }
                Sink::Bitswap(to) => to.send((job.content, job.chunk), job.body, &read.block_lens),
            },
            Err(error) => {
                let ReadJob { content, chunk, to, body, .. } = job;
                let _ = done.blocking_send(Done::Unreadable { content, chunk, to, error, body });
            }
        }
    })
}
