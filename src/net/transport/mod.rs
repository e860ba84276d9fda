//! TCP (TLS 1.3 and Noise, yamux) and QUIC, by IP address or DNS name.

mod buffered;
mod congestion;
mod eager;
mod first;
mod frames;
mod lean;
mod muxer;
mod records;
mod rest;
mod security;
mod socket;
mod tls;
mod whole;

use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport, dns, noise, quic, tcp};

pub use congestion::Paced;
pub use muxer::FRAME;
pub use security::{Secured, Security};
#[cfg(test)]
pub use tls::Tls;

use super::NetError;
use eager::Eager;
use first::TcpFirst;
use lean::Lean;
use muxer::Yamux;
use whole::Whole;

/// Whether this CPU encrypts AES in hardware: then AES is several times as fast as ChaCha20.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[allow(unreachable_code)]
    false
}

/// Builds the transport; `secured` learns which security each TCP peer was met with, and `paced` says whether
/// the links share a pace.
///
/// # Errors
/// The key cannot sign certificates.
pub fn build(
    key: &Keypair,
    prefer_noise: bool,
    timeout: Duration,
    secured: &Secured,
    paced: &Paced,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetError> {
    let bad = |e: &dyn std::fmt::Display| NetError::Transport(e.to_string());
    let aes = has_aes();
    let tls = tls::Tls::new(key, aes).map_err(|e| bad(&e))?;
    let noise = noise::Config::new(key).map_err(|e| bad(&e))?;
    let security = Security::new(tls, noise, aes && !prefer_noise, secured.clone());
    let quic_config = move |key: &Keypair| {
        let mut c = quic::Config::new(key);
        c.handshake_timeout = timeout;
        c.max_idle_timeout = 30_000;
        c.keep_alive_interval = Duration::from_secs(10);
        c
    };
    let tcp = |security: Security| {
        // Lazily where one protocol is left to choose from: the muxer costs no round trip.
        tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .map({
                let paced = paced.clone();
                move |socket, _| Whole::new(Lean::new(socket, paced.clone()))
            })
            .upgrade(Version::V1Lazy)
            .authenticate(security)
            .multiplex(Yamux)
            .timeout(timeout)
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed()
    };
    let transport = || {
        let tcp = Eager::new(tcp(security.one()), tcp(security.clone())).boxed();
        let key = key.clone();
        TcpFirst::new(tcp, move || {
            quic::tokio::Transport::new(quic_config(&key))
                .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
                .boxed()
        })
    };
    Ok(match dns::tokio::Transport::system(transport()) {
        Ok(dns) => dns.boxed(),
        Err(why) => {
            tracing::warn!("names will not be resolved: {why}");
            transport().boxed()
        }
    })
}
