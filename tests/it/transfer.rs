//! From one process to another: everything arrives as it was.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::args;
use crate::support::home::{Home, LONG, PAUSE, QUIC, Running, TCP, address, number, text};
use crate::support::tree::{MIB, Rng, assert_same, awkward_tree, random_file};

/// `share --json` of these paths, and a line for each.
pub fn share(home: &Home, paths: &[&Path]) -> (Running, Vec<Value>) {
    let mut command = args!["share", "--json"].to_vec();
    command.extend(paths.iter().map(std::ffi::OsString::from));
    let mut running = home.start(&command);
    let lines = paths.iter().map(|_| running.json()).collect();
    (running, lines)
}

/// Fetches what a `share` line tells, from its node, to `dest`; returns the line of `get --json`.
pub fn get(home: &Home, shared: &Value, dest: &Path) -> Value {
    let peer = address(shared);
    let done =
        home.start(&args!["get", text(shared, "link"), "--json", "-o", dest, "--peer", &peer]).wait().ok();
    let mut lines = done.json();
    assert_eq!(lines.len(), 1, "{}", done.stdout);
    lines.remove(0)
}

/// Shares each path on one node, fetches each on another, compares.
fn goes_over(listen: &'static str, make: impl Fn(&Path) -> Vec<&'static str>) {
    let (a, b) = (Home::on(listen), Home::on(listen));
    let names = make(a.path());
    let paths: Vec<_> = names.iter().map(|n| a.join(n)).collect();
    let (running, lines) = share(&a, &paths.iter().map(|p| &**p).collect::<Vec<_>>());
    let transport = if listen == TCP { "/tcp/" } else { "/quic-v1/" };
    for ((name, path), line) in names.iter().zip(&paths).zip(&lines) {
        assert!(address(line).contains(transport), "{line}");
        assert_eq!(Path::new(text(line, "path")), path);
        let dest = b.join(name);
        let got = get(&b, line, &dest);
        assert_eq!((&got["cid"], &got["size"]), (&line["cid"], &line["size"]), "{name}");
        assert_eq!(Path::new(text(&got, "path")), dest);
        assert_same(path, &dest);
        assert!(!b.join(&format!("{name}.part")).exists(), "{name}.part is left behind");
    }
    running.interrupt().ok();
}

fn small_and_awkward(at: &Path) -> Vec<&'static str> {
    fs::write(at.join("empty"), b"").unwrap();
    fs::write(at.join("one byte"), b"x").unwrap();
    fs::write(at.join("one chunk"), Rng(1).bytes(262_144)).unwrap();
    fs::write(at.join("one chunk and a byte"), Rng(2).bytes(262_145)).unwrap();
    fs::create_dir(at.join("empty folder")).unwrap();
    fs::create_dir(at.join("дерево")).unwrap();
    awkward_tree(&at.join("дерево"));
    vec!["empty", "one byte", "one chunk", "one chunk and a byte", "empty folder", "дерево"]
}

fn big(at: &Path) -> Vec<&'static str> {
    random_file(&at.join("big.bin"), 300, 300_000_000);
    vec!["big.bin"]
}

/// 6,000 entries in one folder: enough for a HAMT.
fn many(at: &Path) -> Vec<&'static str> {
    let dir = at.join("many");
    fs::create_dir(&dir).unwrap();
    for i in 0..5_900u64 {
        fs::write(dir.join(format!("{i:04} of the many files here")), Rng(i).bytes((i % 300) as usize))
            .unwrap();
    }
    for i in 0..100 {
        fs::create_dir(dir.join(format!("folder {i}"))).unwrap();
        fs::write(dir.join(format!("folder {i}/inside")), b"the same in each").unwrap();
    }
    vec!["many"]
}

#[test]
fn small_files_and_awkward_trees_arrive_over_tcp() {
    goes_over(TCP, small_and_awkward);
}

#[test]
fn small_files_and_awkward_trees_arrive_over_quic() {
    goes_over(QUIC, small_and_awkward);
}

#[test]
fn three_hundred_megabytes_arrive_over_tcp() {
    goes_over(TCP, big);
}

#[test]
fn three_hundred_megabytes_arrive_over_quic() {
    goes_over(QUIC, big);
}

#[test]
fn six_thousand_entries_arrive_over_tcp() {
    goes_over(TCP, many);
}

#[test]
fn six_thousand_entries_arrive_over_quic() {
    goes_over(QUIC, many);
}

