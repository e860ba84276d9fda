//! A node's settings: what a config file may say, and what the node is started with.
//!
//! Layers, the later over the earlier: the defaults (`config/default.toml`, which a test keeps equal to
//! [`Config::default`]), a config file, the command line.

use std::path::PathBuf;
use std::time::Duration;

use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};

mod values;

pub use values::{
    Bootstrap, Change, ListenAddr, LogLevel, NetworkName, PeerAddr, Providing, Rate, Size, Slots, parse_bytes,
};

/// The public IPFS network's name.
pub const AMINO: &str = "amino";

/// The bootstrap peers that the public network's operators publish.
pub const AMINO_BOOTSTRAP: [&str; 7] = [
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmbLHAnMoJPWSCR5Zhtx6BHJX9KiKNN6tpvbUcqanj75Nb",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmcZf59bWwK5XFi76CZX8cbJ4BhTzzA3gU1ZjYZcYW3dwt",
    "/dnsaddr/va1.bootstrap.libp2p.io/p2p/12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8",
    "/ip4/104.131.131.82/tcp/4001/p2p/QmaCpDMGvV2BGHeYERUEnRQAwe3N8SzbUtfsmvsqQLuvuJ",
    "/ip4/104.131.131.82/udp/4001/quic-v1/p2p/QmaCpDMGvV2BGHeYERUEnRQAwe3N8SzbUtfsmvsqQLuvuJ",
];

const LISTEN: [&str; 4] = [
    "/ip4/0.0.0.0/tcp/4201",
    "/ip4/0.0.0.0/udp/4201/quic-v1",
    "/ip6/::/tcp/4201",
    "/ip6/::/udp/4201/quic-v1",
];

/// A setting that cannot be used. All are the user's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("unknown setting `{key}`{}", nearest.as_ref().map_or(String::new(), |n| format!("; did you mean `{n}`?")))]
    Unknown { key: String, nearest: Option<String> },
    #[error("{0}")]
    Invalid(String),
}

/// What a node is started with. [`NodeConfig::default`] is offline, in the current folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its lock is held by the caller ([`super::lock::DataDir`]).
    pub data_dir: PathBuf,
    pub listen: Vec<Multiaddr>,
    /// Where others reach us, told and not tested.
    pub external: Vec<Multiaddr>,
    /// Where a port is taken, take any instead of failing.
    pub any_port: bool,
    /// Each ends in /p2p/ID.
    pub bootstrap: Vec<Multiaddr>,
    /// Peers to ask first; each ends in /p2p/ID.
    pub peers: Vec<Multiaddr>,
    pub mdns: bool,
    /// After so long without progress a fetch says why.
    pub stuck_after: Duration,
    /// Speak the exchange. Off only to test and measure Bitswap between dunlin nodes; no file sets it.
    pub exchange: bool,
    /// What the DHT is told of contents.
    pub providing: Providing,
    /// False: no network at all (`add`, `list`, `verify`, `rm` without a daemon).
    pub network: bool,
    /// [`AMINO`], or a network of its own.
    pub network_name: String,
    /// Bytes a second; `None`: unlimited.
    pub upload: Option<u64>,
    /// Bytes a second; `None`: unlimited.
    pub download: Option<u64>,
    /// Upload slots; `None`: as the upload rate suggests.
    pub slots: Option<u32>,
    /// Quota of the block cache.
    pub cache_bytes: u64,
    pub max_connections: u32,
}

impl Default for NodeConfig {
    fn default() -> NodeConfig {
        Config::default().node(PathBuf::from("."), false)
    }
}

/// The settings that a file may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub network: NetworkConfig,
    pub limits: LimitsConfig,
    pub store: StoreConfig,
    pub log: LogConfig,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    pub name: NetworkName,
    pub listen: Vec<ListenAddr>,
    pub external: Vec<ListenAddr>,
    pub bootstrap: Bootstrap,
    pub peers: Vec<PeerAddr>,
    pub mdns: bool,
    pub providing: Providing,
    pub max_connections: u32,
    /// Seconds.
    pub stuck_after: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    pub upload: Rate,
    pub download: Rate,
    pub slots: Slots,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    pub cache: Size,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    pub level: LogLevel,
}

