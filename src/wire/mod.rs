//! What is said on the wire: messages, their caps, and the frames they travel in. Pure.

pub mod bitswap;
pub mod exchange;
pub mod frame;
mod have;
pub mod ipns;
pub mod kad;
mod scan;

/// What `prost` made of `proto/exchange.proto`. Unchecked; nobody outside this module sees it.
mod proto {
    #![allow(clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/dunlin.exchange.rs"));
}

/// What `prost` made of `proto/bitswap.proto`, as unchecked.
mod bitswap_proto {
    #![allow(clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/bitswap.pb.rs"));
}

/// The same of `proto/kad.proto`.
mod kad_proto {
    #![allow(clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/dunlin.kad.rs"));
}

/// What may be wrong with bytes from a peer (all but [`WireError::TooLong`] on the way out are the
/// peer's fault).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a frame of {0} bytes, more than is allowed")]
    TooLong(u64),
    #[error("a length that is no varint")]
    BadVarint,
    #[error("the message is cut off")]
    Truncated,
    #[error("more than {max} of {what}")]
    TooMany { what: &'static str, max: u32 },
    #[error("{what} longer than {max} bytes")]
    FieldTooLong { what: &'static str, max: u32 },
    #[error("not a protobuf message")]
    Malformed,
    #[error("a message without a kind that is known")]
    UnknownKind,
    #[error("a bad value of {0}")]
    BadValue(&'static str),
}
