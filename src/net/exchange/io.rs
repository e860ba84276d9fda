//! What a link's tasks do: read and write its streams, past the swarm's event loop.

use std::fmt;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use libp2p::{PeerId, Stream};
use tokio::sync::mpsc;

use super::pace::Pace;
use super::upgrade::Opened;
use crate::net::api::{Inbound, Outgoing};
use crate::net::pool::BufPool;
use crate::wire::WireError;
use crate::wire::exchange::{MAX_HEADER, Message};
use crate::wire::frame::FrameBuf;

/// What is read at once of control messages and headers.
const READ_LEN: usize = 8 << 10;
/// A chunk's buffer never grows by more than this beyond what has come.
const STEP: usize = 256 << 10;
/// Control messages that wait are written together up to this.
const BATCH: usize = 64 << 10;
/// Signs of life from within a chunk are at least this far apart.
const PROGRESS: Duration = Duration::from_millis(100);

/// Whose link it is, and where what comes on it goes.
#[derive(Clone, Debug)]
pub struct Context {
    pub peer: PeerId,
    pub link: u64,
    pub inbound: mpsc::Sender<Inbound>,
    pub pool: BufPool,
}

/// Why a task, and with it the link, ends.
#[derive(Debug)]
pub enum End {
    /// In order: the stream's end, or (writing) nobody has anything to say any more.
    Finished,
    /// The peer takes no more of what we write; what it still sends may be worth reading.
    Refused,
    /// The connection broke.
    Lost(String),
    /// The peer said something outside the protocol.
    Violation(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Finished => f.write_str("closed by this node"),
            End::Refused => f.write_str("closed by the peer"),
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

impl From<mpsc::error::SendError<Inbound>> for End {
    fn from(_: mpsc::error::SendError<Inbound>) -> End {
        End::Lost("the node is stopping".into())
    }
}

fn ended(result: Result<(), End>) -> End {
    result.err().unwrap_or(End::Finished)
}

/// Writes control messages until the last sender is dropped or the stream ends.
pub async fn write_control(_: Context, stream: Stream, mut queue: mpsc::Receiver<Message>) -> End {
    let (reader, mut stream) = stream.split();
    let write = async move {
        let mut out = Vec::new();
        while let Some(first) = queue.recv().await {
            encode(&first, &mut out)?;
            while out.len() < BATCH
                && let Ok(next) = queue.try_recv()
            {
                encode(&next, &mut out)?;
            }
            stream.write_all(&out).await?;
            stream.flush().await?;
            out.clear();
            out.shrink_to(BATCH);
        }
        stream.close().await?;
        Ok(())
    };
    tokio::select! {
        result = write => ended(result),
        end = nothing_comes(reader) => end,
    }
}

/// Writes answers, each header before its blocks, until the last sender is dropped or the stream ends.
pub async fn write_data(context: Context, stream: Stream, mut queue: mpsc::Receiver<Outgoing>) -> End {
    let (reader, mut stream) = stream.split();
    let write = async move {
        let (mut head, mut pace, mut last) = (Vec::new(), Pace::default(), Instant::now());
        while let Some(Outgoing { message, body }) = queue.recv().await {
            if message.body_len() != body.len() || !message.is_data() {
                return Err(End::Lost("an answer whose length is not that of its blocks".into()));
            }
            head.clear();
            encode(&message, &mut head)?;
            stream.write_all(&head).await?;
            for piece in body.chunks(pace.piece()) {
                stream.write_all(piece).await?;
            }
            pace.wrote(body.len(), last.elapsed());
            last = Instant::now();
            if queue.is_empty() {
                stream.flush().await?;
            }
            let Context { peer, link, .. } = context;
            context.inbound.send(Inbound::Sent { peer, link, message, body }).await?;
        }
        stream.close().await?;
        Ok(())
    };
    tokio::select! {
        result = write => ended(result),
        end = nothing_comes(reader) => end,
    }
}

fn encode(message: &Message, out: &mut Vec<u8>) -> Result<(), End> {
    // Not the peer's fault: the node made a message that is too long.
    message.encode(out).map_err(|e| End::Lost(format!("cannot send: {e}")))
}

/// On a stream of ours nothing comes back. Reading it finishes its negotiation, and tells its end.
async fn nothing_comes(mut stream: impl AsyncRead + Unpin) -> End {
    match stream.read(&mut [0; 1]).await {
        Ok(0) => End::Refused,
        Ok(_) => End::Violation("bytes against the stream's direction".into()),
        Err(e) => e.into(),
    }
}

/// Reads control messages until the stream ends.
pub async fn read_control(context: Context, from: Opened) -> End {
    let Opened { mut stream, mut buf, .. } = from;
    let read = async {
        let mut some = vec![0; READ_LEN];
        while let Some(message) = next_message(&mut stream, &mut buf, &mut some).await? {
            if matches!(message, Message::Hello(_)) || message.is_data() {
                return Err(End::Violation("a message that does not belong on the control stream".into()));
            }
            let Context { peer, link, .. } = context;
            context.inbound.send(Inbound::Message { peer, link, message }).await?;
        }
        Ok(())
    };
    ended(pin!(read).await)
}

/// Reads answers and their blocks until the stream ends.
pub async fn read_data(context: Context, from: Opened) -> End {
    let Opened { mut stream, mut buf, .. } = from;
    buf.limit(MAX_HEADER);
    let Context { peer, link, .. } = context;
    let read = async {
        let mut some = vec![0; READ_LEN];
        while let Some(message) = next_message(&mut stream, &mut buf, &mut some).await? {
            let arrived = match message {
                Message::Chunk { .. } => {
                    let body = read_body(&context, &mut stream, &mut buf, message.body_len()).await?;
                    Inbound::Chunk { peer, link, message, body }
                }
                Message::NoChunk { .. } => Inbound::Message { peer, link, message },
                _ => {
                    return Err(End::Violation("a message that does not belong on the data stream".into()));
                }
            };
            context.inbound.send(arrived).await?;
        }
        Ok(())
    };
    ended(pin!(read).await)
}

/// The next whole message; `None` at the stream's end.
async fn next_message(
    stream: &mut Stream,
    buf: &mut FrameBuf,
    some: &mut [u8],
) -> Result<Option<Message>, End> {
    loop {
        if let Some(frame) = buf.next_frame()? {
            return Ok(Some(Message::decode(frame)?));
        }
        match stream.read(some).await? {
            0 if buf.is_empty() => return Ok(None),
            0 => return Err(End::Lost("cut off within a message".into())),
            n => buf.extend(&some[..n]),
        }
    }
}

/// Reads `len` bytes (checked when the header was decoded) into a buffer from the pool.
async fn read_body(
    context: &Context,
    stream: &mut Stream,
    buf: &mut FrameBuf,
    len: usize,
) -> Result<Vec<u8>, End> {
    let mut body = context.pool.get();
    body.truncate(len);
    let (mut filled, mut told, mut last) = (0, 0, Instant::now());
    while filled < len {
        let goal = len.min(filled + STEP);
        if body.len() < goal {
            body.resize(goal, 0);
        }
        let n = match buf.take(&mut body[filled..goal]) {
            0 => stream.read(&mut body[filled..goal]).await?,
            n => n,
        };
        if n == 0 {
            return Err(End::Lost("cut off within a chunk".into()));
        }
        filled += n;
        if filled < len && last.elapsed() >= PROGRESS {
            let bytes = (filled - told) as u64;
            let event = Inbound::Progress { peer: context.peer, link: context.link, bytes };
            // A node that is behind gets the sum next time.
            if context.inbound.try_send(event).is_ok() {
                told = filled;
            }
            last = Instant::now();
        }
    }
    Ok(body)
}
