//! Several commands on one data directory: who holds it serves the others.

use std::fs;

use crate::support::args;
use crate::support::home::{Home, TCP, address, number, text};
use crate::support::tree::{MIB, assert_same, random_file};
use crate::transfer::share;

#[test]
fn a_daemon_adds_fetches_lists_and_forgets_for_others() {
    let (a, b) = (Home::new(), Home::new());
    random_file(&a.join("file"), 1, 5 * MIB + 3);
    let (a_daemon, a_line) = a.daemon(&[]);
    let (b_daemon, b_line) = b.daemon(&[]);
    assert!(text(&a_line, "peer_id").starts_with("12D3Koo") && a_line["listen"].is_array());
    assert_eq!(a.ok(&args!["id", "-q"]).stdout.trim_end(), text(&a_line, "peer_id"));

    let added = a.ok(&args!["add", "--json", "file"]).json().remove(0);
    assert_eq!(number(&added, "size"), 5 * MIB + 3);
    let got = b
        .ok(&args!["get", text(&added, "link"), "--json", "-o", "copy", "--peer", &address(&a_line)])
        .json()
        .remove(0);
    assert_same(&a.join("file"), &b.join("copy"));
    assert_eq!(text(&got, "path"), b.join("copy").to_str().unwrap(), "-o is meant where it was typed");

    // The content stays with the daemon and seeds there.
    a_daemon.interrupt().ok();
    let status = b.status();
    assert_eq!(
        (&status["daemon"], status["contents"].as_array().unwrap().len()),
        (&true.into(), 1),
        "{status}"
    );
    let content = &status["contents"][0];
    assert!(content["complete"] == true && text(content, "state").starts_with("seeding"), "{content}");
    let c = Home::new();
    let peer = address(&b_line);
    c.start(&args!["get", text(&added, "cid"), "-q", "-o", "copy", "--peer", &peer]).wait().ok();
    assert_same(&a.join("file"), &c.join("copy"));

    b.ok(&args!["rm", text(&added, "cid")]);
    assert_eq!(b.ok(&args!["list", "-q"]).stdout, "");
    assert!(b.join("copy").exists(), "rm deletes no file of the user's");
    let again = b.run(&args!["rm", text(&added, "cid")]).code(1);
    assert!(again.error().contains("dunlin list"), "{}", again.error());
    b_daemon.interrupt().ok();
}

#[test]
fn flags_for_a_start_are_bad_usage_beside_a_running_node() {
    let home = Home::new();
    fs::write(home.join("file"), b"bytes").unwrap();
    let (_daemon, line) = home.daemon(&[]);
    let peer = address(&line);
    for flags in [["--listen", TCP], ["--bootstrap", &*peer], ["--network", "mine"]] {
        for command in [&args!["share", "file"], &args!["get", "bafkqaaa"]] {
            let mut args = command.to_vec();
            args.extend(flags.iter().map(Into::into));
            let done = home.run(&args).code(2);
            assert!(done.error().contains(flags[0]), "{}", done.error());
        }
    }
    let second = home.start(&args!["daemon"]).wait().code(1);
    assert!(second.error().contains("runs already"), "{}", second.error());
}

#[test]
fn a_share_that_attaches_withdraws_at_its_end() {
    let (a, b) = (Home::new(), Home::new());
    fs::write(a.join("file"), b"shared for a while").unwrap();
    let (_daemon, line) = a.daemon(&[]);
    let peer = address(&line);
    let mut sharing = crate::support::home::Running::spawn(a.command(&args!["share", "--json", "file"]));
    let shared = sharing.json();
    assert_eq!(shared["peer_id"], line["peer_id"], "the daemon serves it");
    let cid = text(&shared, "cid");
    b.start(&args!["get", cid, "-o", "one", "--peer", &peer]).wait().ok();
    sharing.interrupt().ok();
    let late = Home::new();
    let done = late.start(&args!["get", cid, "-o", "two", "--peer", &peer, "--timeout", "3"]).wait().code(1);
    assert!(done.error().contains("no progress for 3 s"), "{}", done.error());
}

#[test]
fn a_foreground_share_serves_the_commands_that_attach_and_outlives_none_of_them() {
    let (a, b) = (Home::new(), Home::new());
    fs::write(a.join("one"), b"first").unwrap();
    fs::write(a.join("two"), b"second").unwrap();
    let (sharing, lines) = share(&a, &[&a.join("one")]);
    assert_eq!(a.status()["daemon"], false);
    let two = a.ok(&args!["add", "--json", "two"]).json().remove(0);
    b.start(&args!["get", text(&two, "cid"), "-o", "two", "--peer", &address(&lines[0])]).wait().ok();
    assert_same(&a.join("two"), &b.join("two"));
    sharing.interrupt().ok();
    let mut left: Vec<String> = a.ok(&args!["list", "-q"]).stdout.lines().map(str::to_owned).collect();
    left.sort();
    let mut want = [text(&lines[0], "cid").to_owned(), text(&two, "cid").to_owned()];
    want.sort();
    assert_eq!(left, want, "the contents are kept, served or not");
}

#[test]
fn commands_in_quick_succession_hand_the_data_directory_over() {
    let home = Home::new();
    fs::write(home.join("file"), b"bytes").unwrap();
    home.ok(&args!["add", "-q", "file"]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..20).for_each(|_| drop(home.ok(&args!["list", "-q"]))));
        }
    });
}
