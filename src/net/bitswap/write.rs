//! Writing our stream: opened when there is something to say, and again when it broke.

use std::time::Duration;

use futures::AsyncWriteExt;
use libp2p::Stream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::handler::Opened;
use super::link::{Context, End, FromLink};
use super::{Block, What};
use crate::wire::bitswap::{Message, Version, block_head};

/// Messages that wait are written together up to this.
const BATCH: usize = 64 << 10;
/// A stream must be there within this, and take what is written at once within that.
const OPEN: Duration = Duration::from_secs(20);
const WRITE: Duration = Duration::from_secs(120);
/// Streams tried in a row for the same words.
const ATTEMPTS: usize = 3;

/// What goes out next.
enum Next {
    Say(Vec<Message>),
    Send(Block),
}

struct Writer {
    context: Context,
    ours: mpsc::Receiver<Result<Opened, String>>,
    behaviour: mpsc::Sender<FromLink>,
    stream: Option<Opened>,
    out: Vec<u8>,
}

/// Writes until the last sender is dropped or no stream takes what is to be said.
pub async fn run(
    context: Context,
    mut control: mpsc::Receiver<Message>,
    mut blocks: mpsc::Receiver<Block>,
    ours: mpsc::Receiver<Result<Opened, String>>,
    behaviour: mpsc::Sender<FromLink>,
) -> End {
    let mut writer = Writer { context, ours, behaviour, stream: None, out: Vec::new() };
    loop {
        let next = tokio::select! {
            biased;
            message = control.recv() => match message {
                Some(first) => Next::Say(batch(first, &mut control)),
                None => return writer.close().await,
            },
            block = blocks.recv() => match block {
                Some(block) => Next::Send(block),
                None => return writer.close().await,
            },
        };
        if let Err(end) = writer.put(&next).await {
            return end;
        }
        if let Next::Send(Block { chunk, bytes, body, .. }) = next
            && let Err(end) = writer.context.tell(What::Sent { chunk, bytes, body }).await
        {
            return end;
        }
    }
}

/// What else waits: few enough to stay within [`BATCH`] or a little more.
fn batch(first: Message, control: &mut mpsc::Receiver<Message>) -> Vec<Message> {
    let weight = |m: &Message| {
        let blocks: usize = m.blocks.iter().map(|(_, data)| data.len() + 64).sum();
        (m.entries.len() + m.presences.len()) * 64 + blocks
    };
    let mut sum = weight(&first);
    let mut all = vec![first];
    while sum < BATCH
        && let Ok(more) = control.try_recv()
    {
        sum += weight(&more);
        all.push(more);
    }
    all
}

impl Writer {
    /// Puts it on the stream, or on the next one if that breaks.
    async fn put(&mut self, next: &Next) -> Result<(), End> {
        let mut why = End::Finished;
        for _ in 0..ATTEMPTS {
            let (mut stream, version) = match self.stream.take() {
                Some(opened) => opened,
                None => self.open().await?,
            };
            self.out.clear();
            self.out.shrink_to(BATCH);
            match timeout(WRITE, write(&mut stream, version, next, &mut self.out)).await {
                Ok(Ok(())) => {
                    self.stream = Some((stream, version));
                    return Ok(());
                }
                Ok(Err(end)) => why = end,
                Err(_) => return Err(End::Lost("the peer does not read".into())),
            }
        }
        Err(why)
    }

    async fn open(&mut self) -> Result<Opened, End> {
        let (peer, link) = (self.context.peer, self.context.link);
        let gone = || End::Lost("the connection is gone".into());
        self.behaviour.send(FromLink::Need { peer, link }).await.map_err(|_| gone())?;
        match timeout(OPEN, self.ours.recv()).await {
            Ok(Some(Ok(opened))) => Ok(opened),
            Ok(Some(Err(why))) => Err(End::Lost(why)),
            Ok(None) => Err(gone()),
            Err(_) => Err(End::Lost("the peer did not take our stream".into())),
        }
    }

    async fn close(&mut self) -> End {
        if let Some((mut stream, _)) = self.stream.take() {
            let _ = timeout(Duration::from_secs(1), stream.close()).await;
        }
        End::Finished
    }
}

async fn write(stream: &mut Stream, version: Version, next: &Next, out: &mut Vec<u8>) -> Result<(), End> {
    match next {
        Next::Say(messages) => {
            for m in messages {
                // Not the peer's fault: the node made a message that is too long.
                m.encode(version, out).map_err(|e| End::Lost(format!("cannot send: {e}")))?;
            }
            stream.write_all(out).await?;
        }
        Next::Send(block) => {
            block_head(version, &block.cid, block.range.len(), out);
            stream.write_all(out).await?;
            stream.write_all(&block.body[block.range.clone()]).await?;
        }
    }
    stream.flush().await?;
    Ok(())
}
