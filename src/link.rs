//! Links: every way to write one, and the one way to print it.
//!
//! Read are a bare CID, `/ipfs/CID/path`, `ipfs://CID/path`, gateway URLs (`https://host/ipfs/CID/path`
//! and `https://CID.ipfs.host/path`) and `magnet:?xt=urn:cid:CID` (or `urn:ipfs:CID`). Printed is the
//! magnet form:
//!
//! | parameter | meaning |
//! |---|---|
//! | `xt` | the content, `urn:cid:CID`, followed by `/path` if the link leads below it |
//! | `dn` | the name it was shared under |
//! | `xl` | its bytes, a hint |
//! | `x.pe` | a multiaddr with `/p2p/ID`, a peer to ask first; repeatable |
//! | `ws` | an HTTP(S) source; repeatable |

use std::fmt;
use std::str::FromStr;

use cid::multibase::{self, Base};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::content::dagpb::read_cid;
use crate::content::names::MAX_NAME_LEN;
use crate::content::{Cid, DAG_PB, RAW};

/// The longest text that is read as a link, in bytes.
pub const MAX_LINK_LEN: usize = 64 << 10;

/// Peers that are printed in a link.
pub const MAX_PRINTED_PEERS: usize = 4;

/// The longest text that is read as a CID.
const MAX_CID_TEXT: usize = 1_024;

/// Everything but what a query may contain and still be read as one word: unreserved characters, and
/// `/` and `:`, which multiaddrs and URLs are full of.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/').remove(b':');

/// Why a text is not a link: what is wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("the link is longer than 64 KiB")]
    TooLong,
    #[error("the link is empty; give a CID, /ipfs/CID, ipfs://CID, a gateway URL or a magnet link")]
    Empty,
    #[error("`{0}` is not a CID, such as bafy... or Qm...")]
    BadCid(String),
    #[error("CID {cid} has codec 0x{codec:x}; only raw (bafk...) and dag-pb (bafy..., Qm...) can be fetched")]
    BadCodec { cid: String, codec: u64 },
    #[error("`{0}` names no CID; gateway URLs are https://HOST/ipfs/CID or https://CID.ipfs.HOST")]
    NotGateway(String),
    #[error("`{0}:` links are not known; give a CID, /ipfs/CID, ipfs://CID, a gateway URL or a magnet link")]
    Scheme(String),
    #[error("mutable names (/ipns/) are not supported; give /ipfs/CID")]
    Ipns,
    #[error("a magnet link begins with `magnet:?` and has xt=urn:cid:CID")]
    NotMagnet,
    #[error("the magnet link has no xt parameter; it needs xt=urn:cid:CID")]
    NoTopic,
    #[error("the magnet link's xt is `{0}`; dunlin needs urn:cid:CID or urn:ipfs:CID")]
    BadTopic(String),
    #[error("the magnet link has two xt parameters that differ; it can name one content only")]
    TwoTopics,
    #[error("parameter {0} appears twice; it may appear once")]
    Repeated(&'static str),
    #[error(
        "parameter {0} is not well percent-encoded; a `%` is followed by two hexadecimal digits, and the whole is UTF-8"
    )]
    BadEncoding(String),
    #[error("parameter xl is `{0}`; it is a number of bytes")]
    BadSize(String),
    #[error("parameter x.pe is `{0}`; it is a multiaddr such as /ip4/192.0.2.1/tcp/4101/p2p/12D3...")]
    BadPeer(String),
    #[error("parameter ws is `{0}`; it is an http:// or https:// URL")]
    BadSource(String),
}

/// A content, and hints on where to get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub cid: Cid,
    /// A path beneath the root: names joined by `/`, none empty, no slash at its ends; never empty.
    pub path: Option<String>,
    /// `dn`: the name it was shared under. Anybody's text: see [`safe_name`].
    pub name: Option<String>,
    /// `xl`: bytes, a hint.
    pub size: Option<u64>,
    /// `x.pe`: multiaddrs that end in `/p2p/ID`. All that were read; the first four are printed.
    pub peers: Vec<String>,
    /// `ws`: HTTP(S) sources.
    pub sources: Vec<String>,
}

impl From<Cid> for Link {
    fn from(cid: Cid) -> Link {
        Link { cid, path: None, name: None, size: None, peers: Vec::new(), sources: Vec::new() }
    }
}

impl Link {
    pub fn new(cid: Cid) -> Link {
        Link::from(cid)
    }

