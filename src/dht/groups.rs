//! IP groups: addresses that one party may hold by the thousand count as one.
//!
//! As go-libp2p-kbucket's peer diversity filter has them: an IPv4 /16, or a whole /8 where one was handed
//! out to one party long ago; an IPv6 /32 (of which providers get at least one).

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(u64);

/// Peers of one group that may be among the closest to a key, and in a routing table.
pub const MAX_OF_A_GROUP: usize = 3;

const LEGACY: [u8; 8] = [12, 17, 19, 38, 48, 53, 56, 73];

/// The group of a public address.
pub fn group_of_v4([a, b, _, _]: [u8; 4]) -> Group {
    let b = if LEGACY.contains(&a) { 0 } else { b };
    Group(4 << 32 | u64::from(a) << 8 | u64::from(b))
}

pub fn group_of_v6(ip: [u8; 16]) -> Group {
    let [a, b, c, d, ..] = ip;
    Group(6 << 32 | u64::from(u32::from_be_bytes([a, b, c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_a_16_or_a_legacy_8() {
        assert_eq!(group_of_v4([1, 2, 3, 4]), group_of_v4([1, 2, 200, 4]));
        assert_ne!(group_of_v4([1, 2, 3, 4]), group_of_v4([1, 3, 3, 4]));
        assert_eq!(group_of_v4([17, 2, 3, 4]), group_of_v4([17, 250, 3, 4]));
        assert_ne!(group_of_v4([18, 2, 3, 4]), group_of_v4([18, 250, 3, 4]));
        assert_eq!(
            group_of_v6([0x2a; 16]),
            group_of_v6([0x2a, 0x2a, 0x2a, 0x2a, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0])
        );
        assert_ne!(group_of_v6([0; 16]), group_of_v4([0; 4]));
    }
}