#[test]
fn what_was_fetched_is_fetched_on_from_a_node_that_only_a_bootstrap_peer_knows() {
    let (boot, a, b, c) = (Home::new(), Home::new(), Home::new(), Home::new());
    let (_boot, boot_line) = boot.daemon(&[]);
    let bootstrap = address(&boot_line);
    let file = a.join("file");
    random_file(&file, 3, 3_000_000);
    let mut a_runs = a.start(&args!["share", "--json", &file, "--bootstrap", &bootstrap]);
    let shared = a_runs.json();
    let cid = text(&shared, "cid");
    let mut b_runs = b.start(&args!["get", cid, "--json", "--seed", "-o", "copy", "--bootstrap", &bootstrap]);
    b_runs.json();
    a_runs.kill();
    let c_done = c.start(&args!["get", cid, "-q", "-o", "copy", "--bootstrap", &bootstrap]).wait().ok();
    assert_eq!(c_done.stdout.trim_end(), c.join("copy").to_str().unwrap());
    assert_same(&file, &c.join("copy"));
    assert_eq!(boot.status()["contents"], serde_json::json!([]), "the bootstrap node holds nothing");
    b_runs.interrupt().ok();
}

#[test]
fn a_content_that_nobody_has_is_looked_for_until_the_timeout() {
    let (boot, home) = (Home::new(), Home::new());
    let (_boot, line) = boot.daemon(&[]);
    let cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
    let since = Instant::now();
    let done =
        home.start(&args!["get", cid, "--timeout", "4", "--bootstrap", &address(&line)]).wait().code(1);
    let took = since.elapsed();
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(60), "gave up after {took:?}");
    assert!(
        done.error().contains("no progress for 4 s") && done.error().contains("look-up"),
        "{}",
        done.error()
    );
    assert!(!home.join(cid).exists() && done.stdout.is_empty());
}

#[test]
fn names_and_paths_of_what_is_fetched() {
    let (a, b) = (Home::new(), Home::new());
    fs::create_dir(a.join("photos")).unwrap();
    fs::write(a.join("photos/beach.jpg"), b"sand").unwrap();
    let (_a, lines) = share(&a, &[&a.join("photos")]);
    let (peer, link, cid) = (address(&lines[0]), text(&lines[0], "link"), text(&lines[0], "cid"));
    let quiet = |what: &str, more: &[&str]| {
        let mut args = args!["get", what, "-q", "--peer", &peer].to_vec();
        args.extend(more.iter().map(Into::into));
        b.start(&args).wait()
    };
    let path = |name: &str| format!("{}\n", b.join(name).display());
    assert!(link.starts_with("magnet:?") && link.contains("dn=photos"), "{link}");

    assert_eq!(quiet(link, &[]).ok().stdout, path("photos"), "the link's name");
    assert_eq!(quiet(cid, &[]).ok().stdout, path(cid), "no name: the CID");
    assert_eq!(quiet(cid, &["-o", "deep/../out"]).ok().stdout.lines().count(), 1, "the path typed");
    assert_eq!(quiet(&format!("{cid}/beach.jpg"), &["-o", "beach"]).ok().stdout, path("beach"));
    assert_eq!(fs::read(b.join("beach")).unwrap(), b"sand");
    for form in [format!("/ipfs/{cid}"), format!("ipfs://{cid}"), format!("https://ipfs.io/ipfs/{cid}")] {
        let name = format!("from {}", form.split(':').next().unwrap().replace('/', "_"));
        quiet(&form, &["-o", &name]).ok();
        assert_same(&a.join("photos"), &b.join(&name));
    }
    let unsafe_name = format!("magnet:?xt=urn:cid:{cid}&dn=..%2F..%2Fescaped");
    quiet(&unsafe_name, &[]).ok();
    let outside = b.path().parent().unwrap().parent().unwrap().join("escaped");
    assert!(!outside.exists() && !b.path().parent().unwrap().join("escaped").exists());
}