impl Default for NetworkConfig {
    fn default() -> NetworkConfig {
        let listen = LISTEN.iter().map(|a| a.parse().expect("a constant, parsed by a test"));
        NetworkConfig {
            name: NetworkName(AMINO.to_owned()),
            listen: listen.collect(),
            external: Vec::new(),
            bootstrap: Bootstrap::OfTheNetwork,
            peers: Vec::new(),
            mdns: true,
            providing: Providing::Roots,
            max_connections: 256,
            stuck_after: 30,
        }
    }
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig { cache: Size(1 << 30) }
    }
}

impl Config {
    /// Reads a config file's text over the defaults.
    ///
    /// # Errors
    /// An unknown key (with the nearest known one), a value of the wrong kind, or broken TOML, each as one
    /// line with the setting or the line number.
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        let at = |e: toml::de::Error| ConfigError::Invalid(located(&e, text));
        let table: toml::Table = toml::from_str(text).map_err(at)?;
        let known = known_keys();
        let mut keys = Vec::new();
        collect_keys("", &table, &known, &mut keys);
        for key in &keys {
            if !known.contains(key) {
                return Err(ConfigError::Unknown { key: key.clone(), nearest: nearest(key, &known) });
            }
        }
        let config: Config = toml::from_str(text).map_err(at)?;
        config.check()?;
        Ok(config)
    }

    /// # Errors
    /// A value that cannot work, whatever the others are.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.network.max_connections == 0 {
            return Err(ConfigError::Invalid("network.max_connections must be at least 1".to_owned()));
        }
        if self.network.listen.is_empty() {
            return Err(ConfigError::Invalid(
                "network.listen is empty; give an address, such as \"/ip4/0.0.0.0/tcp/4201\"".to_owned(),
            ));
        }
        Ok(())
    }

    /// The settings as a config file, with `bootstrap = "default"` replaced by what it stands for.
    pub fn to_toml(&self) -> String {
        let mut shown = self.clone();
        let peers = self.bootstrap().into_iter().map(PeerAddr).collect();
        shown.network.bootstrap = Bootstrap::Peers(peers);
        toml::to_string_pretty(&shown).expect("tables, strings, numbers and lists of strings only")
    }

    /// The bootstrap peers in force.
    pub fn bootstrap(&self) -> Vec<Multiaddr> {
        match &self.network.bootstrap {
            Bootstrap::Peers(peers) => peers.iter().map(|p| p.0.clone()).collect(),
            Bootstrap::OfTheNetwork if self.network.name.0 == AMINO => {
                AMINO_BOOTSTRAP.iter().map(|a| a.parse().expect("a constant, parsed by a test")).collect()
            }
            Bootstrap::OfTheNetwork => Vec::new(),
        }
    }

    /// What the node is started with.
    pub fn node(&self, data_dir: PathBuf, network: bool) -> NodeConfig {
        NodeConfig {
            data_dir,
            listen: self.network.listen.iter().map(|a| a.0.clone()).collect(),
            external: self.network.external.iter().map(|a| a.0.clone()).collect(),
            any_port: false,
            bootstrap: self.bootstrap(),
            peers: self.network.peers.iter().map(|a| a.0.clone()).collect(),
            mdns: self.network.mdns,
            stuck_after: Duration::from_secs(self.network.stuck_after.into()),
            exchange: true,
            providing: self.network.providing,
            network,
            network_name: self.network.name.0.clone(),
            upload: self.limits.upload.0,
            download: self.limits.download.0,
            slots: self.limits.slots.0,
            cache_bytes: self.store.cache.0,
            max_connections: self.network.max_connections,
        }
    }
}

/// One line: where, and what. (The crate's own text spans several lines and quotes the file.)
fn located(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    match error.span() {
        Some(span) => {
            let before = text.get(..span.start).unwrap_or(text);
            format!("line {}: {message}", before.matches('\n').count() + 1)
        }
        None => message,
    }
}

/// `section.key` of every setting, and the sections themselves.
fn known_keys() -> Vec<String> {
    let defaults = toml::Table::try_from(Config::default()).expect("the defaults are plain TOML");
    let mut keys = Vec::new();
    for (section, value) in &defaults {
        keys.push(section.clone());
        let settings = value.as_table().into_iter().flat_map(toml::Table::keys);
        keys.extend(settings.map(|key| format!("{section}.{key}")));
    }
    keys
}

