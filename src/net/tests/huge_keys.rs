//! Identities of RSA keys so large that looking at a signature of theirs would cost more than it is worth.

use std::io;
use std::time::Instant;

use futures::{AsyncWriteExt, StreamExt};
use libp2p::identity::{KeyType, PublicKey};
use libp2p::swarm::{SwarmEvent, dummy};
use libp2p::{StreamProtocol, SwarmBuilder, noise, tcp, yamux};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};

use super::hostile::{attacked_by, write};
use super::*;
use crate::net::transport::{Secured, Security, Tls};

const HUGE: usize = 16_384;
/// The largest that anybody takes.
const LARGEST: usize = 8_192;

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let len = match (high, low) {
        (0, ..0x80) => vec![low],
        (0, _) => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [vec![tag], len, content.to_vec()].concat()
}

fn varint(mut n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

/// An RSA key of so many bits, as libp2p writes it. Nobody knows how to sign by it.
fn rsa(bits: usize) -> Vec<u8> {
    let mut modulus = vec![0xa5; bits / 8 + 1];
    modulus[0] = 0;
    let numbers = [der(2, &modulus), der(2, &[1, 0, 1])].concat();
    let rsa_encryption = [0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let key = der(0x03, &[&[0], &der(0x30, &numbers)[..]].concat());
    let info = der(0x30, &[der(0x30, &rsa_encryption), key].concat());
    [vec![0x08, 0, 0x12], varint(info.len()), info].concat()
}

/// libp2p's certificate of an identity, which signs as it is told to.
fn tls(identity: &[u8], sign: impl Fn(&[u8]) -> Vec<u8>) -> Tls {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let signature = sign(&[b"libp2p-tls-handshake:", &pair.public_key_der()[..]].concat());
    let signed = der(0x30, &[der(4, identity), der(4, &signature)].concat());
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let oid = [1, 3, 6, 1, 4, 1, 53_594, 1, 1];
    params.custom_extensions.push(CustomExtension::from_oid_content(&oid, signed));
    let cert = params.self_signed(&pair).unwrap();
    Tls::with(cert.into(), &pair.serialize_der().try_into().unwrap(), true).unwrap()
}

/// Whether a node takes the connection of somebody with this certificate.
async fn is_let_in(tls: Tls) -> bool {
    let mut node = Node::new(TCP).await;
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            move |key: &Keypair| {
                let noise = noise::Config::new(key).map_err(io::Error::other)?;
                Ok::<_, io::Error>(Security::new(tls.clone(), noise, true, Secured::default()))
            },
            yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|_| dummy::Behaviour)
        .unwrap()
        .build();
    swarm.dial(node.addr()).unwrap();
    tokio::select! {
        () = node.event(|e| matches!(e, Event::Connected { .. }).then_some(())) => true,
        () = async {
            // In TLS 1.3 the one who dials is through before it is refused.
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::OutgoingConnectionError { .. } | SwarmEvent::ConnectionClosed { .. } => return,
                    _ => {}
                }
            }
        } => false,
    }
}

#[tokio::test]
async fn a_key_that_is_too_large_is_refused_in_the_handshake() {
    let honest = Keypair::generate_ed25519();
    let public = honest.public().encode_protobuf();
    assert!(is_let_in(tls(&public, |m| honest.sign(m).unwrap())).await);
    let huge = rsa(HUGE);
    assert!(!is_let_in(tls(&huge, |_| vec![1; HUGE / 8])).await);
}

#[test]
fn a_signature_by_a_key_that_is_too_large_is_not_looked_at() {
    let took = |bits: usize| {
        let key = PublicKey::try_decode_protobuf(&rsa(bits)).unwrap();
        assert_eq!(key.key_type(), KeyType::RSA);
        let mut signature = vec![1; bits / 8];
        signature[0] = 0;
        let began = Instant::now();
        assert!((0..100).all(|_| !key.verify(b"message", &signature)));
        began.elapsed()
    };
    let (largest, huge) = (took(LARGEST), took(HUGE));
    assert!(huge < largest, "{huge:?} with {HUGE} bits, {largest:?} with {LARGEST}");
}

#[tokio::test]
async fn identify_with_a_key_that_is_too_large_says_nothing_of_anybody() {
    let (mut node, _, mut streams) = attacked_by(StreamProtocol::new("/ipfs/id/1.0.0"), 0).await;
    let (_, mut stream) = timeout(LONG, streams.recv()).await.unwrap().unwrap();
    let key = rsa(HUGE);
    let told = [vec![0x0a], varint(key.len()), key].concat(); // field 1 is the key
    write(&mut stream, &[varint(told.len()), told].concat()).await;
    stream.close().await.unwrap();
    // The node goes on; whoever is known is somebody else.
    let mut other = Node::new(TCP).await;
    other.connect(&node).await;
    let id = other.id();
    let known = node.event(|e| match e {
        Event::Identified { peer, .. } => Some(peer),
        _ => None,
    });
    assert_eq!(known.await, id);
}
