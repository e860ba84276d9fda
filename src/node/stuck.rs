//! Why a fetch gets nowhere: one reason, found from what the engine and the driver know.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::Supply;
use crate::units::ContentKey;

use super::contents::Stopped;
use super::driver::Driver;

/// What keeps a fetch from going on, for programs; [`Facts::text`] is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nobody is known who may have it.
    NoProviders,
    /// Peers are said to have it, and none of them can be reached.
    Unreachable,
    /// Peers were reached, and have nothing of what is missing.
    WithoutContent,
    /// Peers have it, and none of them sends it: they choke us, or take our requests and are silent.
    Choked,
    /// Our disk: it is full, or does not take what has come.
    Disk,
    /// Our own download limit.
    Limit,
    /// The same content is being fetched to another place.
    Elsewhere,
    /// It has ended, and trying again would not mend it: a malformed content, a place that is taken.
    Failed,
}

/// What is known of a fetch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Look-ups made.
    pub queries: u32,
    /// Peers connected, whatever they have.
    pub connected: u32,
    /// Peers that a link, a flag or a look-up named as sources; those of them that are connected now.
    pub named: u32,
    pub reached: u32,
    /// Peers in the swarm, and what they could give.
    pub members: u32,
    pub supply: Supply,
    /// Something that has come waits for the disk.
    pub writing: bool,
}

impl Facts {
    pub fn reason(&self) -> Reason {
        let s = &self.supply;
        match () {
            () if self.writing => Reason::Disk,
            () if s.open > 0 && s.asked == 0 && s.limited => Reason::Limit,
            () if s.having > 0 => Reason::Choked,
            () if self.members > 0 || self.reached > 0 => Reason::WithoutContent,
            () if self.named > 0 => Reason::Unreachable,
            () => Reason::NoProviders,
        }
    }

    /// The reason in one line, with its numbers.
    pub fn text(&self) -> String {
        let Facts { queries, connected, named, reached, members, supply: s, .. } = *self;
        match self.reason() {
            Reason::Disk => "the disk has not taken what has come".into(),
            // Not found from facts: whoever stops a fetch says why.
            Reason::Elsewhere | Reason::Failed => String::new(),
            Reason::Limit => "the download limit is used up".into(),
            Reason::Choked if s.open == 0 => {
                format!("{} what is missing, and {} us", have(s.having), of(s.having, "chokes", "all choke"))
            }
            Reason::Choked => {
                let silent = of(s.open, "is asked and sends", "are asked and send");
                format!("{} what is missing; {} {silent} nothing", have(s.having), s.open)
            }
            Reason::WithoutContent if members > 0 => {
                format!("{} in the swarm, without what is missing", peers(members))
            }
            Reason::WithoutContent => {
                format!("{reached} of {named} named as sources reached, without the content")
            }
            Reason::Unreachable => {
                format!("{} named as {}, unreachable", peers(named), of(named, "a source", "sources"))
            }
            Reason::NoProviders if queries == 0 => {
                format!("no providers known, {} connected, no look-up yet", peers(connected))
            }
            Reason::NoProviders => {
                let looked = format!("{queries} look-up{}", of(queries, "", "s"));
                format!("no providers found in {looked}, {} connected", peers(connected))
            }
        }
    }
}

fn of<'a>(n: u32, one: &'a str, many: &'a str) -> &'a str {
    if n == 1 { one } else { many }
}

fn peers(n: u32) -> String {
    format!("{n} peer{}", of(n, "", "s"))
}

fn have(n: u32) -> String {
    format!("{} {}", peers(n), of(n, "has", "have"))
}

impl Driver {
    fn facts(&self, key: ContentKey) -> Facts {
        let connected = self.peers.connected() as u32;
        let supply = self.engine.supply(self.clock.now(), key).unwrap_or_default();
        let Some(content) = self.contents.get(key) else { return Facts::default() };
        let mut facts =
            Facts { connected, supply, members: content.members.len() as u32, ..Facts::default() };
        if let Some(fetch) = &content.fetch {
            let reached = |k: &&_| self.peers.get(**k).is_some_and(|p| p.connected);
            facts.queries = fetch.queries;
            facts.named = fetch.sources.len() as u32;
            facts.reached = fetch.sources.iter().filter(reached).count() as u32;
            // A walker that is away is with a thread that writes what it finds.
            facts.writing = supply.storing > 0 || fetch.finishing || fetch.walker.is_none();
        }
        facts
    }