/// The keys of `table`, dotted; what stands beneath an unknown section is not looked at.
fn collect_keys(prefix: &str, table: &toml::Table, known: &[String], out: &mut Vec<String>) {
    for (key, value) in table {
        let dotted = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if let Some(inner) = value.as_table().filter(|_| known.contains(&dotted)) {
            collect_keys(&dotted, inner, known, out);
        }
        out.push(dotted);
    }
}

/// The known key that looks most like `key`, if any is near enough to be meant. Only the last part counts
/// when it is written in the wrong section.
fn nearest(key: &str, known: &[String]) -> Option<String> {
    let leaf = |k: &str| k.rsplit('.').next().unwrap_or(k).to_owned();
    let score = |k: &String| edit_distance(key, k).min(edit_distance(&leaf(key), &leaf(k)) + 1);
    let best = known.iter().min_by_key(|k| score(k))?;
    (score(best) <= 1 + leaf(key).chars().count() / 3).then(|| best.clone())
}

/// Levenshtein's distance. Keys longer than 64 characters are cut: nobody mistypes that much.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

    fn error(text: &str) -> String {
        Config::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_default_file_says_what_the_defaults_are() {
        assert_eq!(Config::parse(DEFAULT_TOML).unwrap(), Config::default());
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn the_default_file_names_every_setting() {
        let table: toml::Table = toml::from_str(DEFAULT_TOML).unwrap();
        let known = known_keys();
        let mut keys = Vec::new();
        collect_keys("", &table, &known, &mut keys);
        keys.sort();
        let mut known = known;
        known.sort();
        assert_eq!(keys, known);
    }

    #[test]
    fn what_config_prints_can_be_read_again() {
        let text = "[network]\nname = \"42\"\n[limits]\nupload = \"1.5M\"\nslots = 7\n";
        let config = Config::parse(text).unwrap();
        let again = Config::parse(&config.to_toml()).unwrap();
        assert_eq!(again.limits, config.limits);
        assert_eq!(again.limits.upload, Rate(Some(1_500_000)));
        assert_eq!(again.network.bootstrap, Bootstrap::Peers(Vec::new()));
        let amino = Config::parse(&Config::default().to_toml()).unwrap();
        assert_eq!(amino.bootstrap(), Config::default().bootstrap());
    }

    #[test]
    fn bootstrap_is_the_networks_own_unless_given() {
        assert_eq!(Config::default().bootstrap().len(), AMINO_BOOTSTRAP.len());
        assert!(Config::parse("[network]\nname = \"mine\"").unwrap().bootstrap().is_empty());
        assert!(Config::parse("[network]\nbootstrap = []").unwrap().bootstrap().is_empty());
        let one = format!("[network]\nname = \"mine\"\nbootstrap = [\"{}\"]", AMINO_BOOTSTRAP[0]);
        assert_eq!(Config::parse(&one).unwrap().bootstrap().len(), 1);
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let cases = [
            ("[network]\nlissten = []", "unknown setting `network.lissten`; did you mean `network.listen`?"),
            ("[limit]\nupload = 1", "unknown setting `limit`; did you mean `limits`?"),
            ("[network]\nupload = 1", "unknown setting `network.upload`; did you mean `limits.upload`?"),
            ("uplaod = 1", "unknown setting `uplaod`; did you mean `limits.upload`?"),
            ("[network]\nzzzzzzzz = 1", "unknown setting `network.zzzzzzzz`"),
        ];
        for (text, want) in cases {
            assert_eq!(error(text), want);
        }
    }

    #[test]
    fn a_wrong_value_is_one_line_with_its_line_number() {
        let cases = [
            ("[network]\nmdns = \"yes\"", "line 2"),
            ("[network]\nlisten = [\"/ip4/0.0.0.0\"]", "/tcp/4201"),
            ("[network]\nlisten = []", "network.listen is empty"),
            ("[network]\npeers = [\"/ip4/192.0.2.1/tcp/1\"]", "/p2p/ID"),
            ("[network]\nbootstrap = \"none\"", "\"default\" or a list"),
            ("[network]\nmax_connections = 0", "at least 1"),
            ("[limits]\nupload = \"10m\"", "10M"),
            ("[limits]\nupload = 0", "unlimited"),
            ("[limits]\nslots = -1", "number"),
            ("[log]\nlevel = \"loud\"", "error, warn"),
            ("network = 1", "line 1"),
            ("[network", "line 1"),
        ];
        for (text, want) in cases {
            let error = error(text);
            assert!(error.contains(want), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{text:?}: {error}");
        }
    }
}
