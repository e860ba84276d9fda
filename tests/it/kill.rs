//! `kill -9` anywhere: nothing wrong, little lost, nothing hashed again without need.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::dag::Dag;
use crate::support::home::{Home, LONG, PAUSE, Running, address, number, text};
use crate::support::peer::{Manners, Peer};
use crate::support::tree::{MIB, Rng, allocated, assert_no_wrong_byte, assert_same, random_file};
use crate::support::{args, seed};
use crate::transfer::share;

const KILLS: u64 = 20;
/// What a restart may fetch again.
const AGAIN: u64 = 16 * MIB;

/// Waits until `part` has `bytes` on disk; false if the process ended before.
fn has_received(running: &mut Running, part: &Path, bytes: u64) -> bool {
    let end = Instant::now() + LONG;
    while allocated(part) < bytes {
        if running.has_ended() {
            return false;
        }
        assert!(Instant::now() < end, "stuck at {} of {bytes} bytes", allocated(part));
        thread::sleep(Duration::from_micros(500));
    }
    true
}

/// What the serving node has sent, once it no longer rises.
fn settled_upload(home: &Home) -> u64 {
    let end = Instant::now() + LONG;
    let mut last = u64::MAX;
    loop {
        let status = home.status();
        let now = number(&status, "uploaded");
        if now == last && number(&status, "peers") == 0 {
            return now;
        }
        assert!(Instant::now() < end, "the peer that was killed is still counted: {status}");
        last = now;
        thread::sleep(Duration::from_millis(50));
    }
}

/// Restarts the fetch where nobody has a chunk, only the inner nodes; waits until it holds `bytes` again.
fn holds_after_restart(home: &Home, fetch: &[OsString], bytes: u64) -> u64 {
    let mut running = home.start(fetch);
    let end = Instant::now() + LONG;
    loop {
        assert!(!running.has_ended(), "the restarted fetch ended: {}", running.stderr());
        let status = home.status();
        let held = status["contents"][0]["held_bytes"].as_u64().unwrap_or(0);
        if held >= bytes {
            running.interrupt().code(130);
            return held;
        }
        assert!(Instant::now() < end, "{held} bytes held of {bytes} that are on disk: {status}");
        thread::sleep(PAUSE);
    }
}

#[test]
fn a_fetch_killed_at_twenty_random_moments_resumes_each_time() {
    let size = 512 * MIB;
    let mut rng = Rng(seed("kill"));
    let (a, b) = (Home::new(), Home::new());
    let (file, part, copy) = (a.join("file"), b.join("copy.part"), b.join("copy"));
    random_file(&file, rng.next(), size);
    let (_daemon, line) = a.daemon(&[]);
    let cid = a.ok(&args!["add", "-q", &file]).stdout.trim_end().to_owned();
    let fetch = args!["get", &cid, "-q", "-o", "copy", "--peer", address(&line)];

    let skeleton = Peer::serve(Arc::new(Dag::skeleton(&file)), Manners::honest());
    let alone = args!["get", &cid, "-q", "-o", "copy", "--peer", &skeleton.addr];

    let (mut on_disk, mut kills) = (0, 0);
    for left in (1..=KILLS).rev() {
        // Spread over what is missing, the last ones not so near to the end that it comes first.
        let step = (size * 97 / 100).saturating_sub(on_disk) / left;
        let target = on_disk + 1 + rng.below(2 * step);
        let mut running = b.start(&fetch);
        if !has_received(&mut running, &part, target) {
            running.wait().ok();
            break;
        }
        running.kill();
        kills += 1;
        let before = on_disk;
        on_disk = allocated(&part);
        assert!(on_disk >= before, "what was on disk is gone: {before}, {on_disk}");
        // What it does not hold now is fetched again.
        let held = holds_after_restart(&b, &alone, on_disk.saturating_sub(AGAIN));
        println!("kill {kills} at {target}: {before} -> {on_disk} on disk, {held} held");
        assert!(held <= on_disk, "more is held than there is on disk");
    }
    assert!(kills >= KILLS * 3 / 4, "only {kills} kills hit");
    if !copy.exists() {
        assert_no_wrong_byte(&file, &part);
        // The file system's own blocks count as allocated, so a nearly whole file may take more than its size.
        let missing = size.saturating_sub(on_disk);
        let uploaded = settled_upload(&a);
        b.start(&fetch).wait().ok();
        let fetched = settled_upload(&a) - uploaded;
        assert!(fetched <= missing + AGAIN, "at the end {fetched} bytes for {missing}");
    }
    assert_same(&file, &copy);
    assert!(!part.exists());
}

