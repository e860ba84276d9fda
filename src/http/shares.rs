//! Which contents are served only as long as somebody's `share` runs. Several may share one content; the
//! last to end withdraws it, unless it was served anyway.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Shares {
    by_cid: BTreeMap<String, Share>,
}

#[derive(Debug)]
struct Share {
    holders: u32,
    keep: bool,
}

impl Shares {
    /// A `share` of `cid` begins; `served_before`: without it the node served the content already.
    pub fn begin(&mut self, cid: &str, served_before: bool) {
        let share = self.by_cid.entry(cid.to_owned()).or_insert(Share { holders: 0, keep: served_before });
        share.holders += 1;
    }

    /// `cid` was added or fetched for good while it is shared.
    pub fn keep(&mut self, cid: &str) {
        if let Some(share) = self.by_cid.get_mut(cid) {
            share.keep = true;
        }
    }

    /// A `share` ended. True: withdraw the content.
    pub fn end(&mut self, cid: &str) -> bool {
        let Some(share) = self.by_cid.get_mut(cid) else { return false };
        share.holders -= 1;
        if share.holders > 0 {
            return false;
        }
        let keep = share.keep;
        self.by_cid.remove(cid);
        !keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_share_withdraws() {
        let mut shares = Shares::default();
        shares.begin("a", false);
        shares.begin("a", true); // served by the first
        assert!(!shares.end("a"));
        assert!(shares.end("a"));
        assert!(!shares.end("a"));
    }

    #[test]
    fn what_was_served_anyway_stays() {
        let mut shares = Shares::default();
        shares.begin("before", true);
        assert!(!shares.end("before"));
        shares.begin("meanwhile", false);
        shares.keep("meanwhile");
        assert!(!shares.end("meanwhile"));
    }
}