#[test]
fn a_file_in_the_way_is_kept_unless_forced() {
    let (a, b) = (Home::new(), Home::new());
    fs::write(a.join("file"), b"the new one").unwrap();
    let (_a, lines) = share(&a, &[&a.join("file")]);
    let (peer, link) = (address(&lines[0]), text(&lines[0], "link"));
    fs::write(b.join("file"), b"precious").unwrap();

    let refused = b.start(&args!["get", link, "--peer", &peer]).wait().code(1);
    assert!(refused.error().contains("--force"), "{}", refused.error());
    assert_eq!(fs::read(b.join("file")).unwrap(), b"precious");

    b.start(&args!["get", link, "--peer", &peer, "--force"]).wait().ok();
    assert_eq!(fs::read(b.join("file")).unwrap(), b"the new one");

    // Now it is this content: nothing to refuse, and nobody is needed.
    b.start(&args!["get", link, "--timeout", "20"]).wait().ok();
}

#[test]
fn an_interrupted_get_resumes_and_a_seeding_one_serves() {
    let (a, b, c) = (Home::new(), Home::new(), Home::new());
    let file = a.join("file");
    random_file(&file, 9, 200 * MIB);
    let (daemon, line) = a.daemon(&[]);
    let peer = address(&line);
    let cid = a.ok(&args!["add", "-q", &file]).stdout.trim_end().to_owned();
    let fetch = args!["get", &cid, "--json", "--seed", "-o", "copy", "--peer", &peer];

    let first = b.start(&fetch);
    let end = Instant::now() + LONG;
    while crate::support::tree::allocated(&b.join("copy.part")) < 20 * MIB {
        assert!(Instant::now() < end, "nothing arrives");
        std::thread::sleep(PAUSE);
    }
    let stopped = first.interrupt().code(130);
    assert!(stopped.stdout.is_empty() && b.join("copy.part").exists() && !b.join("copy").exists());

    let mut second = b.start(&fetch);
    let got = second.json();
    assert_same(&file, &b.join("copy"));
    let uploaded = number(&a.status(), "uploaded");
    assert!(uploaded < 216 * MIB + 16 * MIB, "{uploaded} bytes were sent for 200 MiB");
    daemon.interrupt().ok();

    // The daemon is gone; what the second fetched is served on.
    let from_b = b.ok(&args!["id", "--json"]).json().remove(0);
    c.start(&args!["get", text(&got, "link"), "-q", "-o", "copy", "--peer", &address(&from_b)]).wait().ok();
    assert_same(&file, &c.join("copy"));
    second.interrupt().ok();
}

#[test]
fn ctrl_c_ends_each_foreground_command_cleanly() {
    let home = Home::new();
    fs::write(home.join("file"), b"bytes").unwrap();
    let (daemon, _) = home.daemon(&[]);
    assert_eq!(home.status()["daemon"], true);
    daemon.interrupt().ok();
    assert_eq!(home.status()["daemon"], false);

    let (sharing, _) = share(&home, &[&home.join("file")]);
    sharing.signal(rustix::process::Signal::TERM);
    sharing.wait().ok();

    let nobody_has = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
    let fetching = home.start(&args!["get", nobody_has, "-v"]);
    let end = Instant::now() + LONG;
    while !home.data().join("control.sock").exists() {
        assert!(Instant::now() < end, "the fetch never serves its control socket");
        std::thread::sleep(PAUSE);
    }
    fetching.interrupt().code(130);
    assert!(!home.data().join("control.sock").exists(), "the control socket is left behind");
    home.ok(&args!["list"]);
}

#[test]
fn add_prints_what_kubo_would() {
    let home = Home::new();
    fs::write(home.join("empty"), b"").unwrap();
    fs::write(home.join("hello"), b"hello world\n").unwrap();
    fs::create_dir(home.join("dir")).unwrap();
    fs::write(home.join("dir/.hidden"), b"secret").unwrap();
    let cid = |more: &[&str]| {
        let mut args = args!["add", "-q", "--only-hash"].to_vec();
        args.extend(more.iter().map(Into::into));
        home.ok(&args).stdout.trim_end().to_owned()
    };
    assert_eq!(cid(&["empty"]), "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
    assert_eq!(cid(&["hello"]), "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4");
    let v0 = cid(&["hello", "--profile", "unixfs-v0-2015"]);
    assert_eq!(v0, "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o");
    assert_ne!(cid(&["dir"]), cid(&["dir", "--hidden"]));
    assert_eq!(home.ok(&args!["list", "-q"]).stdout, "", "--only-hash keeps nothing");

    let lines = home.ok(&args!["add", "--json", "empty", "hello"]).json();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        (number(&lines[1], "size"), text(&lines[1], "path")),
        (12, home.join("hello").to_str().unwrap())
    );
    assert!(lines.iter().all(|l| text(l, "link").starts_with("magnet:?xt=urn:cid:")), "{lines:?}");
    assert_eq!(home.ok(&args!["list", "-q"]).stdout.lines().count(), 2);
}

