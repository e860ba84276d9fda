//! `cat` beside `get` of one root: one fetch brings the bytes for both, and nobody is banned for what the other asked.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::merging::{downloaded, get, share_slowly, until_downloaded};
use crate::support::args;
use crate::support::home::{Home, LONG, PAUSE, address, text};
use crate::support::tree::assert_same;

const SIZE: u64 = 6_000_000;
/// What may come twice: the inner nodes, and what was under way when a fetch took the place of another.
const SLACK: u64 = 1_500_000;

/// A `cat` through a daemon, into a file.
struct Cat {
    child: Child,
    to: PathBuf,
}

impl Cat {
    fn of(home: &Home, shared: &Value) -> Cat {
        let path = format!("/ipfs/{}/file", text(shared, "cid"));
        let to = home.join("read");
        let mut command = home.command(&args!["cat", path, "--peer", address(shared)]);
        let child = command.stdout(File::create(&to).unwrap()).spawn().unwrap();
        Cat { child, to }
    }

    /// All of them, once it has ended well.
    fn bytes(mut self) -> Vec<u8> {
        let until = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return fs::read(&self.to).unwrap();
            }
            assert!(Instant::now() < until, "it has not ended within {LONG:?}");
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Cat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nobody_is_banned(home: &Home) {
    let banned = home.ok(&args!["peers", "--banned", "--json"]).json();
    assert!(banned.is_empty(), "{banned:?}");
}

/// Whether `get` begins first, or `cat`.
fn both_at_once(seed: u64, get_first: bool) {
    let (a, c) = (Home::new(), Home::new());
    let (_runs, shared) = share_slowly(&a, &[("file", seed, SIZE)]);
    let (daemon, _) = c.daemon(&[]);
    let (fetching, reading) = if get_first {
        let fetching = get(&c, &shared, "copy");
        until_downloaded(&c, SIZE / 6);
        (fetching, Cat::of(&c, &shared))
    } else {
        let reading = Cat::of(&c, &shared);
        until_downloaded(&c, SIZE / 6);
        (get(&c, &shared, "copy"), reading)
    };
    let said = reading.bytes();
    fetching.wait().ok();
    assert_same(&a.join("tree"), &c.join("copy"));
    assert!(said == fs::read(a.join("tree/file")).unwrap(), "other bytes were read");
    nobody_is_banned(&a);
    nobody_is_banned(&c);
    let got = downloaded(&c);
    println!("{got} bytes received for {SIZE}");
    assert!(got < SIZE + SLACK, "{got} bytes received for {SIZE}");
    daemon.interrupt().ok();
}

#[test]
fn a_file_that_is_being_fetched_is_read_through_that_fetch() {
    both_at_once(81, true);
}

#[test]
fn a_fetch_of_what_is_being_read_takes_the_readings_place() {
    both_at_once(82, false);
}

#[test]
fn a_reading_goes_on_when_the_fetch_that_it_went_through_is_given_up() {
    let (a, c) = (Home::new(), Home::new());
    let (_runs, shared) = share_slowly(&a, &[("file", 83, SIZE)]);
    let (daemon, _) = c.daemon(&[]);
    let fetching = get(&c, &shared, "copy");
    until_downloaded(&c, SIZE / 6);
    let reading = Cat::of(&c, &shared);
    until_downloaded(&c, SIZE / 3);
    fetching.interrupt();
    assert!(reading.bytes() == fs::read(a.join("tree/file")).unwrap(), "other bytes were read");
    nobody_is_banned(&a);
    nobody_is_banned(&c);
    daemon.interrupt().ok();
}
