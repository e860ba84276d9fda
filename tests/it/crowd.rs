//! A crowd of Sybils around a key, on hosts of their own ([`crate::support::netns`]; it wants root and `ip`).

use std::path::Path;

use dunlin::content::{Cid, Hash};
use dunlin::dht::{Key, MAX_OF_A_GROUP};
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};

use crate::interop::wait_for;
use crate::support::args;
use crate::support::home::{Running, number, text};
use crate::support::liar::{Liar, Lie, Role, WAN};
use crate::support::netns::Net;

/// Honest servers; one of them is where the others enter.
const HONEST: usize = 12;
/// Peers of one network that are closer to the key than all of those.
const CROWD: usize = 40;
const TRIED: usize = 2_000;

struct Node<'a> {
    net: &'a Net,
    host: usize,
    home: tempfile::TempDir,
    _running: Running,
    id: String,
    addr: String,
}

impl<'a> Node<'a> {
    /// A server at once: it says itself where it is reached.
    fn new(net: &'a Net, host: usize, bootstrap: Option<&str>) -> Node<'a> {
        let home = tempfile::Builder::new().prefix("dunlin-crowd-").tempdir().unwrap();
        let addr = format!("/ip4/{}/tcp/4201", net.address(host));
        let mut args =
            args!["daemon", "--json", "--no-mdns", "--listen", &addr, "--external", &addr].to_vec();
        match bootstrap {
            None => args.push("--no-bootstrap".into()),
            Some(peer) => args.extend(args!["--bootstrap", peer]),
        }
        let mut running = Running::spawn(net.command(host, program(), &args, home.path()));
        let id = text(&running.json(), "peer_id").to_owned();
        let addr = format!("{addr}/p2p/{id}");
        Node { net, host, home, _running: running, id, addr }
    }

    fn run(&self, args: &[std::ffi::OsString]) -> crate::support::home::Done {
        Running::spawn(self.net.command(self.host, program(), args, self.home.path())).wait()
    }

    fn wan(&self) -> serde_json::Value {
        self.run(&args!["status", "--json"]).ok().json()[0]["dht"]["wan"].clone()
    }
}

fn hash(text: &str) -> Hash {
    Hash::wrap(0x12, &<sha2::Sha256 as sha2::Digest>::digest(text)).unwrap()
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_dunlin"))
}

#[test]
fn a_crowd_of_one_network_around_a_key_takes_no_more_than_three_places_of_the_twenty() {
    let Some(net) = Net::new(HONEST + 1) else { return };
    let boot = Node::new(&net, 0, None);
    let mut nodes: Vec<Node> = (1..HONEST).map(|i| Node::new(&net, i, Some(&boot.addr))).collect();
    nodes.insert(0, boot);
    let known = |n: usize| {
        wait_for("network", || nodes.iter().all(|node| number(&node.wan(), "servers") >= n as u64));
    };
    known(HONEST - 1);
    let (publisher, asking) = (&nodes[3], &nodes[7]);
    // Something that no honest server is close to.
    let honest: Vec<Key> =
        nodes.iter().map(|n| Key::of(&n.id.parse::<PeerId>().unwrap().to_bytes())).collect();
    let texts = (0..64).map(|n| format!("what the crowd wants to hide {n}"));
    let hidden = texts.max_by_key(|text| {
        let key = Key::of(&hash(text).to_bytes());
        honest.iter().map(|h| h.distance(&key)).min()
    });
    let hidden = hidden.unwrap();
    let (cid, target) = (Cid::new_v1(0x55, hash(&hidden)).to_string(), Key::of(&hash(&hidden).to_bytes()));
    let file = publisher.home.path().join("file");
    std::fs::write(&file, &hidden).unwrap();

    // Of one host, which is enough for as many peers as anybody likes.
    let key_of = |pair: &Keypair| Key::of(&pair.public().to_peer_id().to_bytes());
    let mut pairs: Vec<Keypair> = (0..TRIED).map(|_| Keypair::generate_ed25519()).collect();
    pairs.sort_by_key(|pair| key_of(pair).distance(&target));
    pairs.truncate(CROWD);
    let nearest = honest.iter().map(|h| h.distance(&target)).min().unwrap();
    let closer = pairs.iter().filter(|pair| key_of(pair).distance(&target) < nearest).count();
    assert!(closer >= 20, "the crowd is not close: {closer}");
    let at = |i: usize| -> Multiaddr {
        format!("/ip4/{}/tcp/{}", net.address(HONEST), 5_000 + i).parse().unwrap()
    };
    let lies: Vec<Lie> = (0..).zip(&pairs).map(|(i, pair)| (pair.public().to_peer_id(), at(i))).collect();
    let everybody: Vec<Multiaddr> = nodes.iter().map(|n| n.addr.parse().unwrap()).collect();
    let crowd: Vec<Liar> = (0..)
        .zip(pairs)
        .map(|(i, key)| {
            Liar::start(Role {
                key,
                protocol: WAN,
                namespace: Some(net.namespace(HONEST)),
                listen: at(i),
                // Those that are closest show themselves.
                dial: if i < 5 { everybody.clone() } else { Vec::new() },
                lies: lies.clone(),
                providers: false,
            })
        })
        .collect();
    // Two or three of them get into each table.
    known(HONEST - 1 + 2);

    assert_eq!(publisher.run(&args!["add", "-q", &file]).ok().stdout.trim(), cid);
    wait_for("node that has told", || number(&publisher.wan(), "waiting") == 0);
    let asked = || crowd.iter().filter(|l| l.asked() > 0).count();
    assert_eq!(asked(), 0, "nobody has looked for it yet");
    let found = asking.run(&args!["find", "--json", &cid]);
    assert!(found.stdout.contains(&publisher.id), "{}", found.stdout);
    // Those that the tables knew, then those that are closest.
    assert!((1..=2 * MAX_OF_A_GROUP).contains(&asked()), "{} of the crowd were asked", asked());
}
