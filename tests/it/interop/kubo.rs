//! A kubo node on loopback, with a repository of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::args;
use crate::support::home::{Done, Running};

pub fn program() -> Option<PathBuf> {
    super::installed("DUNLIN_KUBO", "ipfs", None)
}

/// A repository, and the daemon on it once started.
pub struct Kubo {
    repo: TempDir,
    program: PathBuf,
    daemon: Option<Running>,
}

impl Kubo {
    /// An empty repository of a node that listens on loopback, TCP and QUIC, and enters the DHT by `bootstrap`.
    pub fn new(program: &Path, bootstrap: &[&str]) -> Kubo {
        let repo = tempfile::Builder::new().prefix("dunlin-kubo-").tempdir().unwrap();
        let kubo = Kubo { repo, program: program.to_owned(), daemon: None };
        kubo.ok(&args!["init", "--profile=test"]);
        kubo.set("Addresses.Swarm", json!(["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]));
        kubo.set("Bootstrap", json!(bootstrap));
        kubo.set("Routing.Type", json!("dht"));
        kubo.set("Routing.LoopbackAddressesOnLanDHT", json!(true));
        // Nothing leaves this machine.
        kubo.set("HTTPRetrieval.Enabled", json!(false));
        kubo.set("Version.SwarmCheckEnabled", json!(false));
        kubo.set("Swarm.RelayClient.Enabled", json!(false));
        kubo
    }

    /// The same, running.
    pub fn start(program: &Path, bootstrap: &[&str]) -> Kubo {
        let mut kubo = Kubo::new(program, bootstrap);
        kubo.run();
        kubo
    }

    pub fn set(&self, key: &str, value: Value) {
        self.ok(&args!["config", "--json", key, value.to_string()]);
    }

    /// Starts the daemon, and waits until it answers.
    pub fn run(&mut self) {
        let mut daemon = Running::spawn(self.command(&args!["daemon", "--migrate=false"]));
        while !daemon.line().starts_with("Daemon is ready") {}
        self.daemon = Some(daemon);
    }

    pub fn path(&self) -> &Path {
        self.repo.path()
    }

    /// Fetches to a path.
    pub fn get(&self, cid: &str, to: &Path) {
        self.ok(&args!["get", "-o", to, cid]);
    }

    /// `kill -9`; the repository stays.
    pub fn kill(&mut self) {
        self.daemon.take().expect("it runs").kill();
    }

    fn command(&self, args: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        command.env("IPFS_PATH", self.path().join("repo")).env("HOME", self.path());
        command.env("IPFS_TELEMETRY", "off");
        command
    }

    /// Runs `ipfs` to its end.
    pub fn call(&self, args: &[OsString]) -> Running {
        Running::spawn(self.command(args))
    }

    /// The same, and it must succeed.
    pub fn ok(&self, args: &[OsString]) -> Done {
        self.call(args).wait().ok()
    }

    /// The one word that a command prints.
    pub fn word(&self, args: &[OsString]) -> String {
        let word = self.ok(args).stdout.trim().to_owned();
        assert!(!word.is_empty() && !word.contains(char::is_whitespace), "not one word: {word:?}");
        word
    }

    /// Adds a path with options; its root's CID.
    pub fn add(&self, path: &Path, options: &[&str]) -> String {
        let mut args = args!["add", "-Q", "-r", "--hidden"].to_vec();
        args.extend(options.iter().map(OsString::from));
        args.push(path.into());
        self.word(&args)
    }

    /// Tells the DHT that it has this, once it has somebody to tell.
    pub fn provide(&self, cid: &str) {
        super::wait_for("provider record of kubo's", || {
            self.call(&args!["routing", "provide", cid]).wait().code == Some(0)
        });
    }

    pub fn id(&self) -> String {
        self.word(&args!["config", "Identity.PeerID"])
    }

    /// Where it listens, `/tcp/` or `/quic-v1`, ending in /p2p/ID.
    pub fn address(&self, transport: &str) -> String {
        let id = self.id();
        let all = self.ok(&args!["swarm", "addrs", "listen"]).stdout;
        let found = all.lines().find(|a| a.contains(transport));
        format!("{}/p2p/{id}", found.unwrap_or_else(|| panic!("listens not on {transport}: {all}")).trim())
    }

    /// Connects to a peer, and fails if it cannot.
    pub fn connect(&self, address: &str) {
        self.ok(&args!["swarm", "connect", address]);
    }
}
