//! The layers of the crate hold: what is pure stays pure, and nobody reaches upwards.

use std::fs;
use std::path::{Path, PathBuf};

const SRC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// Files and folders without I/O, clock, global randomness or a network.
const PURE: [&str; 8] = ["units.rs", "bitfield.rs", "link.rs", "content", "wire", "engine", "dht", "lab"];
/// The command around the lab's models.
const IMPURE: [&str; 1] = ["lab/cmd.rs"];
const FORBIDDEN: [&str; 13] = [
    "tokio",
    "libp2p",
    "std::fs",
    "std::net",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "thread_rng",
    "rand::",
    "RandomState",
    "HashMap",
    "HashSet",
    "std::env",
];

/// Modules, and which others of the crate each may use. `units` and `bitfield` are open to all.
const MAY_USE: [(&str, &[&str]); 12] = [
    ("units", &[]),
    ("bitfield", &[]),
    ("content", &[]),
    ("link", &["content"]),
    ("wire", &["content"]),
    ("engine", &[]),
    ("dht", &[]),
    ("store", &["content"]),
    ("net", &["content", "dht", "wire"]),
    ("node", &["content", "dht", "link", "wire", "engine", "store", "net"]),
    ("lab", &["engine"]),
    ("http", &["content", "link", "engine", "net", "node", "lab"]),
];

/// One place that breaks a rule: file, line number, what stands there.
type Breach = (PathBuf, usize, String);

fn rust_files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let mut inside: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
        inside.sort();
        inside.iter().for_each(|p| rust_files(p, found));
    } else if path.extension().is_some_and(|e| e == "rs") {
        found.push(path.to_owned());
    }
}

/// The code of a file: no comments, no string literals' contents, nothing from `#[cfg(test)]` on (tests
/// stand at the end), with line numbers.
fn code(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut in_block = false;
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line == "#[cfg(test)]" {
            break;
        }
        if in_block {
            in_block = !line.contains("*/");
            continue;
        }
        if line.starts_with("/*") && !line.contains("*/") {
            in_block = true;
            continue;
        }
        lines.push((i + 1, without_comment_and_strings(line)));
    }
    lines
}

fn without_comment_and_strings(line: &str) -> String {
    let (mut out, mut chars, mut in_string) = (String::new(), line.chars().peekable(), false);
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => drop(chars.next()),
            // A quote as a character is no string.
            '\'' if !in_string && chars.peek() == Some(&'"') => drop(chars.next()),
            '"' => in_string = !in_string,
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => out.push(c),
        }
    }
    out
}

fn is_word(line: &str, at: usize, word: &str) -> bool {
    let ident = |c: char| c.is_alphanumeric() || c == '_';
    let before = line[..at].chars().next_back().is_some_and(ident);
    let after = line[at + word.len()..].chars().next().is_some_and(ident);
    !before && (word.ends_with(':') || !after)
}

fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| is_word(line, at, word))
}

fn impurities(text: &str) -> Vec<(usize, String)> {
    code(text).into_iter().filter(|(_, line)| FORBIDDEN.iter().any(|w| contains_word(line, w))).collect()
}

/// Modules of the crate that the code names by `crate::`, groups (`use crate::{a, b}`) included.
fn uses(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in code(text) {
        for (at, _) in line.match_indices("crate::").filter(|(at, _)| is_word(&line, *at, "crate::")) {
            let rest = &line[at + "crate::".len()..];
            let group = rest.strip_prefix('{').map(|g| g.split('}').next().unwrap_or(g));
            for name in group
                .unwrap_or(rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
                .split(',')
            {
                let name = name.trim().split("::").next().unwrap_or_default();
                found.push((number, name.to_owned()));
            }
        }
    }
    found
}

fn files_of(module: &str) -> Vec<PathBuf> {
    let (folder, file) = (Path::new(SRC).join(module), Path::new(SRC).join(format!("{module}.rs")));
    let mut found = Vec::new();
    for path in [folder, file] {
        if path.exists() {
            rust_files(&path, &mut found);
        }
    }
    assert!(!found.is_empty(), "there is no module {module}");
    found
}

/// Of a module's files those of the program: `tests.rs` and the like are compiled for tests alone.
fn is_program(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    !(name == "tests.rs"
        || name.ends_with("_tests.rs")
        || path.parent().is_some_and(|p| p.ends_with("tests")))
}

fn show(breaches: &[Breach]) -> String {
    let line = |(path, number, what): &Breach| {
        format!("{}:{number}: {what}\n", path.strip_prefix(SRC).unwrap_or(path).display())
    };
    breaches.iter().map(line).collect()
}

#[test]
fn the_pure_modules_have_no_io_no_clock_and_no_chance() {
    let mut breaches: Vec<Breach> = Vec::new();
    for name in PURE {
        let mut files = Vec::new();
        rust_files(&Path::new(SRC).join(name), &mut files);
        assert!(!files.is_empty(), "nothing at {name}");
        files.retain(|f| is_program(f) && !IMPURE.iter().any(|i| f.ends_with(i)));
        for file in files {
            let found = impurities(&fs::read_to_string(&file).unwrap());
            breaches.extend(found.into_iter().map(|(line, what)| (file.clone(), line, what)));
        }
    }
    assert!(breaches.is_empty(), "impure:\n{}", show(&breaches));
}

#[test]
fn nobody_uses_a_layer_above() {
    let modules: Vec<&str> = MAY_USE.iter().map(|(m, _)| *m).chain(["cli"]).collect();
    let mut breaches: Vec<Breach> = Vec::new();
    for (module, allowed) in MAY_USE {
        for file in files_of(module).into_iter().filter(|f| is_program(f)) {
            for (line, used) in uses(&fs::read_to_string(&file).unwrap()) {
                let open = ["units", "bitfield", module].contains(&&*used) || allowed.contains(&&*used);
                if modules.contains(&&*used) && !open {
                    breaches.push((file.clone(), line, format!("{module} uses {used}")));
                }
            }
        }
    }
    assert!(breaches.is_empty(), "layers broken:\n{}", show(&breaches));
}

#[test]
fn the_scan_finds_what_it_looks_for() {
    let planted = "
        // tokio in a comment, std::fs too
        /* libp2p
           std::net */
        use std::collections::BTreeMap;
        let tokio_like = \"tokio std::fs\"; // Instant::now
        use tokio::sync::mpsc;
        let now = std::time::Instant::now();
        let map: HashMap<u8, u8> = HashMap::new();
        let c = '\"'; let r = rand::random();
        use crate::{units, wire::frame};
        use crate::store::api as crated;
        #[cfg(test)]
        mod tests { use tokio::test; use crate::cli; }";
    let lines: Vec<usize> = impurities(planted).into_iter().map(|(n, _)| n).collect();
    assert_eq!(lines, [7, 8, 9, 10]);
    let used: Vec<String> = uses(planted).into_iter().map(|(_, m)| m).collect();
    assert_eq!(used, ["units", "wire", "store"]);
}
