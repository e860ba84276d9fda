//! A dial that does not wait for the choice of security: the first protocol is begun with the words that propose it.
//!
//! That saves a round trip of each connection. Who does not speak that protocol refuses it and cannot make sense of
//! what came with it; it is dialled once more, and asked before anything is begun.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::Endpoint;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::{Multiaddr, PeerId, Transport};

use super::security::Refused;

type Output = (PeerId, StreamMuxerBox);
type Upgrade = BoxFuture<'static, io::Result<Output>>;

pub struct Eager {
    /// Proposes one protocol. It only dials, and always from a new port: it knows of no listener's.
    one: Boxed<Output>,
    /// Proposes all.
    all: Arc<Mutex<Boxed<Output>>>,
}

impl Eager {
    pub fn new(one: Boxed<Output>, all: Boxed<Output>) -> Eager {
        Eager { one, all: Arc::new(Mutex::new(all)) }
    }
}

fn lock(all: &Mutex<Boxed<Output>>) -> MutexGuard<'_, Boxed<Output>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the security itself did not come to be, however often that was wrapped.
fn is_refused(e: &(dyn Error + 'static)) -> bool {
    // An `io::Error` passes over what it holds when it is asked for its source.
    let held = e.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    e.is::<Refused>() || held.is_some_and(|e| is_refused(e)) || e.source().is_some_and(is_refused)
}

impl Transport for Eager {
    type Output = Output;
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        lock(&self.all).listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        lock(&self.all).remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Upgrade, TransportError<io::Error>> {
        if opts.role == Endpoint::Listener {
            // Both ends dial, to get through two NATs, and this one is to answer.
            return lock(&self.all).dial(addr, opts);
        }
        let eagerly = self.one.dial(addr.clone(), opts)?;
        let all = Arc::clone(&self.all);
        Ok(async move {
            match eagerly.await {
                Err(e) if is_refused(&e) => {
                    tracing::debug!("{addr} is asked what it speaks: {e}");
                    let again = lock(&all).dial(addr, opts);
                    again.map_err(io::Error::other)?.await
                }
                done => done,
            }
        }
        .boxed())
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Upgrade, io::Error>> {
        Pin::new(&mut *lock(&self.all)).poll(cx)
    }
}