    /// Reads any form.
    pub fn parse(text: &str) -> Result<Link, LinkError> {
        if text.len() > MAX_LINK_LEN {
            return Err(LinkError::TooLong);
        }
        let text = text.trim();
        if text.is_empty() {
            return Err(LinkError::Empty);
        }
        let Some((scheme, rest)) = split_scheme(text) else { return parse_path(text) };
        match scheme.to_ascii_lowercase().as_str() {
            "magnet" => parse_magnet(rest),
            "http" | "https" => parse_gateway(text, rest),
            "ipfs" | "dweb" => parse_ipfs(rest),
            "ipns" => Err(LinkError::Ipns),
            _ => Err(LinkError::Scheme(shown(scheme))),
        }
    }
}

impl FromStr for Link {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Link, LinkError> {
        Link::parse(text)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = |text| utf8_percent_encode(text, ENCODED);
        write!(f, "magnet:?xt=urn:cid:{}", self.cid)?;
        if let Some(path) = &self.path {
            write!(f, "/{}", encode(path))?;
        }
        if let Some(name) = &self.name {
            write!(f, "&dn={}", encode(name))?;
        }
        if let Some(size) = self.size {
            write!(f, "&xl={size}")?;
        }
        for peer in self.peers.iter().take(MAX_PRINTED_PEERS) {
            write!(f, "&x.pe={}", encode(peer))?;
        }
        self.sources.iter().try_for_each(|source| write!(f, "&ws={}", encode(source)))
    }
}

/// The part before the first `:`, if it can be a scheme.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    (!scheme.is_empty() && scheme.chars().all(legal)).then_some((scheme, rest))
}

/// `CID`, `CID/path`, `/ipfs/CID/path`, `ipfs/CID/path`: nothing in them is percent-encoded.
fn parse_path(text: &str) -> Result<Link, LinkError> {
    let rest = text.strip_prefix('/').unwrap_or(text);
    match rest.split_once('/') {
        Some(("ipfs", rest)) => parse_cid_path(rest),
        Some(("ipns", _)) => Err(LinkError::Ipns),
        _ => parse_cid_path(text),
    }
}

fn parse_cid_path(text: &str) -> Result<Link, LinkError> {
    let (cid, path) = text.split_once('/').unwrap_or((text, ""));
    Ok(Link { path: clean_path(path), ..Link::new(parse_cid(cid)?) })
}

/// What follows `ipfs:`, as a URL: percent-encoded, with perhaps a query and a fragment.
fn parse_ipfs(rest: &str) -> Result<Link, LinkError> {
    let rest = rest.trim_start_matches('/');
    let rest = rest.strip_prefix("ipfs/").unwrap_or(rest);
    parse_cid_path(&decode("path", without_query(rest))?)
}

fn parse_gateway(url: &str, rest: &str) -> Result<Link, LinkError> {
    let rest = without_query(rest.strip_prefix("//").unwrap_or(rest));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = decode("path", path)?;
    if path == "ipns" || path.starts_with("ipns/") || host.contains(".ipns.") {
        return Err(LinkError::Ipns);
    }
    if let Some(rest) = path.strip_prefix("ipfs/") {
        return parse_cid_path(rest);
    }
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    match host.split_once(".ipfs.") {
        Some((cid, _)) => Ok(Link { path: clean_path(&path), ..Link::new(parse_cid(cid)?) }),
        None => Err(LinkError::NotGateway(shown(url))),
    }
}

fn parse_magnet(rest: &str) -> Result<Link, LinkError> {
    let query = rest.strip_prefix('?').ok_or(LinkError::NotMagnet)?;
    let mut topic: Option<(Cid, Option<String>)> = None;
    let (mut name, mut size, mut peers, mut sources) = (None, None, Vec::new(), Vec::new());
    for parameter in query.split('&') {
        let (key, raw) = parameter.split_once('=').unwrap_or((parameter, ""));
        match key {
            "xt" => {
                let new = parse_topic(&decode(key, raw)?)?;
                if topic.get_or_insert_with(|| new.clone()) != &new {
                    return Err(LinkError::TwoTopics);
                }
            }
            "dn" => once(&mut name, "dn", decode(key, raw)?)?,
            "xl" => {
                let value = decode(key, raw)?;
                let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
                let bytes = value.parse().ok().filter(|_| digits);
                once(&mut size, "xl", bytes.ok_or_else(|| LinkError::BadSize(shown(&value)))?)?;
            }
            "x.pe" => peers.push(check_peer(decode(key, raw)?)?),
            "ws" => sources.push(check_source(decode(key, raw)?)?),
            // Unknown ones are ignored, whatever they are.
            _ => {}
        }
    }
    let (cid, path) = topic.ok_or(LinkError::NoTopic)?;
    Ok(Link { cid, path, name: name.filter(|n: &String| !n.is_empty()), size, peers, sources })
}

