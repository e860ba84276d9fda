//! The public DHT itself, `/ipfs/kad/1.0.0`: each node on a host of its own ([`crate::support::netns`]).
//!
//! Run it by `cargo test --test it -- --ignored wan::`. It wants root, `ip`, and for the kubo nodes kubo
//! (`DUNLIN_KUBO`, or what `tests/interop/install.sh` has installed). `DUNLIN_WAN_NODES` sets how many dunlin
//! nodes there are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::args;
use crate::support::home::{Done, Running, number, text};
use crate::support::netns::{Net, note};

const DUNLINS: usize = 75;
const KUBOS: usize = 5;
/// The first nodes are what the others enter by.
const BOOTSTRAPS: usize = 3;
const ROOTS: usize = 1_000;
/// Look-ups.
const AT_A_TIME: usize = 4;
/// kubo must see what dunlin shared within this, and the other way round.
const SEEN: Duration = Duration::from_secs(10);
/// For what has no bar of its own, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

struct Node {
    host: usize,
    home: TempDir,
    program: PathBuf,
    running: Option<Running>,
    id: String,
}

impl Node {
    fn call(&self, net: &Net, args: &[OsString]) -> Running {
        Running::spawn(net.command(self.host, &self.program, args, self.home.path()))
    }

    fn run(&self, net: &Net, args: &[OsString]) -> Done {
        self.call(net, args).wait()
    }

    fn status(&self, net: &Net) -> Value {
        serde_json::from_str(&self.run(net, &args!["status", "--json"]).ok().stdout).unwrap()
    }

    fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill();
        }
    }
}

fn home() -> TempDir {
    tempfile::Builder::new().prefix("dunlin-wan-").tempdir().unwrap()
}

/// Starts a dunlin daemon; all but the first nodes enter by those.
fn dunlin(net: &Net, host: usize, bootstrap: &[String]) -> Node {
    let home = home();
    let listen = format!("/ip4/{}/tcp/4201", net.address(host));
    let mut args = args!["daemon", "--json", "--no-mdns", "--listen", &listen].to_vec();
    match bootstrap {
        [] => args.push("--no-bootstrap".into()),
        peers => peers.iter().for_each(|p| args.extend(args!["--bootstrap", p].to_vec())),
    }
    let program: PathBuf = env!("CARGO_BIN_EXE_dunlin").into();
    let running = Running::spawn(net.command(host, &program, &args, home.path()));
    Node { host, home, program, running: Some(running), id: String::new() }
}

fn kubo(net: &Net, host: usize, program: &Path, bootstrap: &[String]) -> Node {
    let mut node = Node { host, home: home(), program: program.to_owned(), running: None, id: String::new() };
    node.run(net, &args!["init", "--profile=server"]).ok();
    let path = node.home.path().join("repo/config");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["Addresses"]["Swarm"] = json!([format!("/ip4/{}/tcp/4001", net.address(host))]);
    config["Bootstrap"] = json!(bootstrap);
    config["Routing"]["Type"] = json!("dhtserver");
    for part in ["HTTPRetrieval", "AutoTLS"] {
        config[part]["Enabled"] = json!(false);
    }
    config["Version"]["SwarmCheckEnabled"] = json!(false);
    config["Swarm"]["RelayClient"]["Enabled"] = json!(false);
    std::fs::write(&path, config.to_string()).unwrap();
    node.id = text(&config["Identity"], "PeerID").to_owned();
    let mut running = node.call(net, &args!["daemon", "--migrate=false"]);
    while !running.line().starts_with("Daemon is ready") {}
    node.running = Some(running);
    node
}

fn wait_for(what: &str, patience: Duration, mut is: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < patience, "no {what} within {patience:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    began.elapsed()
}

/// Kilobytes of memory of a process and what it started.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn write(node: &Node, name: &str, text: &str) -> PathBuf {
    let path = node.home.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn add(net: &Net, node: &Node, path: &Path) -> String {
    let done = node.run(net, &args!["add", "--json", path]).ok();
    text(&done.json()[0], "cid").to_owned()
}

/// The providers that `dunlin find` has named, and its summary.
fn found(done: &Done) -> (Vec<Value>, Value) {
    let mut lines = done.json();
    let summary = lines.pop().expect("a summary");
    (lines, summary)
}

