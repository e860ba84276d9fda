//! An inner node as its readers need it: decoded, and a file's sizes checked against each other.

use bytes::Bytes;

use super::dagpb::PbNode;
use super::fault::{DagFault, Why};
use super::unixfs::{Kind, UnixFs};
use super::{Cid, DAG_PB, identity_block};

/// The longest file that is believed: 2^28 chunks of 2 MiB.
const MAX_FILE_LEN: u64 = 1 << 49;

/// A dag-pb node with its UnixFS message.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub pb: PbNode<'a>,
    pub fs: UnixFs<'a>,
}

/// An inner node's bytes: out of the CID itself, or from whoever holds it.
pub(super) fn fetch(cid: &Cid, nodes: &mut dyn FnMut(&Cid) -> Option<Bytes>) -> Option<Bytes> {
    match identity_block(cid) {
        Some(block) => Some(Bytes::copy_from_slice(block)),
        None => nodes(cid),
    }
}

impl<'a> Node<'a> {
    /// Decodes the node that `cid` names.
    pub fn decode(cid: &Cid, bytes: &'a [u8]) -> Result<Node<'a>, DagFault> {
        if cid.codec() != DAG_PB {
            return Err(DagFault::new(cid, Why::Codec(cid.codec())));
        }
        let pb = PbNode::decode(bytes).map_err(|e| DagFault::new(cid, e))?;
        let fs = UnixFs::decode(pb.data(), pb.len()).map_err(|e| DagFault::new(cid, e))?;
        Ok(Node { pb, fs })
    }

    pub fn is_file(&self) -> bool {
        matches!(self.fs.kind, Kind::File | Kind::Raw)
    }

    /// The file bytes that the node itself carries.
    pub fn data(&self) -> &'a [u8] {
        self.fs.data.unwrap_or_default()
    }

    /// The bytes of the file beneath this node, by its own word, which has to agree with itself and
    /// with what the link above claimed.
    pub fn file_size(&self, cid: &Cid, claimed: Option<u64>) -> Result<u64, DagFault> {
        let (sizes, links) = (self.fs.blocksizes.len(), self.pb.len());
        if sizes != links {
            return Err(DagFault::new(cid, Why::SizeCount { sizes, links }));
        }
        let own = self.data().len() as u64;
        let actual = self.fs.blocksizes.iter().try_fold(own, |sum, size| sum.checked_add(*size));
        let actual = actual.filter(|n| *n <= MAX_FILE_LEN);
        let actual = actual.ok_or_else(|| DagFault::new(cid, Why::FileTooLong))?;
        for claimed in [self.fs.filesize, claimed].into_iter().flatten() {
            if claimed != actual {
                return Err(DagFault::new(cid, Why::Size { claimed, actual }));
            }
        }
        Ok(actual)
    }
}