fn once<T>(field: &mut Option<T>, name: &'static str, value: T) -> Result<(), LinkError> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(LinkError::Repeated(name)),
    }
}

/// `urn:cid:CID` or `urn:ipfs:CID`, with perhaps a path.
fn parse_topic(text: &str) -> Result<(Cid, Option<String>), LinkError> {
    let bad = || LinkError::BadTopic(shown(text));
    let mut parts = text.splitn(3, ':');
    let is = |part: Option<&str>, names: &[&str]| {
        part.is_some_and(|part| names.iter().any(|name| part.eq_ignore_ascii_case(name)))
    };
    if !is(parts.next(), &["urn"]) || !is(parts.next(), &["cid", "ipfs"]) {
        return Err(bad());
    }
    let link = parse_cid_path(parts.next().ok_or_else(bad)?)?;
    Ok((link.cid, link.path))
}

fn parse_cid(text: &str) -> Result<Cid, LinkError> {
    let bad = || LinkError::BadCid(shown(text));
    // Base58 takes quadratic time; no CID of 100 bytes is longer in any base.
    if text.len() > MAX_CID_TEXT || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad());
    }
    // By hand, since the `cid` crate's parser passes over bytes behind the CID.
    let bytes = if text.starts_with("Qm") {
        Base::Base58Btc.decode(text).map_err(|_| bad())?
    } else {
        multibase::decode(text).map_err(|_| bad())?.1
    };
    let cid = read_cid(&bytes).map_err(|_| bad())?;
    if !matches!(cid.codec(), RAW | DAG_PB) {
        return Err(LinkError::BadCodec { cid: cid.to_string(), codec: cid.codec() });
    }
    Ok(cid)
}

/// A multiaddr's shape only; what it means is the network's to say.
fn check_peer(addr: String) -> Result<String, LinkError> {
    let id = addr.rsplit_once("/p2p/").map(|(_, id)| id);
    let shaped = id.is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric()));
    if shaped && addr.starts_with('/') && !addr.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Ok(addr)
    } else {
        Err(LinkError::BadPeer(shown(&addr)))
    }
}

fn check_source(url: String) -> Result<String, LinkError> {
    let known = |scheme: &str| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let host = url.split_once("://").filter(|(scheme, _)| known(scheme)).map(|(_, host)| host);
    let named = host.is_some_and(|host| !host.is_empty() && !host.starts_with('/'));
    if named && !url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Ok(url)
    } else {
        Err(LinkError::BadSource(shown(&url)))
    }
}

fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

/// Without empty names; `None` if nothing is left.
fn clean_path(path: &str) -> Option<String> {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    (!names.is_empty()).then(|| names.join("/"))
}

/// Strict percent-decoding; `+` is a plus.
fn decode(parameter: &str, text: &str) -> Result<String, LinkError> {
    let bad = || LinkError::BadEncoding(shown(parameter));
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).ok_or_else(bad);
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes().iter();
    while let Some(&byte) = bytes.next() {
        out.push(if byte == b'%' { (hex(bytes.next())? << 4 | hex(bytes.next())?) as u8 } else { byte });
    }
    String::from_utf8(out).map_err(|_| bad())
}

/// A piece of somebody's text for a message of one line: no control characters, not long.
fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        out.push_str("...");
    }
    out
}

