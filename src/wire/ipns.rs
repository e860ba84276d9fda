//! IPNS records (specs.ipfs.tech/ipns/ipns-record): what is in one. Signatures are the caller's to check.

use prost::Message as _;

use super::WireError;

/// The longest record that is looked at.
pub const MAX_RECORD: usize = 10 << 10;
/// What stands before the signed data.
pub const SIGNED_PREFIX: &[u8] = b"ipns-signature:";

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(bytes = "vec", tag = "1")]
    value: Vec<u8>,
    #[prost(int32, tag = "3")]
    validity_type: i32,
    #[prost(bytes = "vec", tag = "4")]
    validity: Vec<u8>,
    #[prost(uint64, tag = "5")]
    sequence: u64,
    #[prost(bytes = "vec", tag = "7")]
    public_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "8")]
    signature_v2: Vec<u8>,
    #[prost(bytes = "vec", tag = "9")]
    data: Vec<u8>,
}

/// A record whose form is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipns {
    /// A key in protobuf, if it is not in the name itself.
    pub public_key: Option<Vec<u8>>,
    pub signature: Vec<u8>,
    /// What is signed, after [`SIGNED_PREFIX`]: DAG-CBOR.
    pub data: Vec<u8>,
    pub sequence: u64,
    /// When it ends, in seconds since the Unix epoch.
    pub until: u64,
}

impl Ipns {
    /// # Errors
    /// The sender's fault: too long, no V2 signature, data that is not as it must be, or fields beside the
    /// signed data that say something else than it.
    pub fn decode(bytes: &[u8]) -> Result<Ipns, WireError> {
        if bytes.len() > MAX_RECORD {
            return Err(WireError::FieldTooLong { what: "an IPNS record", max: MAX_RECORD as u32 });
        }
        let entry = Entry::decode(bytes).map_err(|_| WireError::Malformed)?;
        if entry.signature_v2.is_empty() || entry.data.is_empty() {
            return Err(WireError::BadValue("the V2 signature"));
        }
        let data = Data::read(&entry.data).ok_or(WireError::BadValue("the signed data"))?;
        // The older fields may be left out; what is there must not lead anybody astray.
        let v1 = !entry.value.is_empty() || !entry.validity.is_empty();
        let same = entry.value == data.value
            && entry.validity == data.validity
            && entry.sequence == data.sequence
            && entry.validity_type == 0;
        if v1 && !same {
            return Err(WireError::BadValue("a field that contradicts the signed data"));
        }
        let until = std::str::from_utf8(&data.validity).ok().and_then(unix_of_rfc3339);
        Ok(Ipns {
            public_key: Some(entry.public_key).filter(|k| !k.is_empty()),
            signature: entry.signature_v2,
            data: entry.data,
            sequence: data.sequence,
            until: until.ok_or(WireError::BadValue("the validity"))?,
        })
    }
}

/// The signed map's fields that count.
#[derive(Default)]
struct Data {
    value: Vec<u8>,
    validity: Vec<u8>,
    sequence: u64,
}

impl Data {
    /// Reads DAG-CBOR: one map of text keys to byte strings and integers, each key once.
    fn read(bytes: &[u8]) -> Option<Data> {
        let mut r = Cbor(bytes);
        let (5, count) = r.head()? else { return None };
        let (mut data, mut seen) = (Data::default(), 0u8);
        for _ in 0..count {
            let (3, len) = r.head()? else { return None };
            let key = r.take(len)?;
            let (kind, n) = r.head()?;
            // Other fields are allowed; integers, text and bytes are all that they may be here.
            let text = if matches!(kind, 2 | 3) { r.take(n)? } else { &[] };
            let (bit, fits) = match key {
                b"Value" => (1, kind == 2),
                b"Validity" => (2, kind == 2),
                b"Sequence" => (4, kind == 0),
                b"ValidityType" => (8, kind == 0 && n == 0),
                b"TTL" => (16, kind == 0),
                _ => (0, kind <= 3),
            };
            if !fits || seen & bit != 0 {
                return None;
            }
            seen |= bit;
            match bit {
                1 => data.value = text.to_vec(),
                2 => data.validity = text.to_vec(),
                4 => data.sequence = n,
                _ => {}
            }
        }
        (r.0.is_empty() && seen & 15 == 15).then_some(data)
    }
}

struct Cbor<'a>(&'a [u8]);

