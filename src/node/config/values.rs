//! The kinds of values that settings have, each read from and written as text.

use std::fmt;
use std::str::FromStr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ConfigError;

/// Reads a number of bytes: `k`, `M`, `G`, `T` are powers of 1,000, `Ki`, `Mi`, `Gi`, `Ti` of 1,024.
///
/// # Errors
/// Text that is no such number, or one above 2^63.
pub fn parse_bytes(text: &str) -> Result<u64, ConfigError> {
    let bad = || {
        let what = "is no number of bytes; write for instance 500k, 10M (powers of 1,000) or 1Gi (1,024)";
        ConfigError::Invalid(format!("`{text}` {what}"))
    };
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let factor: u64 = match unit.trim_start() {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(bad()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && (fraction.is_empty() || fraction.len() > 9)) {
        return Err(bad());
    }
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let scale = 10_u128.pow(fraction.len() as u32); // at most 9 digits, as checked above
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| bad())? };
    let bytes = u128::from(whole) * u128::from(factor) + part * u128::from(factor) / scale;
    u64::try_from(bytes).ok().filter(|&b| b <= 1 << 63).ok_or_else(bad)
}

/// The public network or one of its own, by name: `[a-z0-9-]`, at most 32 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkName(pub String);

impl FromStr for NetworkName {
    type Err = ConfigError;

    fn from_str(s: &str) -> Result<NetworkName, ConfigError> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if s.is_empty() || s.len() > 32 || !s.chars().all(fits) {
            return Err(ConfigError::Invalid(format!(
                "`{s}` is no network name; take amino, or at most 32 of a-z, 0-9 and -"
            )));
        }
        Ok(NetworkName(s.to_owned()))
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An address to listen on: IP, then TCP or QUIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddr(pub Multiaddr);

impl FromStr for ListenAddr {
    type Err = ConfigError;

    fn from_str(s: &str) -> Result<ListenAddr, ConfigError> {
        let right = "write for instance /ip4/0.0.0.0/tcp/4201 or /ip4/0.0.0.0/udp/4201/quic-v1";
        let addr: Multiaddr =
            s.parse().map_err(|e| ConfigError::Invalid(format!("`{s}` is no multiaddr ({e}); {right}")))?;
        let parts: Vec<_> = addr.iter().collect();
        match parts.as_slice() {
            [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Tcp(_)]
            | [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Udp(_), Protocol::QuicV1] => {
                Ok(ListenAddr(addr))
            }
            _ => Err(ConfigError::Invalid(format!("cannot listen on `{s}`; {right}"))),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A peer's address, ending in its ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddr(pub Multiaddr);

impl FromStr for PeerAddr {
    type Err = ConfigError;

    fn from_str(s: &str) -> Result<PeerAddr, ConfigError> {
        let right = "write for instance /ip4/192.0.2.7/tcp/4201/p2p/12D3KooW...";
        let addr: Multiaddr =
            s.parse().map_err(|e| ConfigError::Invalid(format!("`{s}` is no multiaddr ({e}); {right}")))?;
        match addr.iter().last() {
            Some(Protocol::P2p(_)) => Ok(PeerAddr(addr)),
            _ => Err(ConfigError::Invalid(format!("`{s}` does not end in /p2p/ID; {right}"))),
        }
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `"default"`, or a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    OfTheNetwork,
    Peers(Vec<PeerAddr>),
}

impl Serialize for Bootstrap {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Bootstrap::OfTheNetwork => s.serialize_str("default"),
            Bootstrap::Peers(peers) => peers.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Bootstrap {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Bootstrap, D::Error> {
        match OneOrMany::deserialize(d).map_err(|_| D::Error::custom("expected \"default\" or a list"))? {
            OneOrMany::One(s) if s == "default" => Ok(Bootstrap::OfTheNetwork),
            OneOrMany::One(s) => {
                Err(D::Error::custom(format!("expected \"default\" or a list, not \"{s}\"")))
            }
            OneOrMany::Many(list) => {
                let peers = list.iter().map(|s| s.parse().map_err(D::Error::custom));
                Ok(Bootstrap::Peers(peers.collect::<Result<_, _>>()?))
            }
        }
    }
}

/// What of a content the DHT is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Providing {
    /// The root.
    #[default]
    Roots,
    /// Every block.
    All,
    None,
}

impl FromStr for Providing {
    type Err = ConfigError;

    fn from_str(s: &str) -> Result<Providing, ConfigError> {
        match s {
            "roots" => Ok(Providing::Roots),
            "all" => Ok(Providing::All),
            "none" => Ok(Providing::None),
            _ => Err(ConfigError::Invalid(format!("`{s}` is no way to provide; take roots, all or none"))),
        }
    }
}

impl fmt::Display for Providing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Providing::Roots => "roots",
            Providing::All => "all",
            Providing::None => "none",
        })
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Bytes a second; `None` is `"unlimited"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

impl FromStr for Rate {
    type Err = ConfigError;

    fn from_str(s: &str) -> Result<Rate, ConfigError> {
        match s {
            "unlimited" => Ok(Rate(None)),
            _ => match parse_bytes(s)? {
                0 => {
                    Err(ConfigError::Invalid("a rate of 0 would stop everything; write \"unlimited\"".into()))
                }
                n => Ok(Rate(Some(n))),
            },
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(n) => n.fmt(f),
            None => f.write_str("unlimited"),
        }
    }
}

/// Upload slots; `None` is `"auto"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots(pub Option<u32>);

impl FromStr for Slots {
    type Err = ConfigError;

    fn from_str(s: &str) -> Result<Slots, ConfigError> {
        match (s, s.parse::<u32>()) {
            ("auto", _) => Ok(Slots(None)),
            (_, Ok(n @ 1..=10_000)) => Ok(Slots(Some(n))),
            _ => {
                Err(ConfigError::Invalid(format!("`{s}` slots: write \"auto\" or a number from 1 to 10000")))
            }
        }
    }
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(n) => n.fmt(f),
            None => f.write_str("auto"),
        }
    }
}

/// What a setting is changed to while the node runs: a value, or back to what the settings file says (`"default"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<T> {
    Default,
    To(T),
}

