//! `dunlin lab`: the documents that checks outside the project rely upon, files, and mistakes.

use std::fs;

use serde_json::{Value, json};

use crate::support::home::{Done, Home};

const SCENARIO: &str = r#"
size = 8000000
chunk = 262144
neighbours = 40

[[group]]
role = "seed"
count = 1
up = 4000000
down = 8000000
delay_ms = 5

[[group]]
role = "leecher"
count = 8
up = 2000000
down = 8000000
delay_ms = 5
join_s = 0.5
leave_after_complete = 5

[[group]]
role = "leecher"
count = 2
up = 2000000
down = 8000000
delay_ms = 5
leave_s = 2

[[group]]
role = "free-rider"
count = 1
up = 2000000
down = 8000000
delay_ms = 5

[[group]]
role = "liar"
count = 2
up = 2000000
down = 8000000
delay_ms = 5
"#;

fn lab(home: &Home, line: &str) -> Done {
    home.run(&std::iter::once("lab").chain(line.split_whitespace()).map(Into::into).collect::<Vec<_>>())
}

/// The one document on stdout.
fn document(home: &Home, line: &str) -> Value {
    let done = lab(home, line).ok();
    assert_eq!(done.stdout.lines().count(), 1, "{}", done.stdout);
    done.json().remove(0)
}

#[test]
fn a_ring_answers_as_the_lectures_do() {
    let home = Home::new();
    let ring = "ring --bits 4 --ids 1,3,4,5,8,10,12,15 --from 3 --lookup 14 --json";
    let plain = document(&home, ring);
    assert_eq!((&plain["owner"], &plain["messages"]), (&json!(15), &json!(6)));
    assert_eq!(plain["path"], json!([3, 4, 5, 8, 10, 12, 15]));
    assert_eq!(plain["peers"][0], json!({"id": 1, "successors": [3, 4], "predecessor": 15}));
    assert_eq!(plain["peers"].as_array().map(Vec::len), Some(8));
    assert_eq!(document(&home, &format!("{ring} --shortcuts"))["messages"], 2);
    assert_eq!(document(&home, &format!("{ring} --successors 3"))["messages"], 2);
    let left = document(&home, &format!("{ring} --leave 5"));
    let peers = left["peers"].as_array().unwrap();
    assert!(peers.contains(&json!({"id": 4, "successors": [8, 10], "predecessor": 3})), "{left}");
    assert!(peers.iter().all(|p| p["id"] != 5) && left["messages"] == 5, "{left}");
    for (key, owner) in [(51, 60), (60, 60), (61, 1)] {
        let line = format!("ring --bits 6 --ids 1,12,13,25,32,40,48,60 --from 1 --lookup {key} --json");
        assert_eq!(document(&home, &line)["owner"], owner, "{key}");
    }
}

#[test]
fn distribution_gives_the_bounds_and_the_simulated_time() {
    let home = Home::new();
    let line = "distribution --size 3600M --us 10M --ui 1M --down 10M --peers 1,10,100 --json";
    let rows = document(&home, line)["rows"].clone();
    assert_eq!(rows[0], json!({"n": 1, "client_server": 360.0, "p2p": 360.0, "simulated": null}));
    assert_eq!(rows[1], json!({"n": 10, "client_server": 3600.0, "p2p": 1800.0, "simulated": null}));
    let line = "distribution --size 8Mi --us 4M --ui 2M --down 8M --peers 1,4 --simulate --json";
    for row in document(&home, line)["rows"].as_array().unwrap() {
        let over = row["simulated"].as_f64().unwrap() / row["p2p"].as_f64().unwrap();
        assert!((1.0..1.4).contains(&over), "{row}");
    }
}

#[test]
fn a_scenario_gives_the_promised_fields_and_the_same_seed_the_same_bytes() {
    let home = Home::new();
    fs::write(home.join("s.toml"), SCENARIO).unwrap();
    let run = |seed: u32| lab(&home, &format!("swarm --scenario s.toml --seed {seed} --json")).ok().stdout;
    let (first, again, other) = (run(3), run(3), run(4));
    assert_eq!(first, again);
    assert_ne!(first, other);
    let report: Value = serde_json::from_str(&first).unwrap();
    let number = |field: &str| report[field].as_f64().unwrap_or_else(|| panic!("no {field}"));
    assert!((number("seconds") / number("bound") - number("ratio")).abs() < 1e-9);
    assert!(number("ratio") >= 1.0 && number("duplicate_bytes") >= 0.0);
    assert_eq!((number("peers"), number("banned")), (11.0, 2.0), "receivers; liars");
    assert!((9.0..=11.0).contains(&number("finished")), "the two that vanish need not");
}

