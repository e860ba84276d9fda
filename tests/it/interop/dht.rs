//! Provider records, through a DHT that both joined by a bootstrap peer that has none of the content.

use serde_json::Value;

use super::kubo::Kubo;
use super::{need_kubo, wait_for};
use crate::support::args;
use crate::support::home::{Home, address, text};
use crate::support::tree::random_file;

fn kubo_sees_the_provider(kubo: &Kubo, shared: &Value) {
    wait_for("provider for kubo", || {
        let found = kubo.call(&args!["routing", "findprovs", "-n", "1", text(shared, "cid")]).wait();
        found.stdout.contains(text(shared, "peer_id"))
    });
}

#[test]
fn kubo_finds_what_dunlin_shares_by_its_cid() {
    let (program, boot, a) = (need_kubo!(), Home::new(), Home::new());
    let (_boot, line) = boot.daemon(&[]);
    let bootstrap = address(&line);
    let kubo = Kubo::start(&program, &[&bootstrap]);
    let file = a.join("file");
    random_file(&file, 1, 1_000);
    let mut sharing = a.start(&args!["share", "--json", &file, "--bootstrap", &bootstrap]);
    kubo_sees_the_provider(&kubo, &sharing.json());
}

#[test]
fn kubo_finds_what_dunlin_shares_when_kubo_is_the_bootstrap_peer() {
    let (program, a) = (need_kubo!(), Home::new());
    let (boot, file) = (Kubo::start(&program, &[]), a.join("file"));
    let bootstrap = boot.address("/tcp/");
    let kubo = Kubo::start(&program, &[&bootstrap]);
    random_file(&file, 2, 1_000);
    let mut sharing = a.start(&args!["share", "--json", &file, "--bootstrap", &bootstrap]);
    kubo_sees_the_provider(&kubo, &sharing.json());
}

#[test]
fn dunlin_finds_what_kubo_provides_by_its_cid() {
    let (program, boot, b) = (need_kubo!(), Home::new(), Home::new());
    let (_boot, line) = boot.daemon(&[]);
    let bootstrap = address(&line);
    let kubo = Kubo::start(&program, &[&bootstrap]);
    let file = b.join("file");
    random_file(&file, 3, 1_000);
    let cid = kubo.add(&file, &["--cid-version=1"]);
    kubo.provide(&cid);
    let (_daemon, _) = b.daemon(&args!["--bootstrap", &bootstrap]);
    let _fetching = b.start(&args!["get", &cid, "-o", b.join("copy")]);
    wait_for("connection to the provider", || b.ok(&args!["peers", "--json"]).stdout.contains(&kubo.id()));
}