impl<'a> Cbor<'a> {
    fn take(&mut self, n: u64) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(usize::try_from(n).ok()?)?;
        self.0 = rest;
        Some(head)
    }

    /// Major type and argument of an item.
    fn head(&mut self) -> Option<(u8, u64)> {
        let first = self.take(1)?[0];
        let n = match first & 31 {
            n @ 0..=23 => n.into(),
            n @ 24..=27 => self.take(1 << (n - 24))?.iter().fold(0, |n, &b| n << 8 | u64::from(b)),
            _ => return None, // indefinite lengths are not DAG-CBOR
        };
        Some((first >> 5, n))
    }
}

/// `2006-01-02T15:04:05.999999999Z` in seconds since the Unix epoch; IPNS writes UTC.
fn unix_of_rfc3339(text: &str) -> Option<u64> {
    let digits = |from: usize, len: usize| -> Option<u64> {
        let part = text.get(from..from + len)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let at = |i: usize| text.as_bytes().get(i).copied();
    let right = at(4) == Some(b'-') && at(7) == Some(b'-') && at(10) == Some(b'T');
    let end = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    if !(right && at(13) == Some(b':') && at(16) == Some(b':') && end == "Z") {
        return None;
    }
    let (y, m, d) = (digits(0, 4)?, digits(5, 2)?, digits(8, 2)?);
    let (h, min, s) = (digits(11, 2)?, digits(14, 2)?, digits(17, 2)?);
    if !(y >= 1970 && (1..=12).contains(&m) && (1..=31).contains(&d) && h < 24 && min < 60 && s <= 60) {
        return None;
    }
    // Days from the civil date (years that begin in March).
    let (y, m) = if m <= 2 { (y - 1, m + 9) } else { (y, m - 3) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + d - 1;
    Some((days - 719_468) * 86_400 + h * 3_600 + min * 60 + s)
}

#[cfg(test)]
pub mod testing {
    use super::*;

    fn head(out: &mut Vec<u8>, kind: u8, n: u64) {
        out.push(kind << 5 | 27);
        out.extend(n.to_be_bytes());
    }

    /// A record signed by `sign`.
    pub fn record(
        value: &[u8],
        validity: &str,
        sequence: u64,
        key: &[u8],
        sign: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Vec<u8> {
        let mut data = vec![0xa5];
        for (name, kind, bytes, n) in [
            ("TTL", 0, &b""[..], 7),
            ("Value", 2, value, value.len() as u64),
            ("Sequence", 0, b"", sequence),
            ("Validity", 2, validity.as_bytes(), validity.len() as u64),
            ("ValidityType", 0, b"", 0),
        ] {
            head(&mut data, 3, name.len() as u64);
            data.extend(name.as_bytes());
            head(&mut data, kind, n);
            data.extend(bytes);
        }
        let signature_v2 = sign(&[SIGNED_PREFIX, &data].concat());
        let entry = Entry {
            value: value.to_vec(),
            validity: validity.into(),
            sequence,
            public_key: key.to_vec(),
            signature_v2,
            data,
            validity_type: 0,
        };
        entry.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_as_the_specification_writes_them() {
        assert_eq!(unix_of_rfc3339("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_of_rfc3339("2000-02-29T12:34:56.789Z"), Some(951_827_696));
        assert_eq!(unix_of_rfc3339("2038-01-19T03:14:08.000000000Z"), Some(1 << 31));
        for bad in [
            "",
            "2000-02-29",
            "2000-02-29T12:34:56",
            "2000-13-01T00:00:00Z",
            "2000-01-01T00:00:00+01:00",
            "+000-01-01T00:00:00Z",
        ] {
            assert_eq!(unix_of_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_record_is_read_and_contradictions_are_refused() {
        let bytes = testing::record(b"/ipfs/x", "2038-01-19T03:14:08Z", 5, b"", |_| vec![1]);
        let read = Ipns::decode(&bytes).unwrap();
        assert_eq!((read.sequence, read.until, read.public_key), (5, 1 << 31, None));
        let mut entry = Entry::decode(&bytes[..]).unwrap();
        entry.sequence = 6;
        assert!(Ipns::decode(&entry.encode_to_vec()).is_err());
        entry = Entry::decode(&bytes[..]).unwrap();
        entry.signature_v2.clear();
        assert!(Ipns::decode(&entry.encode_to_vec()).is_err());
        assert!(Ipns::decode(&vec![0; MAX_RECORD + 1]).is_err());
    }

    proptest! {
        #[test]
        fn nothing_that_a_peer_sends_is_fatal(bytes: Vec<u8>, data: Vec<u8>) {
            let _ = Ipns::decode(&bytes);
            let _ = Data::read(&data);
            let _ = unix_of_rfc3339(&String::from_utf8_lossy(&bytes));
        }
    }
}
