//! A swarm to simulate, as a TOML file describes it.
//!
//! ```toml
//! size = "256Mi"            # the content; bytes, or a number with k, M, G, Ki, Mi, Gi
//! chunk = "256Ki"
//! neighbours = 40           # connections that a peer keeps
//! slots = "auto"            # or a number: upload slots, one of them optimistic
//! tit_for_tat = true        # false: slots go around by chance
//! optimistic = true         # false: no slot for those who have sent nothing
//! inner_nodes = true        # the DAG's inner nodes must be fetched first, as in life
//! max_s = 3600              # the run ends here at the latest
//! queue_ms = 0              # how long a packet waits before a busy up-link, as in a modem or shaper
//! send_buffer = 0           # bytes of chunks in a connection's socket, which control messages wait behind
//!
//! [[group]]                 # as many peers of one kind
//! role = "seed"
//! up = "4M"                 # bytes a second; a pair is a range, drawn log-uniformly for each peer
//! down = "8M"
//! delay_ms = 5              # of the peer's own link, one way: a round trip of two such is 20 ms
//!
//! [[group]]
//! role = "leecher"          # seed, leecher, free-rider, liar or slow-loris
//! count = 16
//! up = ["250k", "8M"]
//! down = "8M"
//! join_s = [0, 30]          # a moment, or a pair: drawn uniformly for each peer
//! leave_s = 300             # it vanishes then, without a goodbye
//! leave_after_complete = 10 # or: so long after it has everything (true: at once)
//! leave_when_spread = true  # or: it vanishes once those that stay hold every chunk among them
//! ```

use serde::Deserialize;
use serde::de::Error as _;

use super::quantity::parse_quantity;
use super::rng::Rng;
use crate::units::CHUNK_LEN;

/// A scenario that cannot be run: the file's fault, named by its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    #[error("not a scenario: {0}")]
    Syntax(String),
    #[error("`{key}` is {value}: it must be {rule}")]
    Value { key: &'static str, value: String, rule: &'static str },
    #[error("group {group}: `{key}` is {value}: it must be {rule}")]
    Group { group: usize, key: &'static str, value: String, rule: &'static str },
    #[error("no group with role = \"seed\": nobody has the content")]
    NoSeed,
}

/// What a peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Has everything from the start.
    Seed,
    /// Fetches, and serves what it has.
    Leecher,
    /// Fetches and never serves.
    FreeRider,
    /// Claims to have everything and sends chunks whose bytes are wrong; fetches nothing.
    Liar,
    /// Claims to have everything and answers a byte a second; fetches nothing.
    SlowLoris,
}

impl Role {
    /// Whether it wants the content.
    pub fn fetches(self) -> bool {
        matches!(self, Role::Leecher | Role::FreeRider)
    }

    /// Whether it serves what it claims to have.
    pub fn serves(self) -> bool {
        matches!(self, Role::Seed | Role::Leecher)
    }
}

/// How many uploads a peer has open at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slots {
    /// The engine opens more while its up-link would idle.
    #[default]
    Auto,
    /// So many, one of them optimistic (the lectures' 4 + 1 are 5).
    Fixed(u32),
}

/// A number between the two, or exactly one if they are the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub from: f64,
    pub to: f64,
}

impl Span {
    pub const fn exactly(x: f64) -> Span {
        Span { from: x, to: x }
    }

    fn uniform(self, rng: &mut Rng) -> f64 {
        if self.from == self.to { self.from } else { rng.between(self.from, self.to) }
    }

    fn log_uniform(self, rng: &mut Rng) -> f64 {
        if self.from == self.to { self.from } else { rng.log_uniform(self.from, self.to) }
    }

    fn shown(self) -> String {
        if self.from == self.to { self.from.to_string() } else { format!("[{}, {}]", self.from, self.to) }
    }
}

/// As many peers of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub role: Role,
    pub count: u32,
    /// Bytes a second.
    pub up: Span,
    /// Bytes a second.
    pub down: Span,
    /// One way, of the peer's own link.
    pub delay_ms: f64,
    pub join_s: Span,
    /// When it vanishes, if it does.
    pub leave_s: Option<Span>,
    /// How long after it has everything it goes, if it does.
    pub leave_after_complete: Option<f64>,
    /// It vanishes once every chunk is held by a receiver that stays.
    pub leave_when_spread: bool,
}

