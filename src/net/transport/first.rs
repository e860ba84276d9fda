//! TCP before QUIC: where a peer has both, TCP gets a head start.
//!
//! QUIC moves bulk at a third of TCP's rate here, so it is for when TCP does not come through.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Transport};

/// How long QUIC waits while a TCP dial is under way, and how often it looks.
const HEAD_START: Duration = Duration::from_millis(250);
const LOOK: Duration = Duration::from_millis(25);

type Output = (PeerId, StreamMuxerBox);
type Upgrade = BoxFuture<'static, Result<Output, std::io::Error>>;

/// Both transports. The head start looks at all TCP dials, not at the one peer's: a QUIC dial that
/// had no need to wait is late by a quarter of a second at most.
pub struct TcpFirst {
    tcp: Boxed<Output>,
    quic: Lazy,
    dialing: Arc<AtomicUsize>,
}

/// QUIC, made when it is first needed: its keys and certificates cost milliseconds, which a command that
/// fetches one small file over TCP need not spend.
struct Lazy {
    make: Box<dyn Fn() -> Boxed<Output> + Send>,
    made: Option<Boxed<Output>>,
}

impl Lazy {
    fn get(&mut self) -> &mut Boxed<Output> {
        self.made.get_or_insert_with(&self.make)
    }
}

/// Counts a TCP dial while it lasts.
struct Dialing(Arc<AtomicUsize>);

impl Drop for Dialing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TcpFirst {
    pub fn new(tcp: Boxed<Output>, quic: impl Fn() -> Boxed<Output> + Send + 'static) -> TcpFirst {
        let quic = Lazy { make: Box::new(quic), made: None };
        TcpFirst { tcp, quic, dialing: Arc::default() }
    }
}

fn is_quic(addr: &Multiaddr) -> bool {
    addr.iter().any(|p| matches!(p, Protocol::Udp(_)))
}

impl Transport for TcpFirst {
    type Output = Output;
    type Error = std::io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        if is_quic(&addr) { self.quic.get().listen_on(id, addr) } else { self.tcp.listen_on(id, addr) }
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.tcp.remove_listener(id) || self.quic.made.as_mut().is_some_and(|quic| quic.remove_listener(id))
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Upgrade, TransportError<Self::Error>> {
        if !is_quic(&addr) {
            let dial = self.tcp.dial(addr, opts)?;
            self.dialing.fetch_add(1, Ordering::Relaxed);
            let counted = Dialing(Arc::clone(&self.dialing));
            return Ok(async move {
                let _counted = counted;
                dial.await
            }
            .boxed());
        }
        let dial = self.quic.get().dial(addr, opts)?;
        let dialing = Arc::clone(&self.dialing);
        Ok(async move {
            let mut waited = Duration::ZERO;
            while waited < HEAD_START && dialing.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(LOOK).await;
                waited += LOOK;
            }
            dial.await
        }
        .boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Upgrade, Self::Error>> {
        if let Poll::Ready(event) = Pin::new(&mut self.tcp).poll(cx) {
            return Poll::Ready(event.map_upgrade(|u| u.boxed()));
        }
        // Whoever makes it asks for the transport to be polled again: a dial or a listener is always followed by that.
        let Some(quic) = &mut self.quic.made else { return Poll::Pending };
        Pin::new(quic).poll(cx).map(|event| event.map_upgrade(|u| u.boxed()))
    }
}
