//! A source that goes silent over QUIC, where nothing tells that a process is gone: the rest comes from another at
//! that one's full rate, long before a ping is missed. (The rule of silence gives its requests away; so does the endgame.)

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::interop::wait_for;
use crate::support::args;
use crate::support::home::{Home, QUIC, address, number, text};
use crate::support::tree::{MIB, assert_same, random_file};
use crate::transfer::share;

/// The soonest that a missed ping could tell, while the rest takes the other source 5 s.
const BOUND: Duration = Duration::from_secs(10);

/// Two sources of a megabyte a second each; one of them ends in this way in the middle.
fn goes_on_without(signal: Signal, seed: u64) {
    let (a, b, c) = (Home::on(QUIC), Home::on(QUIC), Home::on(QUIC));
    random_file(&a.join("file"), seed, 7 * MIB);
    std::fs::copy(a.join("file"), b.join("file")).unwrap();
    let [(a_runs, a_line), (_b_runs, b_line)] = [&a, &b].map(|home| {
        home.ok(&args!["limits", "--up", "1M"]);
        let (runs, mut lines) = share(home, &[&home.join("file")]);
        (runs, lines.remove(0))
    });
    let peers = [address(&a_line), address(&b_line)];
    let get = c.start(&args![
        "get",
        text(&a_line, "cid"),
        "-q",
        "-o",
        "copy",
        "--peer",
        &peers[0],
        "--peer",
        &peers[1]
    ]);
    // Both send, and both have requests: less than a third is here.
    wait_for("bytes of both", || {
        let known = c.run(&args!["peers", "--json"]);
        known.code == Some(0) && known.json().iter().filter(|p| number(p, "taken") > 600_000).count() == 2
    });
    let at = Instant::now();
    a_runs.signal(signal);
    get.wait().ok();
    let took = at.elapsed();
    println!("{signal:?}: done {took:?} after it");
    assert!(took < BOUND, "the rest took {took:?} after the end of one source");
    assert_same(&b.join("file"), &c.join("copy"));
}

#[test]
fn a_fetch_goes_on_at_once_when_a_source_stops_answering_over_quic() {
    goes_on_without(Signal::STOP, 94);
}

#[test]
fn a_fetch_goes_on_at_once_when_a_source_is_killed_over_quic() {
    goes_on_without(Signal::KILL, 95);
}
