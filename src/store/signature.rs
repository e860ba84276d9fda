//! What tells that a file is still the one that was hashed: device, inode, size, mtime and ctime.

use rustix::fs::Stat;

/// Timestamps this near to the moment of hashing prove nothing: a later write could bear the same one
/// (2 s is FAT's granule, the coarsest in use).
pub const TOO_YOUNG_NS: i64 = 2_000_000_000;

/// A regular file's identity and state. Times are nanoseconds since the Unix epoch; a ctime of 0 means that the file
/// system has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
}

/// How a file compares with the signature on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Same,
    /// Only the ctime or the device number differ (chmod, a new link, a mount under another number): the bytes are likely
    /// the same, which hashing them again decides.
    Suspect,
    Changed,
}

impl Signature {
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)] // the fields' types differ between platforms
    pub fn of(stat: &Stat) -> Signature {
        Signature {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: nanos(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime_ns: nanos(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// True if, hashed at `now_ns`, the file could have changed afterwards without its signature telling.
    pub fn too_young(&self, now_ns: i64) -> bool {
        self.ctime_ns == 0 || now_ns.saturating_sub(self.mtime_ns.max(self.ctime_ns)) < TOO_YOUNG_NS
    }

    pub fn compare(&self, now: &Signature) -> Comparison {
        let content = |s: &Signature| (s.ino, s.size, s.mtime_ns);
        if self == now {
            Comparison::Same
        } else if content(self) == content(now) {
            Comparison::Suspect
        } else {
            Comparison::Changed
        }
    }
}

fn nanos(secs: i64, nsec: i64) -> i64 {
    secs.saturating_mul(1_000_000_000).saturating_add(nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Signature =
        Signature { dev: 1, ino: 2, size: 3, mtime_ns: 10_000_000_000, ctime_ns: 11_000_000_000 };

    #[test]
    fn a_signature_is_too_young_for_two_seconds_after_the_later_of_its_times() {
        assert!(S.too_young(12_999_999_999));
        assert!(!S.too_young(13_000_000_000));
        assert!(S.too_young(5_000_000_000), "a time in the future proves nothing");
    }

    #[test]
    fn a_file_without_ctime_is_never_trusted() {
        assert!(Signature { ctime_ns: 0, ..S }.too_young(i64::MAX));
    }

    #[test]
    fn each_part_of_the_signature_tells() {
        assert_eq!(S.compare(&S), Comparison::Same);
        assert_eq!(S.compare(&Signature { ctime_ns: 12, ..S }), Comparison::Suspect);
        assert_eq!(S.compare(&Signature { dev: 9, ..S }), Comparison::Suspect);
        for changed in [Signature { ino: 9, ..S }, Signature { size: 9, ..S }, Signature { mtime_ns: 9, ..S }]
        {
            assert_eq!(S.compare(&changed), Comparison::Changed);
        }
    }
}