    /// What a content is doing; and if it gets nowhere, why.
    pub(super) fn state_of(&self, key: ContentKey) -> (String, Option<Reason>) {
        let Some(c) = self.contents.get(key) else { return ("idle".into(), None) };
        if c.paused {
            return ("paused".into(), None);
        }
        let Some(fetch) = &c.fetch else {
            return match &c.stopped {
                Some(Stopped { why, reason }) => (format!("stopped: {why}"), Some(*reason)),
                None if c.seeding => ("seeding".into(), None),
                None => ("idle".into(), None),
            };
        };
        let idle = self.clock.now().since(fetch.last_progress);
        let facts = self.facts(key);
        let state = match () {
            () if idle >= self.stuck_after => {
                let state = format!("stuck for {} s: {}", idle.as_secs(), facts.text());
                return (state, Some(facts.reason()));
            }
            () if fetch.finishing => "finishing".into(),
            () if c.members.is_empty() => format!("looking for peers: {}", facts.text()),
            () if c.chunks == 0 => "reading the manifest".into(),
            () => "fetching".into(),
        };
        (state, None)
    }

    /// Why nothing has come for so long, in words.
    pub(super) fn why_nothing(&self, key: ContentKey, idle: Duration) -> String {
        format!("no progress for {} s: {}", idle.as_secs(), self.facts(key).text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(facts: Facts, reason: Reason, text: &str) {
        assert_eq!((facts.reason(), facts.text().as_str()), (reason, text), "{facts:?}");
    }

    #[test]
    fn nobody_is_known() {
        let facts = Facts { connected: 1, ..Facts::default() };
        says(facts, Reason::NoProviders, "no providers known, 1 peer connected, no look-up yet");
        let facts = Facts { queries: 2, ..facts };
        says(facts, Reason::NoProviders, "no providers found in 2 look-ups, 1 peer connected");
    }

    #[test]
    fn those_named_cannot_be_reached() {
        let facts = Facts { named: 3, queries: 1, connected: 9, ..Facts::default() };
        says(facts, Reason::Unreachable, "3 peers named as sources, unreachable");
    }

    #[test]
    fn those_reached_have_nothing_of_it() {
        let facts = Facts { named: 3, reached: 1, ..Facts::default() };
        says(facts, Reason::WithoutContent, "1 of 3 named as sources reached, without the content");
        let facts = Facts { members: 2, ..facts };
        says(facts, Reason::WithoutContent, "2 peers in the swarm, without what is missing");
    }

    #[test]
    fn those_that_have_it_do_not_send_it() {
        let supply = |open, asked| Supply { having: 2, open, asked, ..Supply::default() };
        let facts = |open, asked| Facts { members: 3, supply: supply(open, asked), ..Facts::default() };
        says(facts(0, 0), Reason::Choked, "2 peers have what is missing, and all choke us");
        says(facts(1, 1), Reason::Choked, "2 peers have what is missing; 1 is asked and sends nothing");
    }

    #[test]
    fn the_limit_is_to_blame_only_if_somebody_would_send() {
        let limited = Supply { having: 1, open: 1, limited: true, ..Supply::default() };
        let facts = |supply| Facts { members: 1, supply, ..Facts::default() };
        says(facts(limited), Reason::Limit, "the download limit is used up");
        assert_eq!(facts(Supply { open: 0, ..limited }).reason(), Reason::Choked);
        assert_eq!(facts(Supply { asked: 1, ..limited }).reason(), Reason::Choked);
        assert_eq!(facts(Supply { having: 0, open: 0, ..limited }).reason(), Reason::WithoutContent);
    }

    #[test]
    fn a_disk_that_does_not_write_comes_before_all_else() {
        let supply = Supply { having: 1, open: 1, limited: true, ..Supply::default() };
        let facts = Facts { members: 1, supply, writing: true, ..Facts::default() };
        says(facts, Reason::Disk, "the disk has not taken what has come");
    }

    #[test]
    fn programs_read_it_in_snake_case() {
        let all = [
            Reason::NoProviders,
            Reason::Unreachable,
            Reason::WithoutContent,
            Reason::Choked,
            Reason::Disk,
            Reason::Limit,
            Reason::Elsewhere,
            Reason::Failed,
        ];
        let names = ["no_providers", "unreachable", "without_content", "choked", "disk", "limit"];
        let names = [&names[..], &["elsewhere", "failed"]].concat();
        assert_eq!(serde_json::to_value(all).unwrap(), serde_json::json!(names));
    }
}