#[test]
#[ignore = "80 nodes, some minutes, and root"]
fn eighty_servers_find_each_others_contents_and_most_of_them_with_half_of_them_dead() {
    let dunlins = std::env::var("DUNLIN_WAN_NODES").ok().and_then(|n| n.parse().ok()).unwrap_or(DUNLINS);
    let Some(net) = Net::new(dunlins + KUBOS + 1) else { return };
    let mut nodes = start(&net, dunlins);
    let bootstrap: Vec<String> = (0..BOOTSTRAPS).map(|i| address(&net, &nodes[i])).collect();
    all_become_servers(&net, &nodes);
    let memory: u64 = nodes.iter().filter_map(|n| n.running.as_ref()).map(|r| resident(r.pid())).sum();
    note(&format!("{} dunlin servers, {} MiB each", nodes.len(), memory / 1_024 / nodes.len() as u64));

    let mut kubos = Vec::new();
    if let Some(program) = crate::interop::kubo::program() {
        for i in 0..KUBOS {
            kubos.push(kubo(&net, dunlins + i, &program, &bootstrap));
        }
        with_kubo(&net, &nodes, &kubos);
    }
    // From each node its share of the roots.
    let mut roots: Vec<(usize, String)> = Vec::new();
    let each = ROOTS.div_ceil(dunlins);
    for (i, node) in nodes.iter().enumerate() {
        let files: Vec<OsString> =
            (0..each).map(|n| write(node, &format!("root{n}"), &format!("{i} {n}")).into()).collect();
        let mut words = args!["add", "--json"].to_vec();
        words.extend(files);
        let added = node.run(&net, &words).ok().json();
        roots.extend(added.iter().map(|line| (i, text(line, "cid").to_owned())));
    }
    let took = wait_for("node that has told all", PATIENCE, || {
        nodes.iter().all(|n| n.status(&net)["dht"]["wan"]["waiting"] == 0)
    });
    note(&format!("{} roots told, the last {:.1} s after it was added", roots.len(), took.as_secs_f64()));

    // Half of them die, without a word. The one that asks is new.
    for node in nodes.iter_mut().skip(1).step_by(2) {
        node.kill();
    }
    kubos.iter_mut().skip(1).step_by(2).for_each(Node::kill);
    let mut asking = dunlin(&net, dunlins + KUBOS, &bootstrap);
    asking.running.as_mut().unwrap().json();
    let (mut found, mut times, mut hops) = (0, Vec::new(), 0);
    for (is_found, first, hop) in look_up(&net, &nodes, &asking, &roots) {
        found += usize::from(is_found);
        times.extend(first);
        hops = hops.max(hop);
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    note(&format!(
        "half dead: {found} of {} found, the first after {median} ms (median), {hops} hops",
        roots.len()
    ));
    assert!(found * 100 >= roots.len() * 99, "{found} of {}", roots.len());
}

/// Whether each root's holder is found, when the first provider was, and the hops; some at a time.
fn look_up(
    net: &Net,
    nodes: &[Node],
    asking: &Node,
    roots: &[(usize, String)],
) -> Vec<(bool, Option<u64>, u64)> {
    // What of them other threads may see.
    let ids: Vec<&str> = nodes.iter().map(|n| n.id.as_str()).collect();
    let (ids, host, program, home) = (&ids[..], asking.host, &*asking.program, asking.home.path());
    let one = |(holder, cid): &(usize, String)| {
        let command = net.command(host, program, &args!["find", "--json", cid], home);
        let (providers, summary) = found(&Running::spawn(command).wait());
        let found = providers.iter().any(|p| p["peer_id"] == ids[*holder]);
        (found, providers.first().map(|p| number(p, "ms")), number(&summary, "hops"))
    };
    std::thread::scope(|scope| {
        let some = roots.chunks(roots.len().div_ceil(AT_A_TIME));
        let running: Vec<_> =
            some.map(|some| scope.spawn(move || some.iter().map(one).collect::<Vec<_>>())).collect();
        running.into_iter().flat_map(|r| r.join().unwrap()).collect()
    })
}

fn address(net: &Net, node: &Node) -> String {
    format!("/ip4/{}/tcp/4201/p2p/{}", net.address(node.host), node.id)
}

/// The first few alone, then the others, who enter by them.
fn start(net: &Net, count: usize) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut bootstrap: Vec<String> = Vec::new();
    for host in 0..count {
        let mut node = dunlin(net, host, &bootstrap);
        node.id = text(&node.running.as_mut().unwrap().json(), "peer_id").to_owned();
        if host < BOOTSTRAPS {
            bootstrap.push(address(net, &node));
        }
        nodes.push(node);
    }
    nodes
}

/// AutoNAT finds all of them reachable, and they get to know each other.
fn all_become_servers(net: &Net, nodes: &[Node]) {
    let enough = 20.min(nodes.len() as u64 - 1);
    let took = wait_for("network of servers", PATIENCE, || {
        nodes.iter().all(|n| {
            let wan = &n.status(net)["dht"]["wan"];
            wan["server"] == true && wan["servers"].as_u64().unwrap() >= enough
        })
    });
    note(&format!("all are servers and know {enough} others after {:.1} s more", took.as_secs_f64()));
}

fn with_kubo(net: &Net, nodes: &[Node], kubos: &[Node]) {
    wait_for("kubo that knows the network", PATIENCE, || {
        kubos.iter().all(|k| k.run(net, &args!["swarm", "peers"]).ok().stdout.lines().count() >= 10)
    });
    for (i, kubo) in kubos.iter().enumerate() {
        let node = &nodes[10 + i];
        let cid = add(net, node, &write(node, "for-kubo", &format!("dunlin {i}")));
        let took = wait_for("provider that kubo finds", SEEN, || {
            let found = kubo.run(net, &args!["routing", "findprovs", "-n", "1", &cid]);
            found.stdout.contains(&node.id)
        });
        note(&format!("kubo {i} found what dunlin shared after {:.1} s", took.as_secs_f64()));

        let path = write(kubo, "for-dunlin", &format!("kubo {i}"));
        let added = kubo.run(net, &args!["add", "-Q", "--cid-version=1", path]).ok();
        let cid = added.stdout.trim().to_owned();
        kubo.run(net, &args!["routing", "provide", &cid]).ok();
        let asking = &nodes[40 % nodes.len()];
        let took = wait_for("provider that dunlin finds", SEEN, || {
            let (providers, _) = found(&asking.run(net, &args!["find", "--json", &cid]));
            providers.iter().any(|p| p["peer_id"] == kubo.id.as_str())
        });
        note(&format!("dunlin found what kubo {i} provided after {:.1} s", took.as_secs_f64()));
    }
}
