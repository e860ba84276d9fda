//! Bad input is one clear line and exit code 2; results have the promised forms.

use std::fs;

use crate::support::args;
use crate::support::home::{Done, Home};

const CID: &str = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
const PEER: &str = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8";

/// Bad usage: one line on stderr, nothing on stdout, and these words in it.
fn bad(home: &Home, line: &[&str], words: &[&str]) {
    let done = home.run(&line.iter().map(Into::into).collect::<Vec<_>>());
    let shown = format!("{line:?}: {:?} {:?}", done.code, done.stderr);
    assert_eq!(done.code, Some(2), "{shown}");
    assert!(done.stdout.is_empty() && done.stderr.lines().count() == 1, "{shown}");
    assert!(done.stderr.starts_with("dunlin: ") && done.stderr.ends_with('\n'), "{shown}");
    assert!(done.stderr.len() < 600, "{shown}");
    let first = done.stderr["dunlin: ".len()..].chars().next();
    assert!(!first.is_some_and(char::is_uppercase), "{shown}");
    for word in words {
        assert!(done.stderr.contains(word), "no {word:?} in {shown}");
    }
}

#[test]
fn bad_flags_and_commands() {
    let home = Home::new();
    bad(&home, &[], &["--help"]);
    bad(&home, &["shear", "x"], &["share"]);
    bad(&home, &["get"], &["LINK"]);
    bad(&home, &["get", CID, "--timeot", "3"], &["--timeout"]);
    bad(&home, &["get", CID, "--timeout", "soon"], &["soon", "seconds"]);
    bad(&home, &["get", CID, "--timeout", "-1"], &[]);
    bad(&home, &["share"], &["PATH"]);
    bad(&home, &["add"], &["PATH"]);
    bad(&home, &["add", "x", "--profile", "v9"], &["v9", "v1-256k"]);
    bad(&home, &["status", "extra"], &["extra"]);
    bad(&home, &["daemon", "--no-bootstrap", "--bootstrap", PEER], &["--no-bootstrap"]);
    bad(&home, &["completions", "tcsh9"], &["bash"]);
}

#[test]
fn bad_links_and_cids() {
    let home = Home::new();
    let twice = format!("magnet:?xt=urn:cid:{CID}&xt=urn:cid:bafkqaaa");
    let escaped = format!("magnet:?xt=urn:cid:{CID}&dn=%zz");
    let long = format!("magnet:?xt=urn:cid:{CID}&tr={}", "x".repeat(70_000));
    for (link, words) in [
        ("", &[][..]),
        ("nonsense", &["CID"]),
        ("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52z", &[]),
        ("QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbd", &[]),
        ("http://example.com/file", &[]),
        ("ftp://example.com/file", &[]),
        ("/ipns/example.com", &[]),
        ("magnet:?dn=x", &["xt"]),
        ("magnet:?xt=urn:btih:c12fe1c06bba254a9dc9f519b335aa7c1367a88a", &["xt"]),
        (&*twice, &["xt"]),
        (&*escaped, &["dn"]),
        (&*long, &["64 KiB"]),
    ] {
        for command in [&["get"][..], &["ls"], &["cat"]] {
            let flags = ["--no-bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0"];
            bad(&home, &[command, &[link], &flags].concat(), words);
        }
    }
}

#[test]
fn bad_addresses() {
    let home = Home::new();
    for listen in
        ["4201", "/ip4/127.0.0.1", "/ip4/300.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/99999", "127.0.0.1:1"]
    {
        bad(&home, &["daemon", "--listen", listen], &["/ip4/0.0.0.0/tcp/4201"]);
    }
    bad(&home, &["daemon", "--listen", "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/1"], &[]);
    for flag in ["--peer", "--bootstrap"] {
        bad(&home, &["get", CID, flag, "/ip4/127.0.0.1/tcp/1"], &["/p2p/"]);
        bad(&home, &["get", CID, flag, "localhost"], &[]);
    }
    bad(&home, &["daemon", "--network", "No Such Name"], &[]);
}

