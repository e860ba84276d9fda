//! The first frame on a stream: `Hello`.

use std::io;
use std::iter;

use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade};
use libp2p::{Stream, StreamProtocol};

use crate::wire::WireError;
use crate::wire::exchange::{Hello, Message};
use crate::wire::frame::FrameBuf;

/// The exchange's protocol name.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/dunlin/exchange/1.0.0");

/// Accepts a stream and reads its `Hello`. The time for it is the protocol's time-out.
#[derive(Debug)]
pub struct Accept;

/// Opens a stream and writes its `Hello`, which leaves together with the negotiation.
#[derive(Debug)]
pub struct Open(pub Hello);

/// A stream of the peer's, and what has been read beyond its `Hello`.
#[derive(Debug)]
pub struct Opened {
    pub hello: Hello,
    pub stream: Stream,
    pub buf: FrameBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    #[error("the stream broke: {0}")]
    Io(#[from] io::Error),
    /// The peer's fault.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The peer's fault.
    #[error("something else than a hello came first")]
    NoHello,
}

impl UpgradeInfo for Accept {
    type Info = StreamProtocol;
    type InfoIter = iter::Once<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once(PROTOCOL)
    }
}

impl UpgradeInfo for Open {
    type Info = StreamProtocol;
    type InfoIter = iter::Once<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once(PROTOCOL)
    }
}

impl InboundUpgrade<Stream> for Accept {
    type Output = Opened;
    type Error = HelloError;
    type Future = BoxFuture<'static, Result<Opened, HelloError>>;

    fn upgrade_inbound(self, mut stream: Stream, _: StreamProtocol) -> Self::Future {
        Box::pin(async move {
            let mut buf = FrameBuf::new();
            let mut some = [0; 1_024];
            loop {
                if let Some(frame) = buf.next_frame()? {
                    let Message::Hello(hello) = Message::decode(frame)? else {
                        return Err(HelloError::NoHello);
                    };
                    return Ok(Opened { hello, stream, buf });
                }
                match stream.read(&mut some).await? {
                    0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    n => buf.extend(&some[..n]),
                }
            }
        })
    }
}

impl OutboundUpgrade<Stream> for Open {
    type Output = Stream;
    type Error = HelloError;
    type Future = BoxFuture<'static, Result<Stream, HelloError>>;

    fn upgrade_outbound(self, mut stream: Stream, _: StreamProtocol) -> Self::Future {
        Box::pin(async move {
            let mut hello = Vec::new();
            Message::Hello(self.0).encode(&mut hello)?;
            stream.write_all(&hello).await?;
            stream.flush().await?;
            Ok(stream)
        })
    }
}
