//! One stream: the requests, then the answer.

use std::io;
use std::iter;

use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::OutboundUpgrade;
use libp2p::{Stream, StreamProtocol};

use crate::wire::WireError;
use crate::wire::kad::{Answer, Request, length};

/// What to say on one stream.
#[derive(Clone, Debug)]
pub struct Job {
    pub protocol: StreamProtocol,
    /// Whole frames.
    frames: Vec<u8>,
    answer: bool,
}

impl Job {
    pub fn new<'a>(protocol: StreamProtocol, requests: impl IntoIterator<Item = &'a Request>) -> Job {
        let mut job = Job { protocol, frames: Vec::new(), answer: false };
        for request in requests {
            request.encode(&mut job.frames);
            job.answer = request.has_answer();
        }
        job
    }

    /// Frames as they are, to which no answer is awaited.
    #[cfg(test)]
    pub fn raw(protocol: StreamProtocol, frames: Vec<u8>) -> Job {
        Job { protocol, frames, answer: false }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("the stream broke: {0}")]
    Io(#[from] io::Error),
    /// The peer's fault.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl UpgradeInfo for Job {
    type Info = StreamProtocol;
    type InfoIter = iter::Once<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once(self.protocol.clone())
    }
}

impl OutboundUpgrade<Stream> for Job {
    type Output = Answer;
    type Error = AskError;
    type Future = BoxFuture<'static, Result<Answer, AskError>>;

    fn upgrade_outbound(self, mut stream: Stream, _: StreamProtocol) -> Self::Future {
        Box::pin(async move {
            stream.write_all(&self.frames).await?;
            stream.flush().await?;
            let answer = if self.answer { read(&mut stream).await? } else { Answer::default() };
            // Waits for the other side's word on the protocol, which nothing else would have shown.
            stream.close().await?;
            Ok(answer)
        })
    }
}

async fn read(stream: &mut Stream) -> Result<Answer, AskError> {
    let mut buf = Vec::new();
    let mut some = [0; 4_096];
    loop {
        if let Some((len, head)) = length(&buf)?
            && buf.len() >= len + head
        {
            return Ok(Answer::decode(&buf[head..head + len])?);
        }
        match stream.read(&mut some).await? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            n => buf.extend_from_slice(&some[..n]),
        }
    }
}