/// A swarm to simulate.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Shown above the results.
    pub name: String,
    pub size: u64,
    pub chunk: u32,
    pub neighbours: u32,
    pub slots: Slots,
    /// Upload slots go to those who send us most; otherwise by chance.
    pub tit_for_tat: bool,
    /// One slot goes around at random.
    pub optimistic: bool,
    /// Receivers must learn the inner nodes of the content first, as in life.
    pub inner_nodes: bool,
    /// The run ends here at the latest, in seconds of virtual time.
    pub max_s: f64,
    /// How long a packet waits before an up-link that is busy.
    pub queue_ms: f64,
    /// Bytes of chunks in a connection's socket that control messages wait behind.
    pub send_buffer: u64,
    pub groups: Vec<Group>,
}

/// One peer of a scenario, its ranges drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerPlan {
    pub role: Role,
    pub up: f64,
    pub down: f64,
    pub delay_s: f64,
    pub join_s: f64,
    pub leave_s: Option<f64>,
    pub leave_after_complete: Option<f64>,
    pub leave_when_spread: bool,
}

impl PeerPlan {
    /// Whether it is to be there to the end.
    pub fn stays(&self) -> bool {
        self.leave_s.is_none() && !self.leave_when_spread
    }
}

const MAX_PEERS: u32 = 20_000;
const MAX_CHUNKS: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScenario {
    #[serde(default)]
    name: String,
    size: Bytes,
    #[serde(default)]
    chunk: Option<Bytes>,
    #[serde(default)]
    neighbours: Option<u32>,
    #[serde(default)]
    slots: RawSlots,
    #[serde(default = "yes")]
    tit_for_tat: bool,
    #[serde(default = "yes")]
    optimistic: bool,
    #[serde(default = "yes")]
    inner_nodes: bool,
    #[serde(default)]
    max_s: Option<f64>,
    #[serde(default)]
    queue_ms: f64,
    #[serde(default)]
    send_buffer: Option<Bytes>,
    #[serde(default)]
    group: Vec<RawGroup>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    role: Role,
    #[serde(default)]
    count: Option<u32>,
    up: OneOrTwo<Bytes>,
    down: OneOrTwo<Bytes>,
    #[serde(default)]
    delay_ms: f64,
    #[serde(default)]
    join_s: Option<OneOrTwo<f64>>,
    #[serde(default)]
    leave_s: Option<OneOrTwo<f64>>,
    #[serde(default)]
    leave_after_complete: Option<After>,
    #[serde(default)]
    leave_when_spread: bool,
}

fn yes() -> bool {
    true
}