/// A file name made of a link's `dn`: its last component, control characters replaced by `_`. `None` if
/// nothing is left that could be a name, or it is longer than 255 bytes.
pub fn safe_name(dn: &str) -> Option<String> {
    let last = dn.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = last.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
    let usable = !matches!(name.as_str(), "" | "." | "..") && name.len() <= MAX_NAME_LEN;
    usable.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::block::cid_of;
    use proptest::prelude::*;

    const V0: &str = "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH";
    const V1: &str = "bafybeib242caujrty4ppqkgepjboaxzk5j4kbypxfv4hrdhgpdzynewxzy";

    fn error(text: &str) -> String {
        let message = Link::parse(text).expect_err(text).to_string();
        assert!(!message.contains('\n') && message.len() < 300, "{message}");
        message
    }

    #[test]
    fn every_form_of_a_link_is_read() {
        for cid in [V0, V1] {
            for (form, path) in [
                ("{}", None),
                (" {}\n", None),
                ("{}/", None),
                ("{}/a b/c%20", Some("a b/c%20")),
                ("/ipfs/{}", None),
                ("/ipfs/{}/x//y/", Some("x/y")),
                ("ipfs/{}/x", Some("x")),
                ("ipfs://{}", None),
                ("ipfs://{}/a%20b/%E6%97%A5?q=1#f", Some("a b/日")),
                ("ipfs:/ipfs/{}/x", Some("x")),
                ("dweb:/ipfs/{}", None),
                ("IPFS://{}", None),
                ("https://ipfs.io/ipfs/{}", None),
                ("http://127.0.0.1:8080/ipfs/{}/d%C3%AD/f?download=true", Some("dí/f")),
                ("magnet:?xt=urn:cid:{}", None),
                ("MAGNET:?dn=x&xt=urn:ipfs:{}", None),
                ("magnet:?xt=urn%3Acid%3A{}%2Fa%2Fb", Some("a/b")),
                ("magnet:?xt=URN:CID:{}/a", Some("a")),
                ("magnet:?xt=urn:cid:{}&xt=urn:cid:{}&&tr=%zz&unknown", None),
            ] {
                let text = form.replace("{}", cid);
                let link = Link::parse(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
                assert_eq!((link.cid.to_string().as_str(), link.path.as_deref()), (cid, path), "{text}");
            }
        }
        for text in [
            format!("https://{V1}.ipfs.dweb.link/a/b%20c?x"),
            format!("http://{V1}.ipfs.localhost:8080/a/b%20c"),
        ] {
            let link = Link::parse(&text).unwrap();
            assert_eq!((link.cid.to_string().as_str(), link.path.as_deref()), (V1, Some("a/b c")));
        }
        // The same CID in other bases.
        for base in [Base::Base58Btc, Base::Base16Lower, Base::Base32Upper, Base::Base36Lower] {
            let cid: Cid = V1.parse().unwrap();
            assert_eq!(Link::parse(&cid.to_string_of_base(base).unwrap()), Ok(Link::new(cid)));
        }
    }

    #[test]
    fn magnet_parameters_are_read_in_order() {
        let text = format!(
            "magnet:?xt=urn:cid:{V1}&dn=a%26b+c&xl=12345&x.pe=/ip4/1.2.3.4/tcp/1/p2p/12D3A&ws=https%3A%2F%2Fx.org/f\
             &x.pe=%2Fp2p%2FQmB&ws=http://y"
        );
        let link = Link::parse(&text).unwrap();
        assert_eq!((link.name.as_deref(), link.size), (Some("a&b+c"), Some(12_345)));
        assert_eq!(link.peers, ["/ip4/1.2.3.4/tcp/1/p2p/12D3A", "/p2p/QmB"]);
        assert_eq!(link.sources, ["https://x.org/f", "http://y"]);
    }

    #[test]
    fn at_most_four_peers_are_printed() {
        let mut link = Link::new(V1.parse().unwrap());
        link.peers = (0..9).map(|i| format!("/p2p/Qm{i}")).collect();
        let printed = link.to_string();
        assert_eq!(printed.matches("x.pe=").count(), MAX_PRINTED_PEERS);
        assert_eq!(Link::parse(&printed).unwrap().peers, link.peers[..4]);
    }

    #[test]
    fn errors_say_which_parameter_is_wrong() {
        let with = |rest: &str| error(&format!("magnet:?xt=urn:cid:{V1}&{rest}"));
        for (parameter, key) in [
            ("dn=%zz", "dn"),
            ("dn=a%2", "dn"),
            ("dn=%ff", "dn"),
            ("dn=a&dn=b", "dn"),
            ("xl=", "xl"),
            ("xl=+5", "xl"),
            ("xl=99999999999999999999", "xl"),
            ("xl=1&xl=1", "xl"),
            ("x.pe=1.2.3.4:5", "x.pe"),
            ("x.pe=/ip4/1.2.3.4/tcp/1", "x.pe"),
            ("x.pe=/p2p/", "x.pe"),
            ("x.pe=/p2p/Qm/p2p-circuit", "x.pe"),
            ("x.pe=%", "x.pe"),
            ("ws=ftp://x", "ws"),
            ("ws=https://", "ws"),
            ("ws=http:///path", "ws"),
            ("ws=http://a%0ab", "ws"),
        ] {
            let message = with(parameter);
            assert!(message.starts_with(&format!("parameter {key} ")), "{parameter}: {message}");
        }
        assert!(with(&format!("xt=urn:cid:{V0}")).contains("two xt"));
        assert!(with("xt=urn:btih:abc").contains("urn:btih:abc"));
    }

    #[test]
    fn what_is_no_link_gets_one_clear_line() {
        for (text, part) in [
            ("", "empty"),
            ("hello", "`hello` is not a CID"),
            ("Qm", "not a CID"),
            ("bafy", "not a CID"),
            ("/ipfs/", "not a CID"),
            ("/ipns/example.org", "/ipns/"),
            ("ipns://example.org", "/ipns/"),
            ("https://ipfs.io/ipns/x", "/ipns/"),
            ("https://example.org/file.iso", "names no CID"),
            ("ftp://example.org/x", "`ftp:`"),
            ("magnet:", "magnet:?"),
            ("magnet:?dn=x", "no xt"),
            ("magnet:?xt=urn:cid:", "not a CID"),
            ("magnet:?xt=urn:cid:%zz", "parameter xt"),
            ("ipfs://bafy%zz", "parameter path"),
            ("\x1b[31mred", "\\u{1b}"),
        ] {
            assert!(error(text).contains(part), "{text}: {}", error(text));
        }
        let cbor = "bafyreibjo4xmgaevkgud7mbifn3dzp4v4lyaui4yvqp3f2bqwtxcjrdqg4";
        assert!(error(cbor).contains("codec 0x71"));
        // Bytes behind the CID are not part of one.
        let long = [&V1.parse::<Cid>().unwrap().to_bytes()[..], b"xx"].concat();
        assert!(error(&multibase::encode(Base::Base32Lower, long)).contains("not a CID"));
    }

    #[test]
    fn a_megabyte_of_parameters_is_refused_at_once() {
        assert_eq!(
            error(&format!("magnet:?xt=urn:cid:{V1}{}", "&a=b".repeat(1 << 18))),
            "the link is longer than 64 KiB"
        );
        assert!(error(&format!("z{}", "2".repeat(60_000))).contains("not a CID"));
        let many = format!("magnet:?xt=urn:cid:{V1}{}", "&x.pe=/p2p/Qm".repeat(4_000));
        assert_eq!(Link::parse(&many).unwrap().peers.len(), 4_000);
    }

    #[test]
    fn safe_names_are_single_harmless_names() {
        for (dn, safe) in [
            ("file.txt", Some("file.txt")),
            ("a/b/c", Some("c")),
            ("/etc/passwd", Some("passwd")),
            ("..\\..\\evil.exe", Some("evil.exe")),
            ("folder/", Some("folder")),
            ("a\0b\nc\x1b[31m\u{85}", Some("a_b_c_[31m_")),
            (".hidden", Some(".hidden")),
            ("CON", Some("CON")),
            ("", None),
            ("/", None),
            (".", None),
            ("..", None),
            ("a/..", None),
            ("a/../", None),
        ] {
            assert_eq!(safe_name(dn).as_deref(), safe, "{dn:?}");
        }
        assert_eq!(safe_name(&"x".repeat(255)).map(|n| n.len()), Some(255));
        assert_eq!(safe_name(&"x".repeat(256)), None);
    }

    fn links() -> impl Strategy<Value = Link> {
        let cid = (any::<bool>(), any::<bool>(), any::<[u8; 4]>())
            .prop_map(|(v0, raw, bytes)| cid_of(v0, if raw { RAW } else { DAG_PB }, &bytes));
        let path = prop::collection::vec("[^/\\x00]{1,8}", 1..4).prop_map(|names| names.join("/"));
        let peer = "/[a-z0-9]{1,5}/[0-9a-zA-Z:.%&=?+~-]{1,12}/p2p/[A-Za-z0-9]{1,50}";
        let source = "https?://[!-.0-~][!-~]{0,20}";
        let many = |s: &'static str, n| prop::collection::vec(s, 0..n);
        let (name, size) = (prop::option::of("\\PC{1,20}"), prop::option::of(any::<u64>()));
        (cid, prop::option::of(path), name, size, many(peer, 5), many(source, 3)).prop_map(
            |(cid, path, name, size, peers, sources)| Link { cid, path, name, size, peers, sources },
        )
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(link in links()) {
            let text = link.to_string();
            prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(Link::parse(&text), Ok(link));
        }

        #[test]
        fn no_text_does_harm(text in "\\PC{0,60}", rest in "[a-z%&=:/.?+0-9]{0,60}") {
            let _ = Link::parse(&text);
            let _ = Link::parse(&format!("magnet:?xt=urn:cid:{V1}&{rest}"));
            let _ = Link::parse(&format!("https://{rest}"));
            if let Some(name) = safe_name(&text) {
                prop_assert!(crate::content::names::check_name(name.as_bytes()).is_ok());
            }
        }
    }
}
