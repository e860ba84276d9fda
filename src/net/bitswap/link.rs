//! A link's life: a task that writes and some that read, under one that waits for the first reason to end.

use std::fmt;
use std::sync::Arc;

use libp2p::PeerId;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::handler::Opened;
use super::read::{self, BUDGET};
use super::{Block, News, Shared, What, write};
use crate::net::api::Inbound;
use crate::net::pool::BufPool;
use crate::wire::WireError;
use crate::wire::bitswap::Message;

/// Streams of a peer that are read at a time. kubo answers with eight workers, each on a stream of its own.
const READERS: usize = 32;

/// Whose link it is, and where what comes on it goes.
#[derive(Clone, Debug)]
pub struct Context {
    pub peer: PeerId,
    pub link: u64,
    pub inbound: mpsc::Sender<Inbound>,
    pub pool: BufPool,
    pub shared: Arc<Shared>,
}

impl Context {
    pub async fn tell(&self, what: What) -> Result<(), End> {
        let news = News { peer: self.peer, link: self.link, what };
        self.inbound.send(Inbound::Bitswap(news)).await.map_err(|_| End::Lost("the node is stopping".into()))
    }
}

/// Everything that a link starts with.
pub struct Start {
    pub context: Context,
    pub control: mpsc::Receiver<Message>,
    pub blocks: mpsc::Receiver<Block>,
    /// Streams that the peer opened.
    pub theirs: mpsc::Receiver<Opened>,
    /// Our stream, each time that we asked for one.
    pub ours: mpsc::Receiver<Result<Opened, String>>,
    /// Comes when the node has been told of the link, so that nothing of it arrives before that.
    pub announced: oneshot::Receiver<()>,
    pub behaviour: mpsc::Sender<FromLink>,
}

/// What a link tells the behaviour.
#[derive(Debug)]
pub enum FromLink {
    /// It needs a stream of ours; none is on its way.
    Need {
        peer: PeerId,
        link: u64,
    },
    Ended {
        peer: PeerId,
        link: u64,
        why: String,
    },
}

/// Why a task ends.
#[derive(Debug)]
pub enum End {
    /// In order: the stream's end, or (writing) nobody has anything to say any more.
    Finished,
    Lost(String),
    /// The peer said something outside the protocol.
    Violation(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Finished => f.write_str("closed by this node"),
            End::Lost(why) => f.write_str(why),
            End::Violation(what) => write!(f, "violation of the protocol: {what}"),
        }
    }
}

impl From<std::io::Error> for End {
    fn from(e: std::io::Error) -> End {
        End::Lost(e.to_string())
    }
}

impl From<WireError> for End {
    fn from(e: WireError) -> End {
        End::Violation(e.to_string())
    }
}

enum Done {
    Writer(End),
    Reader(End),
}

/// Runs until the link ends; then says so to the node and to the behaviour.
pub async fn run(start: Start) {
    let Start { context, control, blocks, theirs, ours, announced, behaviour } = start;
    let mut tasks = JoinSet::new();
    let end = match announced.await {
        Ok(()) => {
            let (c, b) = (context.clone(), behaviour.clone());
            tasks.spawn(async move { Done::Writer(write::run(c, control, blocks, ours, b).await) });
            supervise(&context, &mut tasks, theirs).await
        }
        Err(_) => End::Lost("the node is stopping".into()),
    };
    tasks.shutdown().await;
    let (peer, link, why) = (context.peer, context.link, end.to_string());
    let last = match end {
        End::Violation(what) => What::Violation(what),
        End::Finished | End::Lost(_) => What::Closed,
    };
    // Either receiver may be gone when the node stops; then nobody wants to know.
    let _ = context.tell(last).await;
    let _ = behaviour.send(FromLink::Ended { peer, link, why }).await;
}

async fn supervise(context: &Context, tasks: &mut JoinSet<Done>, mut theirs: mpsc::Receiver<Opened>) -> End {
    let budget = Arc::new(Semaphore::new(BUDGET));
    loop {
        tokio::select! {
            stream = theirs.recv(), if tasks.len() <= READERS => {
                // The behaviour drops its end with the last connection.
                let Some(stream) = stream else { return End::Lost("the connection is gone".into()) };
                let (c, b) = (context.clone(), budget.clone());
                tasks.spawn(async move { Done::Reader(read::run(c, stream.0, b).await) });
            }
            done = tasks.join_next() => match done {
                // A stream that breaks is a stream that is over: what it did not bring is asked for again.
                Some(Ok(Done::Reader(End::Finished | End::Lost(_)))) => {}
                Some(Ok(Done::Reader(end) | Done::Writer(end))) => return end,
                Some(Err(e)) => return End::Lost(format!("a stream's task failed: {e}")),
                None => return End::Finished,
            },
        }
    }
}