impl<T: FromStr> FromStr for Change<T> {
    type Err = T::Err;

    fn from_str(s: &str) -> Result<Change<T>, T::Err> {
        if s == "default" { Ok(Change::Default) } else { s.parse().map(Change::To) }
    }
}

impl<T: fmt::Display> fmt::Display for Change<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Default => f.write_str("default"),
            Change::To(value) => value.fmt(f),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = ConfigError;

    fn from_str(s: &str) -> Result<Size, ConfigError> {
        parse_bytes(s).map(Size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How much is told on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    #[default]
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub const ALL: [LogLevel; 5] =
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
}

impl FromStr for LogLevel {
    type Err = ConfigError;

    fn from_str(s: &str) -> Result<LogLevel, ConfigError> {
        let found = LogLevel::ALL.into_iter().find(|l| l.to_string() == s);
        found.ok_or_else(|| {
            ConfigError::Invalid(format!("`{s}` is no log level; take error, warn, info, debug or trace"))
        })
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        })
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Text(String),
    Number(u64),
}

/// Written as their text (a number where it is one), read from text or number by their `FromStr`.
macro_rules! as_text {
    ($($t:ty),+) => {$(
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                let text = self.to_string();
                match text.parse::<i64>() {
                    Ok(n) => s.serialize_i64(n),
                    Err(_) => s.serialize_str(&text),
                }
            }
        }

        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<$t, D::Error> {
                let value = TextOrNumber::deserialize(d).map_err(|_| D::Error::custom("expected a text or a number"))?;
                let text = match value {
                    TextOrNumber::Text(text) => text,
                    TextOrNumber::Number(n) => n.to_string(),
                };
                text.parse().map_err(D::Error::custom)
            }
        }
    )+};
}

as_text!(
    NetworkName,
    ListenAddr,
    PeerAddr,
    Rate,
    Slots,
    Size,
    LogLevel,
    Providing,
    Change<Rate>,
    Change<Slots>
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_in_both_kinds_of_units() {
        let cases = [
            ("0", 0),
            ("500", 500),
            ("5k", 5_000),
            ("1.5M", 1_500_000),
            ("2 G", 2_000_000_000),
            ("1Ki", 1_024),
            ("0.5Mi", 524_288),
            ("3Gi", 3 << 30),
            ("1Ti", 1 << 40),
        ];
        for (text, want) in cases {
            assert_eq!(parse_bytes(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn what_is_no_number_of_bytes_is_refused_with_what_would_be() {
        for text in ["", "k", "1m", "1K", "1KB", "-1", "1.", ".5", "1.2.3", "1e9", "99999999999T", "0x10"] {
            let error = parse_bytes(text).unwrap_err().to_string();
            assert!(error.contains("10M"), "{text}: {error}");
        }
    }

    #[test]
    fn listening_takes_tcp_and_quic_only() {
        for ok in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip6/::/tcp/4201"] {
            ok.parse::<ListenAddr>().unwrap();
        }
        for bad in
            ["4201", "/ip4/1.2.3.4", "/dns4/example.org/tcp/1", "/ip4/1.2.3.4/udp/1", "/ip4/1.2.3.4/tcp/1/ws"]
        {
            assert!(bad.parse::<ListenAddr>().unwrap_err().to_string().contains("/tcp/4201"), "{bad}");
        }
    }
}