#[test]
fn a_fetch_of_a_tree_killed_on_the_way_arrives_whole() {
    let mut rng = Rng(seed("kill-tree"));
    let (a, b) = (Home::new(), Home::new());
    let tree = a.join("tree");
    fs::create_dir(&tree).unwrap();
    crate::support::tree::awkward_tree(&tree);
    for i in 0..2_000u64 {
        fs::write(tree.join(format!("file {i}")), Rng(i).bytes(8_192)).unwrap();
    }
    random_file(&tree.join("large"), 1, 48 * MIB);
    let (_daemon, line) = a.daemon(&[]);
    let cid = a.ok(&args!["add", "-q", &tree]).stdout.trim_end().to_owned();
    let fetch = args!["get", &cid, "-q", "-o", "copy", "--peer", address(&line)];
    let mut on_disk = 0;
    for _ in 0..4 {
        let mut running = b.start(&fetch);
        let target = on_disk + 1 + rng.below((56 * MIB).saturating_sub(on_disk) / 2);
        if !has_received(&mut running, &b.join("copy.part"), target) {
            break;
        }
        running.kill();
        on_disk = allocated(&b.join("copy.part"));
    }
    b.start(&fetch).wait().ok();
    assert_same(&tree, &b.join("copy"));
}

/// Bytes that a process has read from files and sockets so far.
fn bytes_read(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let rchar = io.lines().find_map(|l| l.strip_prefix("rchar: ")).expect("the kernel counts reads");
    rchar.trim().parse().unwrap()
}

#[test]
fn a_killed_share_serves_again_without_hashing_again() {
    let (a, b) = (Home::new(), Home::new());
    let file = a.join("file");
    let size = 200 * MIB;
    random_file(&file, 7, size);
    // Only a signature that was old enough when the file was hashed can be trusted later.
    let written = fs::metadata(&file).unwrap().modified().unwrap();
    while written.elapsed().unwrap_or_default() < Duration::from_millis(2_500) {
        thread::sleep(Duration::from_millis(50));
    }
    let (first, lines) = share(&a, &[&file]);
    assert!(bytes_read(first.pid()) >= size, "the first time it must be hashed");
    first.kill();

    let (second, again) = share(&a, &[&file]);
    let read = bytes_read(second.pid());
    assert!(read < 20 * MIB, "the restarted share has read {read} bytes");
    assert_eq!(again[0]["cid"], lines[0]["cid"]);
    let (peer, cid) = (address(&again[0]), text(&again[0], "cid"));
    b.start(&args!["get", cid, "-o", "copy", "--peer", &peer]).wait().ok();
    assert_same(&file, &b.join("copy"));
    second.kill();

    // The same with a daemon, which serves what it has been given without being asked.
    a.ok(&args!["add", "-q", &file]);
    let (daemon, _) = a.daemon(&[]);
    daemon.kill();
    let (daemon, line) = a.daemon(&[]);
    let c = Home::new();
    let before = bytes_read(daemon.pid());
    assert!(before < 20 * MIB, "the restarted daemon has read {before} bytes");
    c.start(&args!["get", cid, "-o", "copy", "--peer", address(&line)]).wait().ok();
    assert_same(&file, &c.join("copy"));
}
