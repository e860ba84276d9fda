//! TLS and Noise: both are taken, TLS is proposed first where the CPU has AES.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, Either};
use futures::{AsyncRead, AsyncWrite};
use futures_rustls::TlsStream;
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::{PeerId, noise};

use super::buffered::Buffered;
use super::tls::{self, Tls};

const NOISE: &str = "/noise";

/// Which security the TCP peers were met with, for people to see.
#[derive(Clone, Debug, Default)]
pub struct Secured(Arc<Mutex<HashMap<PeerId, &'static str>>>);

/// More peers than there are ever connections: then it is forgotten and learnt anew.
const MAX_SECURED: usize = 4_096;

impl Secured {
    pub fn of(&self, peer: &PeerId) -> Option<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(peer).copied()
    }

    pub fn forget(&self, peer: &PeerId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(peer);
    }

    fn set(&self, peer: PeerId, by: &'static str) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= MAX_SECURED {
            map.clear();
        }
        map.insert(peer, by);
    }
}

#[derive(Clone)]
pub struct Security {
    tls: Tls,
    noise: noise::Config,
    names: Vec<&'static str>,
    secured: Secured,
}

/// The other end did not go along with the protocol that was begun with it, for whatever reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(io::Error);

type Stream<C> = Either<TlsStream<Buffered<C>>, noise::Output<Buffered<C>>>;
type Upgraded<C> = BoxFuture<'static, io::Result<(PeerId, Stream<C>)>>;

impl Security {
    pub fn new(tls: Tls, noise: noise::Config, tls_first: bool, secured: Secured) -> Security {
        let names = if tls_first { vec![tls::NAME, NOISE] } else { vec![NOISE, tls::NAME] };
        Security { tls, noise, names, secured }
    }

    /// The same with the first protocol alone. With nothing to choose from it begins at once.
    pub fn one(&self) -> Security {
        let mut one = self.clone();
        one.names.truncate(1);
        one
    }
}

impl UpgradeInfo for Security {
    type Info = &'static str;
    type InfoIter = Vec<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.names.clone()
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<C> for Security {
    type Output = (PeerId, Stream<C>);
    type Error = io::Error;
    type Future = Upgraded<C>;

    fn upgrade_inbound(self, socket: C, name: &'static str) -> Self::Future {
        Box::pin(async move {
            let (peer, stream) = if name == tls::NAME {
                let (peer, tls) = self.tls.accept(Buffered::new(socket)).await?;
                (peer, Either::Left(tls))
            } else {
                let noise = self.noise.upgrade_inbound(Buffered::new(socket), name).await;
                let (peer, noise) = noise.map_err(io::Error::other)?;
                (peer, Either::Right(noise))
            };
            self.secured.set(peer, name);
            Ok((peer, stream))
        })
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<C> for Security {
    type Output = (PeerId, Stream<C>);
    type Error = io::Error;
    type Future = Upgraded<C>;

    fn upgrade_outbound(self, socket: C, name: &'static str) -> Self::Future {
        Box::pin(async move {
            let refused = |e| io::Error::other(Refused(e));
            let (peer, stream) = if name == tls::NAME {
                let (peer, tls) = self.tls.connect(Buffered::new(socket)).await.map_err(refused)?;
                (peer, Either::Left(tls))
            } else {
                let noise = self.noise.upgrade_outbound(Buffered::new(socket), name).await;
                let (peer, noise) = noise.map_err(|e| refused(io::Error::other(e)))?;
                (peer, Either::Right(noise))
            };
            self.secured.set(peer, name);
            Ok((peer, stream))
        })
    }
}
