//! A look over a protobuf message before it is decoded: how often each field comes and how long it is.
//!
//! `prost` sets memory aside as it goes, some 60 bytes for a field of two; so what a frame may hold is
//! checked here first, on the bytes as they lie.

use super::WireError;

/// What a field may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A number, or (repeated) many in one.
    Number,
    /// Bytes of at most so many.
    Bytes(u32),
    /// A message of this shape.
    Message(&'static [Field]),
}

/// One field of a message: its number, its name for errors, how often it may come, what it may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub no: u32,
    pub what: &'static str,
    pub max: u32,
    pub kind: Kind,
}

pub(super) const fn number(no: u32, what: &'static str) -> Field {
    Field { no, what, max: 1, kind: Kind::Number }
}

pub(super) const fn numbers(no: u32, what: &'static str, max: u32) -> Field {
    Field { no, what, max, kind: Kind::Number }
}

pub(super) const fn bytes(no: u32, what: &'static str, len: u32) -> Field {
    Field { no, what, max: 1, kind: Kind::Bytes(len) }
}

pub(super) const fn many(no: u32, what: &'static str, max: u32, len: u32) -> Field {
    Field { no, what, max, kind: Kind::Bytes(len) }
}

pub(super) const fn message(no: u32, what: &'static str, max: u32, shape: &'static [Field]) -> Field {
    Field { no, what, max, kind: Kind::Message(shape) }
}

/// The most fields that a shape has.
const MAX_FIELDS: usize = 16;

/// Checks `buf` against `shape`. Fields that the shape does not name are skipped.
///
/// # Errors
/// The first cap that is broken, or [`WireError::Malformed`] / [`WireError::Truncated`].
pub(super) fn check(mut buf: &[u8], shape: &'static [Field]) -> Result<(), WireError> {
    debug_assert!(shape.len() <= MAX_FIELDS);
    let mut seen = [0u32; MAX_FIELDS];
    while !buf.is_empty() {
        let key = varint(&mut buf)?;
        let (no, wire) = (key >> 3, key & 7);
        let at = shape.iter().position(|f| u64::from(f.no) == no);
        let payload = match wire {
            0 => {
                varint(&mut buf)?;
                None
            }
            1 => skip(&mut buf, 8)?,
            5 => skip(&mut buf, 4)?,
            2 => {
                let len = usize::try_from(varint(&mut buf)?).map_err(|_| WireError::Truncated)?;
                Some(buf.split_off(..len).ok_or(WireError::Truncated)?)
            }
            _ => return Err(WireError::Malformed),
        };
        let Some(at) = at else { continue };
        let field = &shape[at];
        let came = match (field.kind, payload) {
            // Packed: a number ends with each byte whose top bit is not set.
            (Kind::Number, Some(p)) => p.iter().filter(|&&b| b < 0x80).count() as u64,
            _ => 1,
        };
        let total = u64::from(seen[at]) + came;
        if total > u64::from(field.max) {
            return Err(WireError::TooMany { what: field.what, max: field.max });
        }
        seen[at] = total as u32; // at most `max`, which is 32 bits
        match (field.kind, payload) {
            (Kind::Bytes(max), Some(p)) if p.len() > max as usize => {
                return Err(WireError::FieldTooLong { what: field.what, max });
            }
            (Kind::Message(inner), Some(p)) => check(p, inner)?,
            _ => {}
        }
    }
    Ok(())
}

fn skip<'a>(buf: &mut &'a [u8], n: usize) -> Result<Option<&'a [u8]>, WireError> {
    buf.split_off(..n).ok_or(WireError::Truncated)?;
    Ok(None)
}

fn varint(buf: &mut &[u8]) -> Result<u64, WireError> {
    let mut n = 0u64;
    for i in 0..10 {
        let b = *buf.split_off_first().ok_or(WireError::Truncated)?;
        n |= u64::from(b & 0x7f).checked_shl(7 * i).unwrap_or(0);
        if b & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(WireError::BadVarint)
}
