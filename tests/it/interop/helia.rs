//! A Helia node on loopback, driven by `tests/interop/helia.mjs`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

use serde_json::{Value, json};

use crate::support::home::{Running, text};

const SCRIPT: &str = include_str!("../../interop/helia.mjs");

pub fn folder() -> Option<PathBuf> {
    super::installed("DUNLIN_HELIA", "helia", Some("node_modules/.bin/node"))
}

pub struct Helia {
    running: Running,
    asks: ChildStdin,
    /// Its one address, ending in /p2p/ID.
    pub address: String,
}

impl Helia {
    pub fn start(folder: &Path) -> Helia {
        // A script given in this way finds its modules from the current folder on.
        let mut command = Command::new(folder.join("node_modules/.bin/node"));
        command.args(["--input-type=module", "-e", SCRIPT]).current_dir(folder).stdin(Stdio::piped());
        let mut running = Running::spawn(command);
        let asks = running.stdin();
        let address = text(&running.json(), "addr").to_owned();
        Helia { running, asks, address }
    }

    /// Asks, and waits for the answer; an error is a failure of the test.
    fn ask(&mut self, what: Value) -> Value {
        writeln!(self.asks, "{what}").unwrap();
        let answer = self.running.json();
        assert!(answer.get("error").is_none(), "{what}: {answer}");
        answer
    }

    pub fn add(&mut self, path: &Path, options: Value) -> String {
        text(&self.ask(json!({ "add": path, "options": options })), "cid").to_owned()
    }

    pub fn dial(&mut self, address: &str) {
        self.ask(json!({ "dial": address }));
    }

    /// Fetches from whom it is connected to.
    pub fn get(&mut self, cid: &str, to: &Path) {
        self.ask(json!({ "get": cid, "to": to }));
    }
}
