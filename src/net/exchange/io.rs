//! What a link's tasks do: read and write its streams, past the swarm's event loop.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{PeerId, Stream};
use tokio::sync::mpsc;

use super::pace::{Pace, SHORT};
use super::upgrade::Opened;
use super::uplink::{Turn, Uplink};
use crate::net::api::{Inbound, Outgoing};
use crate::net::pool::BufPool;
use crate::wire::WireError;
use crate::wire::exchange::{MAX_HEADER, Message, RECEIPTS};
use crate::wire::frame::FrameBuf;

/// What is read at once of control messages and headers.
const READ_LEN: usize = 8 << 10;
/// A chunk's buffer never grows by more than this beyond what has come.
const STEP: usize = 256 << 10;
/// Control messages that wait are written together up to this.
const BATCH: usize = 64 << 10;
/// Signs of life from within a chunk are at least this far apart.
const PROGRESS: Duration = Duration::from_millis(100);

/// Receipts are at least this far apart, and a peer that sends many more is up to something.
const APART: Duration = Duration::from_millis(25);
const MAX_RECEIPTS: (u64, u64) = (200, 50);

/// Whose link it is, and where what comes on it goes.
#[derive(Clone, Debug)]
pub struct Context {
    pub peer: PeerId,
    pub link: u64,
    pub inbound: mpsc::Sender<Inbound>,
    pub pool: BufPool,
    /// The pace of all links together.
    pub uplink: Arc<Mutex<Uplink>>,
    /// The link's own control stream, for what the tasks have to say.
    pub control: mpsc::WeakSender<Message>,
}

impl Context {
    pub fn uplink(&self) -> MutexGuard<'_, Uplink> {
        self.uplink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until so many bytes may go.
    async fn turn(&self, bytes: usize) {
        // A link may end here, while it is its turn.
        let mut line = None;
        loop {
            let turn = self.uplink().turn(self.link, bytes, Instant::now());
            match turn {
                Turn::Now => return,
                Turn::At(due) => return tokio::time::sleep_until(due.into()).await,
                Turn::Again(then) => {
                    line.get_or_insert(InLine(self));
                    tokio::time::sleep_until(then.into()).await;
                }
            }
        }
    }
}

