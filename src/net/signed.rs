//! Signed peer records (libp2p RFC 0003): where a peer says that it can be reached, in words that others can pass on.
//!
//! A record is made for a scope: what is said to a peer on this machine would be of no use to one elsewhere, and would tell
//! it more than it need know. Envelope and domain are the RFC's, which rust-libp2p calls `interop`.

use libp2p::core::{PeerRecord, SignedEnvelope};
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};

use crate::wire::exchange::{MAX_ADDR_LEN, MAX_ADDRS, MAX_RECORD_LEN};

/// What a record says, once its signature was found right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    pub peer: PeerId,
    /// Of two records of a peer, the one with the higher number is newer (seconds of its clock).
    pub seq: u64,
    /// At most [`MAX_ADDRS`]; none ends in /p2p/ID.
    pub addrs: Vec<Multiaddr>,
    /// As it came.
    pub bytes: Vec<u8>,
}

/// Why a record is none: whoever passed it on is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    #[error("a peer record of {0} bytes")]
    Long(usize),
    #[error("a peer record that is none: {0}")]
    Bad(String),
}

/// Our own record with these addresses, of which the first [`MAX_ADDRS`] that fit are taken. `None` if none does, or the
/// key cannot sign.
pub fn sign(key: &Keypair, addrs: impl IntoIterator<Item = Multiaddr>) -> Option<Signed> {
    let fits = |a: &Multiaddr| a.len() <= MAX_ADDR_LEN as usize;
    let addrs: Vec<Multiaddr> = addrs.into_iter().filter(fits).take(MAX_ADDRS as usize).collect();
    if addrs.is_empty() {
        return None;
    }
    let record = PeerRecord::new_interop(key, addrs.clone()).ok()?;
    let (peer, seq) = (record.peer_id(), record.seq());
    let bytes = record.into_signed_envelope().into_protobuf_encoding();
    (bytes.len() <= MAX_RECORD_LEN as usize).then_some(Signed { peer, seq, addrs, bytes })
}

/// Reads a record and checks its signature.
///
/// # Errors
/// [`RecordFault`]: too long, no record, or not signed by the peer that it speaks of.
pub fn verify(bytes: &[u8]) -> Result<Signed, RecordFault> {
    if bytes.len() > MAX_RECORD_LEN as usize {
        return Err(RecordFault::Long(bytes.len()));
    }
    let bad = |e: &dyn std::fmt::Display| RecordFault::Bad(e.to_string());
    let envelope = SignedEnvelope::from_protobuf_encoding(bytes).map_err(|e| bad(&e))?;
    let record = PeerRecord::from_signed_envelope_interop(envelope).map_err(|e| bad(&e))?;
    let bare = |a: &Multiaddr| super::swarm::split_peer(a).0;
    let fits = |a: &&Multiaddr| a.len() <= MAX_ADDR_LEN as usize;
    let addrs = record.addresses().iter().filter(fits).take(MAX_ADDRS as usize).map(bare).collect();
    Ok(Signed { peer: record.peer_id(), seq: record.seq(), addrs, bytes: bytes.to_vec() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addr(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    proptest! {
        #[test]
        fn what_is_signed_comes_back(ports in prop::collection::vec(1..u16::MAX, 1..20)) {
            let key = Keypair::generate_ed25519();
            let signed = sign(&key, ports.iter().map(|p| addr(*p))).unwrap();
            prop_assert_eq!(signed.peer, key.public().to_peer_id());
            prop_assert_eq!(signed.addrs.len(), ports.len().min(MAX_ADDRS as usize));
            prop_assert_eq!(verify(&signed.bytes).unwrap(), signed);
        }

        #[test]
        fn one_wrong_bit_is_seen(at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let key = Keypair::generate_ed25519();
            let signed = sign(&key, [addr(1), addr(2)]).unwrap();
            let mut bytes = signed.bytes.clone();
            bytes[at.index(signed.bytes.len())] ^= 1u8 << bit;
            // A bit of the framing may be one that means nothing; what the record says is never another.
            if let Ok(read) = verify(&bytes) {
                prop_assert_eq!((read.peer, read.seq, read.addrs), (signed.peer, signed.seq, signed.addrs));
            }
        }

        #[test]
        fn noise_is_no_record(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(verify(&bytes).is_err());
        }
    }

    #[test]
    fn a_record_about_another_peer_is_refused() {
        let (a, b) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let of_a = PeerRecord::new_interop(&a, vec![addr(1)]).unwrap();
        let (payload, _) = {
            let envelope = of_a.into_signed_envelope();
            let (p, k) = envelope.payload_and_signing_key("libp2p-peer-record".into(), &[3, 1]).unwrap();
            (p.to_vec(), k.clone())
        };
        let forged = SignedEnvelope::new(&b, "libp2p-peer-record".into(), vec![3, 1], payload);
        let bytes = forged.unwrap().into_protobuf_encoding();
        assert!(matches!(verify(&bytes), Err(RecordFault::Bad(_))));
        assert_eq!(verify(&[0; 3_000]), Err(RecordFault::Long(3_000)));
    }
}
