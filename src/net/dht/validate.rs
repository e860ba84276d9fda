//! Which values others may store with us: public keys under their hash, and IPNS records under their key.

use libp2p::PeerId;
use libp2p::identity::PublicKey;

use crate::wire::ipns::{Ipns, MAX_RECORD, SIGNED_PREFIX};

/// Why a value is not kept. All are the sender's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the key is neither /pk/ nor /ipns/ and a peer's ID")]
    Namespace,
    #[error("the value is no public key, or another than the key names")]
    Key,
    #[error("the record is malformed: {0}")]
    Malformed(#[from] crate::wire::WireError),
    #[error("the signature is wrong")]
    Signature,
    #[error("the record has expired")]
    Expired,
}

/// What decides which of two valid values of one key is the better; the greater one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    pub sequence: u64,
    /// Unix time; 0: it does not end.
    pub until: u64,
}

/// Checks a value for its key.
///
/// # Errors
/// Why it is not to be kept.
pub fn validate(key: &[u8], value: &[u8], now: u64) -> Result<Rank, Refused> {
    let of = |prefix: &[u8]| PeerId::from_bytes(key.strip_prefix(prefix)?).ok();
    if let Some(peer) = of(b"/pk/") {
        let found = (value.len() <= MAX_RECORD).then(|| PublicKey::try_decode_protobuf(value).ok()).flatten();
        return match found {
            Some(found) if found.to_peer_id() == peer => Ok(Rank::default()),
            _ => Err(Refused::Key),
        };
    }
    let peer = of(b"/ipns/").ok_or(Refused::Namespace)?;
    let record = Ipns::decode(value)?;
    let key = match &record.public_key {
        Some(bytes) => PublicKey::try_decode_protobuf(bytes).ok(),
        None => inlined(&peer),
    };
    let key = key.filter(|k| k.to_peer_id() == peer).ok_or(Refused::Key)?;
    if !key.verify(&[SIGNED_PREFIX, &record.data].concat(), &record.signature) {
        return Err(Refused::Signature);
    }
    if record.until <= now {
        return Err(Refused::Expired);
    }
    Ok(Rank { sequence: record.sequence, until: record.until })
}

/// The key that an ID of a short key holds itself.
fn inlined(peer: &PeerId) -> Option<PublicKey> {
    let hash = peer.as_ref();
    (hash.code() == 0).then(|| PublicKey::try_decode_protobuf(hash.digest()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::*;
    use crate::wire::ipns::testing::record;

    const NOW: u64 = 1_800_000_000;
    const LATER: &str = "2038-01-19T03:14:08Z";

    fn name(key: &Keypair, namespace: &str) -> Vec<u8> {
        [namespace.as_bytes(), &key.public().to_peer_id().to_bytes()].concat()
    }

    #[test]
    fn ipns_records_are_kept_if_the_names_key_signed_them() {
        let (key, other) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let sign = |k: &Keypair, b: &[u8]| k.sign(b).unwrap();
        let good = record(b"/ipfs/x", LATER, 3, b"", |b| sign(&key, b));
        assert_eq!(validate(&name(&key, "/ipns/"), &good, NOW), Ok(Rank { sequence: 3, until: 1 << 31 }));
        assert_eq!(validate(&name(&other, "/ipns/"), &good, NOW), Err(Refused::Signature));
        assert_eq!(validate(&name(&key, "/ipns/"), &good, 1 << 31), Err(Refused::Expired));
        let forged = record(b"/ipfs/x", LATER, 3, b"", |b| sign(&other, b));
        assert_eq!(validate(&name(&key, "/ipns/"), &forged, NOW), Err(Refused::Signature));
        let with_key = record(b"/ipfs/x", LATER, 3, &other.public().encode_protobuf(), |b| sign(&other, b));
        assert_eq!(validate(&name(&key, "/ipns/"), &with_key, NOW), Err(Refused::Key));
        assert!(validate(&name(&key, "/ipns/"), &[0; MAX_RECORD + 1], NOW).is_err());
        for key in [&b"/ipns/"[..], b"/ipns/x", b"x", b"", b"/v/abc"] {
            assert_eq!(validate(key, &good, NOW), Err(Refused::Namespace));
        }
    }

    /// DER: a tag, the length, what is inside.
    fn der(tag: u8, inside: &[u8]) -> Vec<u8> {
        let len = u32::try_from(inside.len()).unwrap().to_be_bytes();
        [&[tag, 0x84][..], &len, inside].concat()
    }

    #[test]
    fn a_huge_rsa_key_costs_nothing_and_signs_nothing() {
        let (n, e) = (der(2, &[&[0x7f][..], &[0xff; 4_096]].concat()), der(2, &[1, 0, 1]));
        let bits = der(3, &[&[0][..], &der(0x30, &[n, e].concat())].concat());
        let rsa = [der(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]), vec![5, 0]].concat();
        let spki = der(0x30, &[der(0x30, &rsa), bits].concat());
        let mut key = vec![0x08, 0, 0x12];
        let len = u16::try_from(spki.len()).unwrap();
        key.extend([(len & 0x7f) as u8 | 0x80, (len >> 7) as u8]);
        key.extend(&spki);
        let hash = libp2p::multihash::Multihash::<64>::wrap(0x12, &crate::dht::Key::of(&key).0).unwrap();
        let name = [&b"/ipns/"[..], &hash.to_bytes()].concat();
        let value = record(b"/ipfs/x", LATER, 1, &key, |_| vec![0xff; 4_096]);
        assert!(value.len() <= MAX_RECORD);
        let refused = validate(&name, &value, NOW).unwrap_err();
        assert!(matches!(refused, Refused::Key | Refused::Signature), "{refused}");
    }

    #[test]
    fn public_keys_are_kept_under_their_own_hash_only() {
        let (key, other) = (Keypair::generate_ecdsa(), Keypair::generate_ecdsa());
        let value = key.public().encode_protobuf();
        assert!(validate(&name(&key, "/pk/"), &value, NOW).is_ok());
        assert_eq!(validate(&name(&other, "/pk/"), &value, NOW), Err(Refused::Key));
        assert_eq!(validate(&name(&key, "/pk/"), b"junk", NOW), Err(Refused::Key));
        // A key that no honest node has: too large to be looked at.
        assert_eq!(validate(&name(&key, "/pk/"), &[0x0a; MAX_RECORD + 1], NOW), Err(Refused::Key));
    }
}