#[test]
fn results_are_written_as_charts_and_tables() {
    let home = Home::new();
    fs::write(home.join("s.toml"), SCENARIO).unwrap();
    for (line, column) in [
        ("distribution", "n,client-server s"),
        ("swarm --scenario s.toml", "peer,role"),
        ("churn --peers 8 --size 4Mi --leaving 0,0.5", "leaving,"),
        ("fairness --contributors 6 --size 4Mi", "tit-for-tat,"),
        ("ring --peers 10,100", "peers,rule"),
        ("ring --churn --intervals 5,80", "rule,repair"),
    ] {
        lab(&home, &format!("{line} --out r.svg")).ok();
        let svg = fs::read_to_string(home.join("r.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("</svg>") && svg.contains("<text"), "{line}");
        assert!(svg.contains("<polyline"), "{line} draws a line");
        lab(&home, &format!("{line} --out r.csv")).ok();
        let csv = fs::read_to_string(home.join("r.csv")).unwrap();
        assert!(csv.starts_with(column) && csv.lines().count() > 2, "{line}: {csv}");
    }
}

#[test]
fn mistakes_are_one_line_and_exit_code_two() {
    let home = Home::new();
    for (file, from, to) in [
        ("syntax.toml", "size = 8000000", "size = = 8"),
        ("key.toml", "neighbours = 40", "neighbors = 40"),
        ("role.toml", "\"liar\"", "\"king\""),
        ("rate.toml", "up = 4000000", "up = -1"),
        ("seedless.toml", "\"seed\"", "\"leecher\""),
    ] {
        fs::write(home.join(file), SCENARIO.replacen(from, to, 1)).unwrap();
    }
    for (line, word) in [
        ("", "--help"),
        ("swrm", "swarm"),
        ("swarm", "--scenario"),
        ("swarm --scenario nowhere.toml", "nowhere.toml"),
        ("swarm --scenario syntax.toml", "line 2"),
        ("swarm --scenario key.toml", "neighbors"),
        ("swarm --scenario role.toml", "king"),
        ("swarm --scenario rate.toml", "rate.toml"),
        ("swarm --scenario seedless.toml", "seed"),
        ("swarm --scenario uniform --seed x", "--seed"),
        ("swarm --scenario uniform --slots 0", "--slots"),
        ("swarm --scenario uniform --out x.png", ".svg or .csv"),
        ("distribution --peers 0", "--peers"),
        ("distribution --size 0", "--size"),
        ("ring --bits 4 --ids 1,3,3", "3"),
        ("ring --bits 4 --ids 1,30", "30"),
        ("ring --bits 4 --ids 1,3 --from 2 --lookup 3", "2"),
        ("ring --bits 4 --ids 1,3 --from 1", "--lookup"),
        ("ring --bits 4 --ids 1,3 --from 1 --lookup 16", "16"),
        ("ring --bits 4 --ids 1,3 --leave 7", "7"),
        ("ring --bits 4 --ids 1,3 --leave 1 --leave 3", "peer"),
        ("check nothing", "uniform"),
    ] {
        let done = lab(&home, line);
        let shown = format!("{line}: {:?} {:?}", done.code, done.stderr);
        assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""), "{shown}");
        assert!(done.stderr.lines().count() == 1 && done.stderr.starts_with("dunlin: "), "{shown}");
        assert!(done.stderr.contains(word), "no {word:?} in {shown}");
    }
}

/// Without them a simulated swarm of a thousand takes up to a fifth longer.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_simulated_swarm_has_huge_pages_where_the_system_gives_them() {
    use std::process::Command;
    use std::thread;
    use std::time::{Duration, Instant};

    use crate::support::home::{LONG, Running};

    let given = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if !given.is_ok_and(|text| text.contains("[madvise]")) {
        println!("skipped: this system gives no huge pages, or to everybody");
        return;
    }
    let version = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let version =
        version.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    let minor = version.strip_prefix("glibc 2.").and_then(|minor| minor.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < 35) {
        println!("skipped: glibc 2.35 is needed, and here is {version:?}");
        return;
    }
    let home = Home::new();
    let mut command = home.command(&["lab", "swarm", "--scenario", "flash-crowd"].map(Into::into));
    command.env_remove("GLIBC_TUNABLES").env_remove("DUNLIN_STARTED_AGAIN");
    let mut swarm = Running::spawn(command);
    // `hg`: huge pages were asked for, proc_pid_smaps(5).
    let asked = |maps: &str| {
        maps.lines().filter_map(|l| l.strip_prefix("VmFlags:")).any(|f| f.split(' ').any(|flag| flag == "hg"))
    };
    let maps = format!("/proc/{}/smaps", swarm.pid());
    let until = Instant::now() + LONG;
    while !fs::read_to_string(&maps).is_ok_and(|text| asked(&text)) {
        assert!(!swarm.has_ended(), "{}", swarm.stderr());
        assert!(Instant::now() < until, "no huge pages are asked for");
        thread::sleep(Duration::from_millis(10));
    }
    swarm.kill();
}