fn fifo(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn what_cannot_be_shared_is_refused_or_left_out_by_name() {
    let home = Home::new();
    fifo(&home.join("fifo"));
    symlink("nowhere", home.join("dangling")).unwrap();
    for (path, word) in
        [("fifo", "FIFO"), ("/dev/null", "device"), ("dangling", "dangling"), ("none", "none")]
    {
        let done = home.run(&args!["add", path]).code(1);
        assert!(done.error().contains(word), "{path}: {}", done.error());
    }
    // Within a folder such an entry is left out, said so, and the rest is shared.
    fs::create_dir(home.join("dir")).unwrap();
    fs::write(home.join("dir/good"), b"good").unwrap();
    let plain = home.ok(&args!["add", "-q", "--only-hash", "dir"]).stdout;
    fifo(&home.join("dir/fifo"));
    let done = home.ok(&args!["add", "-q", "--only-hash", "dir"]);
    assert_eq!(done.stdout, plain);
    let left_out = done.stderr.lines().find(|l| l.starts_with("dunlin: left out: "));
    assert!(left_out.is_some_and(|l| l.contains("dir/fifo") || l.contains("fifo")), "{}", done.stderr);
}

#[test]
fn a_symlink_as_argument_stands_for_what_it_points_to() {
    let home = Home::new();
    fs::create_dir(home.join("dir")).unwrap();
    fs::write(home.join("dir/file"), b"bytes").unwrap();
    for (link, target) in [("to dir", "dir"), ("to file", "dir/file")] {
        symlink(target, home.join(link)).unwrap();
        let cid = |what: &str| home.ok(&args!["add", "-q", "--only-hash", what]).stdout;
        assert_eq!(cid(link), cid(target), "{link}");
    }
    let shown = home.ok(&args!["add", "--json", "to file"]).json().remove(0);
    assert!(text(&shown, "link").contains("dn=to%20file"), "its own name is kept: {shown}");
}

#[test]
fn a_name_that_is_not_utf8_is_an_error_that_names_it() {
    let home = Home::new();
    let odd = std::ffi::OsString::from_vec(b"not utf-8 \xff".to_vec());
    fs::write(home.path().join(&odd), b"bytes").unwrap();
    let done = home.run(&args!["add", odd.clone()]).code(2);
    assert!(done.error().contains("UTF-8"), "{}", done.error());
    fs::create_dir(home.join("dir")).unwrap();
    fs::write(home.join("dir").join(&odd), b"bytes").unwrap();
    let done = home.run(&args!["add", "dir"]).code(1);
    assert!(done.error().contains("not utf-8") && done.error().contains("rename"), "{}", done.error());
    assert_eq!(home.ok(&args!["list", "-q"]).stdout, "", "nothing of it is kept");
}

#[test]
fn a_tree_is_listed_and_streamed_without_a_copy() {
    let (a, b) = (Home::new(), Home::new());
    fs::create_dir_all(a.join("tree/sub")).unwrap();
    random_file(&a.join("tree/big"), 4, 3 * MIB + 1);
    fs::write(a.join("tree/sub/note"), b"in the depth").unwrap();
    let (_a, lines) = share(&a, &[&a.join("tree")]);
    let (peer, cid) = (address(&lines[0]), text(&lines[0], "cid"));
    let listed = b.start(&args!["ls", "--json", cid, "--peer", &peer]).wait().ok().json();
    let mut names: Vec<&str> = listed.iter().map(|l| text(l, "name")).collect();
    names.sort_unstable();
    assert_eq!(names, ["big", "sub"]);
    let note = b.start(&args!["cat", format!("{cid}/sub/note"), "--peer", &peer]).wait().ok();
    assert_eq!(note.stdout, "in the depth");
    let mut command = b.command(&args!["cat", format!("{cid}/big"), "--no-bootstrap", "--peer", &peer]);
    command.args(["--listen", TCP]);
    let big = command.output().unwrap();
    assert!(big.status.success(), "{}", String::from_utf8_lossy(&big.stderr));
    assert!(big.stdout == fs::read(a.join("tree/big")).unwrap(), "cat gives other bytes");
}
