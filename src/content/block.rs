//! A block's bytes against its name.

use multihash::Multihash;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::{Cid, DAG_PB, Hash, IDENTITY, SHA2_256};
use crate::units::MAX_BLOCK_LEN;

const SHA2_512: u64 = 0x13;
const SHA2_384: u64 = 0x20;

/// Why a block is not the one that its CID names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// The bytes are not those that the CID names: the sender's fault.
    #[error("block {0} has the wrong bytes")]
    WrongHash(Cid),
    /// Above [`MAX_BLOCK_LEN`].
    #[error("block {0} is longer than 2 MiB")]
    TooLong(Cid),
    /// Not SHA2-256, -384, -512 (each with its whole digest) or identity: nobody's fault, but no such block can be checked.
    #[error(
        "block {0} is named by a hash that is not supported (sha2-256, sha2-384, sha2-512 and identity are)"
    )]
    UnsupportedHash(Cid),
}

/// Checks a block's bytes against its CID. A digest that was cut short is not accepted.
pub fn verify_block(cid: &Cid, bytes: &[u8]) -> Result<(), BlockFault> {
    if bytes.len() > MAX_BLOCK_LEN {
        return Err(BlockFault::TooLong(*cid));
    }
    let want = cid.hash().digest();
    let right = match (cid.hash().code(), want.len()) {
        (SHA2_256, 32) => Sha256::digest(bytes).as_slice() == want,
        (SHA2_384, 48) => Sha384::digest(bytes).as_slice() == want,
        (SHA2_512, 64) => Sha512::digest(bytes).as_slice() == want,
        (IDENTITY, _) => bytes == want,
        _ => return Err(BlockFault::UnsupportedHash(*cid)),
    };
    if right { Ok(()) } else { Err(BlockFault::WrongHash(*cid)) }
}

/// The whole hash of a block's bytes by that code; `None` for a code that [`verify_block`] does not check either.
pub fn hash_of(code: u64, bytes: &[u8]) -> Option<Hash> {
    let wrap = |digest: &[u8]| Hash::wrap(code, digest).ok(); // at most 64 bytes
    match code {
        SHA2_256 => wrap(&Sha256::digest(bytes)),
        SHA2_384 => wrap(&Sha384::digest(bytes)),
        SHA2_512 => wrap(&Sha512::digest(bytes)),
        _ => None,
    }
}

/// The SHA2-256 CID of a block: CIDv0 where the profile asks for it and the codec allows it (dag-pb), else CIDv1.
pub fn cid_of(profile_v0: bool, codec: u64, bytes: &[u8]) -> Cid {
    cid_of_digest(profile_v0, codec, &Sha256::digest(bytes).into())
}

pub(super) fn cid_of_digest(profile_v0: bool, codec: u64, digest: &[u8; 32]) -> Cid {
    let hash = Multihash::wrap(SHA2_256, digest).expect("32 bytes fit into 64");
    if profile_v0 && codec == DAG_PB {
        Cid::new_v0(hash).expect("a whole sha2-256 digest, as CIDv0 wants it")
    } else {
        Cid::new_v1(codec, hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Hash, RAW};

    #[test]
    fn each_supported_hash_is_checked_and_others_are_refused() {
        let data = b"some block";
        let with = |code, digest: &[u8]| Cid::new_v1(RAW, Hash::wrap(code, digest).unwrap());
        let good = [
            cid_of(false, RAW, data),
            cid_of(true, DAG_PB, data),
            with(SHA2_512, &Sha512::digest(data)),
            with(SHA2_384, &Sha384::digest(data)),
            with(IDENTITY, data),
        ];
        for cid in good {
            assert_eq!(verify_block(&cid, data), Ok(()));
            assert_eq!(verify_block(&cid, b"other"), Err(BlockFault::WrongHash(cid)));
        }
        let cut = with(SHA2_256, &Sha256::digest(data)[..20]);
        assert_eq!(verify_block(&cut, data), Err(BlockFault::UnsupportedHash(cut)));
        let murmur = with(0x22, &[0; 8]);
        assert_eq!(verify_block(&murmur, data), Err(BlockFault::UnsupportedHash(murmur)));
    }

    #[test]
    fn a_block_above_two_mebibytes_is_refused_whatever_its_hash() {
        let data = vec![0; MAX_BLOCK_LEN + 1];
        let cid = cid_of(false, RAW, &data);
        assert_eq!(verify_block(&cid, &data), Err(BlockFault::TooLong(cid)));
        assert_eq!(verify_block(&cid_of(false, RAW, &data[1..]), &data[1..]), Ok(()));
    }

    #[test]
    fn cid_v0_is_only_for_dag_pb() {
        assert_eq!(cid_of(true, RAW, b""), cid_of(false, RAW, b""));
        assert!(cid_of(true, DAG_PB, b"").to_string().starts_with("Qm"));
    }
}