#[test]
fn bad_settings() {
    let home = Home::new();
    let config = home.join("c.toml");
    for (text, words) in [
        ("[network]\nlissten = []\n", &["lissten", "network.listen"][..]),
        ("[limits]\nuplod = 1\n", &["uplod", "limits.upload"]),
        ("[limits]\nupload = \"10m\"\n", &["line 2"]),
        ("[network\n", &["line 1"]),
        ("[network]\nmdns = \"perhaps\"\n", &["line 2"]),
    ] {
        fs::write(&config, text).unwrap();
        let path = config.to_str().unwrap();
        for command in [&["status"][..], &["config"], &["daemon"], &["add", "x"]] {
            bad(&home, &[command, &["--config", path]].concat(), &[words, &["c.toml"]].concat());
        }
    }
    bad(&home, &["config", "--config", "nowhere.toml"], &["nowhere.toml"]);
    fs::create_dir(home.data()).unwrap();
    fs::write(home.data().join("config.toml"), "[stor]\ncache = 1\n").unwrap();
    bad(&home, &["list"], &["stor", "store"]);
}

#[test]
fn what_fails_without_being_bad_usage_is_exit_code_one() {
    let home = Home::new();
    let one = |args: &[&str], word: &str| {
        let done = home.run(&args.iter().map(Into::into).collect::<Vec<_>>()).code(1);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
        assert!(done.error().contains(word), "{}", done.error());
    };
    one(&["add", "no-such-file"], "no-such-file");
    one(&["rm", CID], CID);
    one(&["verify", CID], CID);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    one(&["daemon", "--no-bootstrap", "--listen", &format!("/ip4/127.0.0.1/tcp/{port}")], &port.to_string());
    fs::write(home.join("file"), b"").unwrap();
    one(&["list", "--data-dir", "file"], "file");
}

#[test]
fn every_command_explains_itself() {
    let home = Home::new();
    let all = home.ok(&args!["--help"]);
    for command in [
        "share",
        "add",
        "get",
        "cat",
        "ls",
        "list",
        "daemon",
        "status",
        "peers",
        "id",
        "rm",
        "verify",
        "relocate",
        "config",
        "completions",
        "lab",
    ] {
        assert!(all.stdout.contains(command), "{command} is not in the help");
        let help: Done = home.ok(&args![command, "--help"]);
        assert!(help.stdout.contains("Usage: ") && help.stderr.is_empty(), "{command}: {}", help.stdout);
        let too_wide = help.stdout.lines().find(|l| l.chars().count() > 120);
        assert_eq!(too_wide, None, "{command}");
    }
    assert!(home.ok(&args!["--version"]).stdout.starts_with("dunlin "));
    for shell in ["bash", "zsh", "fish"] {
        assert!(home.ok(&args!["completions", shell]).stdout.contains("dunlin"), "{shell}");
    }
}

#[test]
fn the_identity_is_made_once_and_kept_private() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let first = home.ok(&args!["id", "--json"]).json().remove(0);
    let again = home.ok(&args!["id", "-q"]).stdout;
    assert_eq!(Some(again.trim_end()), first["peer_id"].as_str());
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(home.data()), mode(home.data().join("identity.key"))), (0o700, 0o600));
}

#[test]
fn the_settings_in_force_can_be_read_again() {
    let home = Home::new();
    let shown = home.ok(&args!["config", "--listen", "/ip4/127.0.0.1/tcp/7777"]).stdout;
    assert!(shown.contains("/ip4/127.0.0.1/tcp/7777"), "{shown}");
    fs::write(home.join("again.toml"), &shown).unwrap();
    let again = home.ok(&args!["config", "--config", "again.toml"]).stdout;
    assert_eq!(again, shown);
    assert_eq!(home.ok(&args!["config", "--json"]).json().len(), 1);
}