/// Whoever gives up waiting for a turn makes room for the next.
struct InLine<'a>(&'a Context);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.uplink().leave_line(self.0.link);
    }
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
pub async fn write_data(
    context: Context,
    stream: impl AsyncRead + AsyncWrite,
    mut queue: mpsc::Receiver<Outgoing>,
) -> End {
    let (reader, mut stream) = stream.split();
    let write = async move {
        let (mut head, mut pace, mut last) = (Vec::new(), Pace::default(), Instant::now());
        while let Some(Outgoing { message, body }) = queue.recv().await {
            if message.body_len() != body.len() || !message.is_data() {
                return Err(End::Lost("an answer whose length is not that of its blocks".into()));
            }
            let piece = pace.piece(context.uplink().is_alone(context.link));
            head.clear();
            encode(&message, &mut head)?;
            // The head in one frame with the first of the body.
            let (with_head, rest) = body.split_at(body.len().min(SHORT.saturating_sub(head.len())));
            head.extend_from_slice(with_head);
            if !with_head.is_empty() {
                context.turn(with_head.len()).await;
            }
            stream.write_all(&head).await?;
            for piece in rest.chunks(piece) {
                context.turn(piece.len()).await;
                stream.write_all(piece).await?;
            }
            pace.wrote(body.len(), last.elapsed());
            last = Instant::now();
            if queue.is_empty() {
                stream.flush().await?;
                context.uplink().rests(context.link);
            }
            let (peer, link) = (context.peer, context.link);
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
    let Opened { mut stream, mut buf, hello } = from;
    let (peer, link) = (context.peer, context.link);
    if hello.features & RECEIPTS != 0 {
        context.uplink().answers(link);
    }
    let (began, mut receipts) = (Instant::now(), 0);
    let read = async {
        let mut some = vec![0; READ_LEN];
        while let Some(message) = next_message(&mut stream, &mut buf, &mut some).await? {
            if matches!(message, Message::Hello(_)) || message.is_data() {
                return Err(End::Violation("a message that does not belong on the control stream".into()));
            }
            let Message::Received { bytes, at } = message else {
                context.inbound.send(Inbound::Message { peer, link, message }).await?;
                continue;
            };
            receipts += 1;
            if receipts > MAX_RECEIPTS.0 + MAX_RECEIPTS.1 * began.elapsed().as_secs() {
                return Err(End::Violation("receipts without end".into()));
            }
            let told = context.uplink().came(link, bytes, at, Instant::now());
            told.map_err(|what| End::Violation(what.into()))?;
        }
        Ok(())
    };
    ended(pin!(read).await)
}

/// Reads answers and their blocks until the stream ends.
pub async fn read_data(context: Context, from: Opened) -> End {
    let Opened { mut stream, mut buf, hello } = from;
    buf.limit(MAX_HEADER);
    let (peer, link) = (context.peer, context.link);
    let wanted = hello.features & RECEIPTS != 0;
    let mut receipts = wanted.then_some(Counter { context: &context, bytes: 0, said: None });
    let read = async {
        let mut some = vec![0; READ_LEN];
        while let Some(message) = next_message(&mut stream, &mut buf, &mut some).await? {
            let arrived = match message {
                Message::Chunk { .. } => {
                    let body =
                        read_body(&context, &mut stream, &mut buf, message.body_len(), &mut receipts).await?;
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

/// Tells the peer how much of what it sends has come.
struct Counter<'a> {
    context: &'a Context,
    /// Of the chunks before this one.
    bytes: u64,
    said: Option<Instant>,
}

impl Counter<'_> {
    /// So many bytes of a chunk have come. It is not missed if there is no room to say so.
    fn say(&mut self, filled: usize) {
        if self.said.is_some_and(|t| t.elapsed() < APART) {
            return;
        }
        let Some(control) = self.context.control.upgrade() else { return };
        let now = Instant::now();
        let at = {
            let mut uplink = self.context.uplink();
            uplink.takes(now);
            uplink.clock(now)
        };
        let _ = control.try_send(Message::Received { bytes: self.bytes + filled as u64, at });
        self.said = Some(now);
    }
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
    receipts: &mut Option<Counter<'_>>,
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
            if let Some(r) = receipts {
                r.say(filled);
            }
        }
    }
    if let Some(r) = receipts {
        r.say(filled);
        r.bytes += filled as u64;
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use cid::Cid;
    use tokio::io::AsyncReadExt;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;
    use crate::net::transport::Paced;
    use crate::units::ChunkIndex;

    const CHUNK: usize = 256 << 10;

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(60), what).await.unwrap()
    }

    fn context(inbound: mpsc::Sender<Inbound>, control: &mpsc::Sender<Message>) -> Context {
        Context {
            peer: PeerId::random(),
            link: 7,
            inbound,
            pool: BufPool::new(1),
            uplink: Arc::new(Mutex::new(Uplink::new(Instant::now(), Paced::default()))),
            control: control.downgrade(),
        }
    }

    /// Whoever takes chunks is not alone with its receiver (`uplink.rs`), and learns of it where it says what has come.
    #[test]
    fn who_says_what_has_come_is_not_alone() {
        let (inbound, _news) = mpsc::channel(1);
        let (control, mut said) = mpsc::channel(1);
        let context = context(inbound, &control);
        let start = context.uplink().is_alone_since();
        // However coarse the clock is.
        while Instant::now() == start {}
        Counter { context: &context, bytes: 0, said: None }.say(1_000);
        assert!(matches!(said.try_recv(), Ok(Message::Received { bytes: 1_000, .. })));
        assert!(context.uplink().is_alone_since() > start);
    }

    /// Who stopped writing since its connection took no more has not paused; who has nothing to write has (`uplink.rs`).
    #[tokio::test]
    async fn a_link_rests_when_what_it_had_to_send_is_written_and_not_before() {
        let (ours, mut theirs) = tokio::io::duplex(CHUNK / 2);
        let (inbound, mut news) = mpsc::channel(1);
        let (control, _control) = mpsc::channel(1);
        let context = context(inbound, &control);
        let uplink = Arc::clone(&context.uplink);
        let writes = || uplink.lock().unwrap().writes(7);
        let (send, queue) = mpsc::channel(2);
        let writer = tokio::spawn(write_data(context, ours.compat(), queue));
        for _ in 0..3 {
            assert!(!writes());
            let (root, index) = (Cid::default(), ChunkIndex::new(0).unwrap());
            let message = Message::Chunk { root, index, block_lens: vec![CHUNK as u32] };
            send.send(Outgoing { message, body: vec![1; CHUNK] }).await.unwrap();
            // The other half fits nowhere until this one is read.
            soon(theirs.read_exact(&mut vec![0; 1_000])).await.unwrap();
            assert!(writes());
            let mut rest = vec![0; CHUNK];
            let sent = tokio::select! {
                sent = soon(news.recv()) => sent.unwrap(),
                () = async { while soon(theirs.read(&mut rest)).await.unwrap() > 0 {} } => {
                    unreachable!("the link has ended")
                }
            };
            assert!(matches!(sent, Inbound::Sent { link: 7, .. }));
        }
        drop(send);
        assert!(matches!(soon(writer).await.unwrap(), End::Finished));
    }
}
