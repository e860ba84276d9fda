//! A link's life: four tasks under one that waits for the first reason to end.

use std::time::Duration;

use libp2p::{PeerId, Stream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::io::{self, Context, End};
use super::upgrade::Opened;
use crate::net::api::{Inbound, Outgoing};
use crate::wire::exchange::Message;

/// Within this the peer must have opened its pair, once we have opened ours.
const PAIR_TIMEOUT: Duration = Duration::from_secs(15);
/// When one of the peer's streams has ended, what is under way on the other may still come.
const LINGER: Duration = Duration::from_secs(5);

/// The peer's two streams.
#[derive(Debug)]
pub struct Pair {
    pub control: Opened,
    pub data: Opened,
}

/// Everything that a link starts with.
pub struct Start {
    pub context: Context,
    pub control: (Stream, mpsc::Receiver<Message>),
    pub data: (Stream, mpsc::Receiver<Outgoing>),
    pub pair: oneshot::Receiver<Pair>,
    /// Comes when the node has been told of the link, so that nothing of it arrives before that.
    pub announced: oneshot::Receiver<()>,
    pub ended: mpsc::Sender<Ended>,
}

/// Tells the behaviour that a link is over.
#[derive(Debug)]
pub struct Ended {
    pub peer: PeerId,
    pub link: u64,
    pub why: String,
}

enum Done {
    Writer(End),
    Reader(End),
}

/// Runs until the link ends; then says so to the node and to the behaviour.
pub async fn run(start: Start) {
    let Start { context, control, data, pair, announced, ended } = start;
    let mut tasks = JoinSet::new();
    let c = context.clone();
    tasks.spawn(async move { Done::Writer(io::write_control(c, control.0, control.1).await) });
    let c = context.clone();
    tasks.spawn(async move { Done::Writer(io::write_data(c, data.0, data.1).await) });

    let end = match announced.await {
        Ok(()) => supervise(&context, &mut tasks, pair).await,
        Err(_) => End::Lost("the node is stopping".into()),
    };
    tasks.shutdown().await;
    context.uplink().remove(context.link);

    let (peer, link) = (context.peer, context.link);
    let why = end.to_string();
    let last = match end {
        End::Violation(what) => Inbound::Violation { peer, link, what },
        End::Finished | End::Refused | End::Lost(_) => Inbound::Closed { peer, link },
    };
    // Either receiver may be gone when the node stops; then nobody wants to know.
    let _ = context.inbound.send(last).await;
    let _ = ended.send(Ended { peer, link, why }).await;
}

async fn supervise(context: &Context, tasks: &mut JoinSet<Done>, pair: oneshot::Receiver<Pair>) -> End {
    let mut deadline = Some(Instant::now() + PAIR_TIMEOUT);
    let mut pair = Some(pair);
    let (mut written, mut read) = (0, 0);
    loop {
        tokio::select! {
            got = async { pair.as_mut().expect("guarded by is_some").await }, if pair.is_some() => {
                let Ok(Pair { control, data }) = got else {
                    return End::Lost("the connection is gone".into());
                };
                (pair, deadline) = (None, None);
                let c = context.clone();
                tasks.spawn(async move { Done::Reader(io::read_control(c, control).await) });
                let c = context.clone();
                tasks.spawn(async move { Done::Reader(io::read_data(c, data).await) });
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                return match pair {
                    Some(_) => End::Lost("the peer did not open its streams".into()),
                    None => End::Refused,
                };
            }
            done = tasks.join_next() => match done {
                Some(Ok(Done::Writer(End::Finished))) => {
                    written += 1;
                    if written == 2 {
                        return End::Finished;
                    }
                }
                Some(Ok(Done::Reader(End::Finished))) => {
                    read += 1;
                    if read == 2 {
                        return End::Refused;
                    }
                    deadline = Some(Instant::now() + LINGER);
                }
                Some(Ok(Done::Writer(End::Refused))) if pair.is_none() && read < 2 => {
                    deadline = Some(Instant::now() + LINGER);
                }
                Some(Ok(Done::Writer(end) | Done::Reader(end))) => return end,
                Some(Err(e)) => return End::Lost(format!("a stream's task failed: {e}")),
                None => return End::Finished,
            },
        }
    }
}