/// A quantity as a number or as text.
struct Bytes(u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Bytes, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected bytes: a number, or text such as \"256Mi\" or \"4M\"")]
        enum Form {
            Whole(u64),
            Real(f64),
            Text(String),
        }
        match Form::deserialize(d)? {
            Form::Whole(n) => Ok(Bytes(n)),
            Form::Real(x) if (0.0..9e15).contains(&x) => Ok(Bytes(x.round() as u64)),
            Form::Real(x) => Err(D::Error::custom(format!("{x} is not a size or rate"))),
            Form::Text(t) => parse_quantity(&t).map(Bytes).map_err(D::Error::custom),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected one value or a pair [from, to]")]
enum OneOrTwo<T> {
    One(T),
    Two([T; 2]),
}

impl<T> OneOrTwo<T> {
    fn span(self, number: impl Fn(T) -> f64) -> Span {
        match self {
            OneOrTwo::One(x) => Span::exactly(number(x)),
            OneOrTwo::Two([a, b]) => Span { from: number(a), to: number(b) },
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected true, false or a number of seconds")]
enum After {
    Whether(bool),
    Seconds(f64),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected \"auto\" or a number of slots")]
enum RawSlots {
    Fixed(u32),
    Auto(AutoWord),
}

#[derive(Deserialize)]
enum AutoWord {
    #[serde(rename = "auto")]
    Auto,
}

impl Default for RawSlots {
    fn default() -> RawSlots {
        RawSlots::Auto(AutoWord::Auto)
    }
}

impl Scenario {
    /// One seed and `n` leechers that stay; 256 KiB chunks, 40 neighbours, a round trip of 20 ms.
    pub fn uniform(size: u64, seed_up: f64, peer_up: f64, down: f64, n: u32) -> Scenario {
        let group = |role, count, up| Group {
            role,
            count,
            up: Span::exactly(up),
            down: Span::exactly(down),
            delay_ms: 5.0,
            join_s: Span::exactly(0.0),
            leave_s: None,
            leave_after_complete: None,
            leave_when_spread: false,
        };
        Scenario {
            name: format!("a seed and {n} leechers"),
            size,
            chunk: CHUNK_LEN,
            neighbours: 40,
            slots: Slots::Auto,
            tit_for_tat: true,
            optimistic: true,
            inner_nodes: true,
            max_s: f64::INFINITY,
            queue_ms: 0.0,
            send_buffer: 0,
            groups: vec![group(Role::Seed, 1, seed_up), group(Role::Leecher, n, peer_up)],
        }
    }

    /// Reads the TOML form; every value is checked.
    pub fn parse(text: &str) -> Result<Scenario, ScenarioError> {
        let raw: RawScenario = toml::from_str(text).map_err(|e| ScenarioError::Syntax(one_line(&e)))?;
        let scenario = Scenario {
            name: raw.name,
            size: raw.size.0,
            chunk: u32::try_from(raw.chunk.map_or(u64::from(CHUNK_LEN), |c| c.0)).unwrap_or(u32::MAX),
            neighbours: raw.neighbours.unwrap_or(40),
            slots: match raw.slots {
                RawSlots::Auto(AutoWord::Auto) => Slots::Auto,
                RawSlots::Fixed(n) => Slots::Fixed(n),
            },
            tit_for_tat: raw.tit_for_tat,
            optimistic: raw.optimistic,
            inner_nodes: raw.inner_nodes,
            max_s: raw.max_s.unwrap_or(f64::INFINITY),
            queue_ms: raw.queue_ms,
            send_buffer: raw.send_buffer.map_or(0, |b| b.0),
            groups: raw.group.into_iter().map(resolve).collect(),
        };
        scenario.check()?;
        Ok(scenario)
    }

    /// How many chunks the content has.
    pub fn chunks(&self) -> u32 {
        self.size.div_ceil(u64::from(self.chunk)) as u32
    }

    /// Whether it can be run.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let bad = |key, value: String, rule| Err(ScenarioError::Value { key, value, rule });
        if !(1024..=2 << 20).contains(&self.chunk) {
            return bad("chunk", self.chunk.to_string(), "from 1 KiB to 2 MiB");
        }
        if self.size == 0 || self.size.div_ceil(u64::from(self.chunk)) > MAX_CHUNKS {
            return bad("size", self.size.to_string(), "from 1 byte to 1,048,576 chunks");
        }
        if !(1..=1000).contains(&self.neighbours) {
            return bad("neighbours", self.neighbours.to_string(), "from 1 to 1,000");
        }
        if let Slots::Fixed(n) = self.slots
            && !(1..=1000).contains(&n)
        {
            return bad("slots", n.to_string(), "\"auto\" or from 1 to 1,000");
        }
        if self.max_s.is_nan() || self.max_s <= 0.0 {
            return bad("max_s", self.max_s.to_string(), "above 0");
        }
        if !(0.0..=10_000.0).contains(&self.queue_ms) {
            return bad("queue_ms", self.queue_ms.to_string(), "from 0 to 10,000");
        }
        if self.send_buffer > 1 << 30 {
            return bad("send_buffer", self.send_buffer.to_string(), "at most 1 GiB");
        }
        self.groups.iter().enumerate().try_for_each(|(i, g)| check_group(i + 1, g))?;
        let peers: u64 = self.groups.iter().map(|g| u64::from(g.count)).sum();
        if peers > u64::from(MAX_PEERS) {
            return bad("count", peers.to_string(), "at most 20,000 in all groups together");
        }
        let seeds = self.groups.iter().any(|g| g.role == Role::Seed && g.count > 0);
        if seeds { Ok(()) } else { Err(ScenarioError::NoSeed) }
    }

    /// Every peer with its ranges drawn, group by group; the same for the same seed.
    pub fn peers(&self, seed: u64) -> Vec<PeerPlan> {
        let mut rng = Rng::new(seed).fork(0x5ce);
        let mut peers = Vec::new();
        for g in &self.groups {
            for _ in 0..g.count {
                peers.push(PeerPlan {
                    role: g.role,
                    up: g.up.log_uniform(&mut rng),
                    down: g.down.log_uniform(&mut rng),
                    delay_s: g.delay_ms / 1000.0,
                    join_s: g.join_s.uniform(&mut rng),
                    leave_s: g.leave_s.map(|s| s.uniform(&mut rng)),
                    leave_after_complete: g.leave_after_complete,
                    leave_when_spread: g.leave_when_spread,
                });
            }
        }
        peers
    }
}

fn resolve(raw: RawGroup) -> Group {
    Group {
        role: raw.role,
        count: raw.count.unwrap_or(1),
        up: raw.up.span(|b| b.0 as f64),
        down: raw.down.span(|b| b.0 as f64),
        delay_ms: raw.delay_ms,
        join_s: raw.join_s.map_or(Span::exactly(0.0), |s| s.span(|x| x)),
        leave_s: raw.leave_s.map(|s| s.span(|x| x)),
        leave_after_complete: match raw.leave_after_complete {
            Some(After::Whether(true)) => Some(0.0),
            Some(After::Seconds(s)) => Some(s),
            Some(After::Whether(false)) | None => None,
        },
        leave_when_spread: raw.leave_when_spread,
    }
}

fn check_group(group: usize, g: &Group) -> Result<(), ScenarioError> {
    let bad = |key, value, rule| Err(ScenarioError::Group { group, key, value, rule });
    for (key, span) in [("up", g.up), ("down", g.down)] {
        if !(span.from >= 1.0 && span.to >= span.from && span.to <= 1e12) {
            return bad(key, span.shown(), "from 1 byte to 1 TB a second, a pair in rising order");
        }
    }
    if !(0.0..=60_000.0).contains(&g.delay_ms) {
        return bad("delay_ms", g.delay_ms.to_string(), "from 0 to 60,000");
    }
    for (key, span) in [("join_s", Some(g.join_s)), ("leave_s", g.leave_s)] {
        if let Some(s) = span
            && !(s.from >= 0.0 && s.to >= s.from && s.to <= 1e7)
        {
            return bad(key, s.shown(), "from 0 to 10,000,000 seconds, a pair in rising order");
        }
    }
    match g.leave_after_complete {
        Some(s) if !(0.0..=1e7).contains(&s) => {
            bad("leave_after_complete", s.to_string(), "true, false or seconds from 0 to 10,000,000")
        }
        _ => Ok(()),
    }
}

/// What is wrong and where, without the excerpt that spans several lines.
fn one_line(e: &toml::de::Error) -> String {
    let full = e.to_string();
    let place = full.lines().next().and_then(|l| l.strip_prefix("TOML parse error at "));
    let message = e.message().replace('\n', " ");
    match place {
        Some(place) => format!("{place}: {message}"),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        size = "1Mi"
        [[group]]
        role = "seed"
        up = "4M"
        down = 8000000
        [[group]]
        role = "leecher"
        count = 50
        up = ["250k", "8M"]
        down = "8M"
        delay_ms = 5
        join_s = [0, 30]
        leave_after_complete = true
    "#;

    #[test]
    fn defaults_are_the_projects() {
        let s = Scenario::parse(SMALL).unwrap();
        assert_eq!((s.chunk, s.neighbours, s.slots, s.chunks()), (262_144, 40, Slots::Auto, 4));
        assert!(s.tit_for_tat && s.optimistic && s.inner_nodes);
        assert_eq!(s.groups[0].count, 1);
        assert_eq!(s.groups[1].leave_after_complete, Some(0.0));
    }

    #[test]
    fn draws_stay_in_their_ranges_and_repeat() {
        let s = Scenario::parse(SMALL).unwrap();
        let peers = s.peers(3);
        assert_eq!(peers, s.peers(3));
        assert_ne!(peers, s.peers(4));
        assert_eq!(peers.len(), 51);
        for p in &peers[1..] {
            assert!((250_000.0..=8_000_000.1).contains(&p.up) && (0.0..30.0).contains(&p.join_s));
            assert_eq!((p.down, p.delay_s), (8e6, 0.005));
        }
    }

    #[test]
    fn every_mistake_is_named() {
        for (from, to, says) in [
            ("\"1Mi\"", "\"1 Mo\"", "`1 Mo` is not a size"),
            ("\"1Mi\"", "0", "`size` is 0"),
            ("\"1Mi\"", "\"1000000G\"", "`size`"),
            ("size =", "sise =", "sise"),
            ("\"seed\"", "\"leecher\"", "no group with role = \"seed\""),
            ("\"seed\"", "\"king\"", "king"),
            ("count = 50", "count = 50000", "at most 20,000"),
            ("count = 50", "count = -1", "line 9"),
            ("[\"250k\", \"8M\"]", "[\"8M\", \"250k\"]", "group 2: `up` is [8000000, 250000]"),
            ("[\"250k\", \"8M\"]", "0", "group 2: `up` is 0"),
            ("delay_ms = 5", "delay_ms = -5", "group 2: `delay_ms` is -5"),
            ("[0, 30]", "[30, 0]", "group 2: `join_s` is [30, 0]"),
            ("[0, 30]", "\"soon\"", "a pair"),
            ("= true", "= \"never\"", "true, false or a number"),
            ("size =", "slots = 0\nsize =", "`slots` is 0"),
            ("size =", "chunk = 100\nsize =", "`chunk` is 100"),
            ("size =", "neighbours = 0\nsize =", "`neighbours` is 0"),
            ("size =", "size = = 3", "line 2"),
            ("size =", "queue_ms = -1\nsize =", "`queue_ms` is -1"),
            ("size =", "send_buffer = \"2G\"\nsize =", "`send_buffer` is 2000000000"),
        ] {
            let error = Scenario::parse(&SMALL.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
