//! `dunlin lab ...`: arguments, files and output; the models themselves touch neither.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use rayon::prelude::*;
use serde::Serialize;

use super::bounds::{self, Family};
use super::distribution::{Row, Setting, rows};
use super::experiments::{self, ChurnSwarm, Fairness};
use super::plot::PlotError;
use super::quantity::parse_quantity;
use super::report::Report;
use super::ring::{self, RingError};
use super::scenario::{Scenario, ScenarioError, Slots};
use super::show::{self, Rows, Shown};
use super::sim::{self, SimError};
use crate::units::CHUNK_LEN;

/// The simulator and its plots.
#[derive(Debug, Args)]
pub struct LabArgs {
    #[command(subcommand)]
    pub command: LabCommand,
    /// Print one JSON document instead of a table
    #[arg(long, global = true)]
    pub json: bool,
    /// Write the result to FILE.svg (a chart) or FILE.csv (a table) too
    #[arg(long, value_name = "FILE", global = true)]
    pub out: Option<PathBuf>,
}

/// What to look at.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// The least time to distribute a file, client-server and peer-to-peer, against the number of peers
    Distribution(DistributionArgs),
    /// One simulated swarm from a scenario file
    Swarm(SwarmArgs),
    /// What a free-rider gets, with and without tit-for-tat and optimistic unchoke
    Fairness(FairnessArgs),
    /// The circular DHT: one look-up, neighbours against messages, or look-ups under churn
    Ring(RingArgs),
    /// A swarm that peers leave and join: time to finish and wasted bytes
    Churn(ChurnArgs),
    /// Simulate what the engine promises and compare with the bounds; exit code 1 if one is missed
    Check(CheckArgs),
}

impl LabCommand {
    /// Whether whole swarms are simulated: that takes long, and much memory.
    pub fn simulates(&self) -> bool {
        match self {
            LabCommand::Distribution(a) => a.simulate,
            LabCommand::Ring(_) => false,
            LabCommand::Swarm(_) | LabCommand::Fairness(_) | LabCommand::Churn(_) | LabCommand::Check(_) => {
                true
            }
        }
    }
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Which promises: four-seeds, vanish, liars, heterogeneous, free-rider, newcomer, uniform,
    /// flash-crowd; all by default
    #[arg(value_name = "NAME", value_parser = parse_family)]
    pub names: Vec<Family>,
    /// Seeds of each case: 1 to N
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub seeds: u64,
    /// Swarms simulated at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,
}

/// The default is the lecture's example: F/u = 1 h, u_s = 10 u.
#[derive(Debug, Args)]
pub struct DistributionArgs {
    /// The file's size
    #[arg(long, value_name = "BYTES", default_value = "3600M", value_parser = parse_quantity)]
    pub size: u64,
    /// The server's up-link (also the first seed's)
    #[arg(long, value_name = "RATE", default_value = "10M", value_parser = parse_quantity)]
    pub us: u64,
    /// Each receiver's up-link
    #[arg(long, value_name = "RATE", default_value = "1M", value_parser = parse_quantity)]
    pub ui: u64,
    /// Each receiver's down-link
    #[arg(long, value_name = "RATE", default_value = "10M", value_parser = parse_quantity)]
    pub down: u64,
    /// Numbers of receivers
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,2,5,10,15,20,25,30,35")]
    pub peers: Vec<u64>,
    /// Simulate the swarm too
    #[arg(long)]
    pub simulate: bool,
    /// The length of a chunk in the simulation
    #[arg(long, value_name = "BYTES", default_value_t = u64::from(CHUNK_LEN), value_parser = parse_quantity)]
    pub chunk: u64,
    /// The seed of the simulation's chance
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct SwarmArgs {
    /// A scenario file, or the name of one that is shipped
    #[arg(long, value_name = "FILE")]
    pub scenario: PathBuf,
    /// The seed of the simulation's chance
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Upload slots: `auto` or a number, in place of the scenario's
    #[arg(long, value_name = "N", value_parser = parse_slots)]
    pub slots: Option<Slots>,
}

#[derive(Debug, Args)]
pub struct FairnessArgs {
    /// Peers that upload
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub contributors: u32,
    /// Peers that do not
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub riders: u32,
    /// The content's size
    #[arg(long, value_name = "BYTES", default_value = "128Mi", value_parser = parse_quantity)]
    pub size: u64,
    /// Each up-link
    #[arg(long, value_name = "RATE", default_value = "2M", value_parser = parse_quantity)]
    pub up: u64,
    /// Upload slots: `auto` or a number
    #[arg(long, value_name = "N", default_value = "auto", value_parser = parse_slots)]
    pub slots: Slots,
    /// The seed of the simulation's chance
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct RingArgs {
    /// IDs are below 2^BITS
    #[arg(long, value_name = "BITS", default_value_t = 6)]
    pub bits: u32,
    /// The ring's peers; without them: neighbours against messages for growing rings
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    pub ids: Vec<u64>,
    /// Who asks
    #[arg(long, value_name = "ID", requires = "ids")]
    pub from: Option<u64>,
    /// The key that is asked for
    #[arg(long, value_name = "KEY", requires = "ids")]
    pub lookup: Option<u64>,
    /// Keep shortcuts: the owners of one's own ID + 2^i
    #[arg(long, conflicts_with = "successors")]
    pub shortcuts: bool,
    /// Know and use K successors (without it: two are known, one is used)
    #[arg(long, value_name = "K")]
    pub successors: Option<usize>,
    /// This peer goes without a goodbye (may be repeated); the ring is shown after repair
    #[arg(long, value_name = "ID", requires = "ids")]
    pub leave: Vec<u64>,
    /// Look-ups that fail while peers come and go, against the repair interval
    #[arg(long, conflicts_with = "ids")]
    pub churn: bool,
    /// Numbers of peers for the comparison
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "10,100,1000,10000,100000")]
    pub peers: Vec<u64>,
    /// Seconds between repairs for --churn
    #[arg(long, value_name = "S,...", value_delimiter = ',', default_value = "1,2,5,10,20,40,80")]
    pub intervals: Vec<f64>,
    /// The seed of the simulation's chance
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct ChurnArgs {
    /// Receivers at the start
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub peers: u32,
    /// The content's size
    #[arg(long, value_name = "BYTES", default_value = "64Mi", value_parser = parse_quantity)]
    pub size: u64,
    /// The seed's up-link
    #[arg(long, value_name = "RATE", default_value = "4M", value_parser = parse_quantity)]
    pub us: u64,
    /// Each receiver's up-link
    #[arg(long, value_name = "RATE", default_value = "2M", value_parser = parse_quantity)]
    pub ui: u64,
    /// Each receiver's down-link
    #[arg(long, value_name = "RATE", default_value = "8M", value_parser = parse_quantity)]
    pub down: u64,
    /// The parts of the peers that vanish; as many others join
    #[arg(long, value_name = "PART,...", value_delimiter = ',', default_value = "0,0.1,0.2,0.3,0.5,0.7")]
    pub leaving: Vec<f64>,
    /// The seed of the simulation's chance
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Why a command of the lab failed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("{0}")]
    Usage(String),
    #[error("cannot read {path}: {source}; shipped are {}", shipped_names())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot print the result: {0}")]
    Print(#[from] std::io::Error),
    #[error("cannot print the result: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{path}: {source}")]
    Scenario { path: PathBuf, source: ScenarioError },
    #[error(transparent)]
    Sim(#[from] SimError),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    Plot(#[from] PlotError),
    #[error("{missed} of {all} figures miss their bound: {first}")]
    Missed { missed: usize, all: usize, first: String },
    #[error("cannot start {jobs} threads: {source}")]
    Threads { jobs: u16, source: rayon::ThreadPoolBuildError },
}

impl LabError {
    /// Whether the command line is at fault (exit code 2).
    pub fn is_usage(&self) -> bool {
        match self {
            LabError::Usage(_) | LabError::Scenario { .. } => true,
            LabError::Read { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            LabError::Sim(SimError::Scenario(_)) => true,
            LabError::Ring(e) => !matches!(e, RingError::Lost(_)),
            _ => false,
        }
    }
}

/// Runs one command of the lab; results go to `out`, charts and tables to `--out`.
pub fn run(args: &LabArgs, out: &mut dyn Write) -> Result<(), LabError> {
    check_out(args.out.as_deref())?;
    match &args.command {
        LabCommand::Distribution(a) => finish(args, out, &distribution(a)?, show::distribution),
        LabCommand::Swarm(a) => finish(args, out, &swarm(a)?, show::swarm),
        LabCommand::Fairness(a) => finish(args, out, &fairness(a)?, show::fairness),
        LabCommand::Check(a) => check(args, out, a),
        LabCommand::Churn(a) => finish(args, out, &churn(a)?, show::churn),
        LabCommand::Ring(a) if a.churn => finish(args, out, &ring_churn(a)?, show::ring_churn),
        LabCommand::Ring(a) if a.ids.is_empty() => finish(args, out, &ring_curve(a)?, show::ring_curve),
        LabCommand::Ring(a) => finish(args, out, &ring_example(a)?, show::ring_example),
    }
}

/// Prints the result and writes the file.
fn finish<T: Serialize>(
    args: &LabArgs,
    out: &mut dyn Write,
    result: &T,
    show: impl Fn(&T) -> Shown,
) -> Result<(), LabError> {
    let shown = show(result);
    if let Some(path) = &args.out {
        let svg = path.extension().is_some_and(|e| e == "svg");
        let text = match &shown.chart {
            Some(chart) if svg => chart.to_svg()?,
            None if svg => {
                return Err(LabError::Usage("this result has no chart: write it to a .csv file".into()));
            }
            _ => shown.table.to_csv(),
        };
        std::fs::write(path, text).map_err(|source| LabError::Write { path: path.clone(), source })?;
    }
    if args.json {
        serde_json::to_writer(&mut *out, result)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", shown.text)?;
    }
    Ok(())
}

/// A wrong file name is found before minutes of simulation, not after.
fn check_out(out: Option<&Path>) -> Result<(), LabError> {
    match out.map(|p| p.extension().and_then(|e| e.to_str())) {
        None | Some(Some("svg" | "csv")) => Ok(()),
        _ => Err(LabError::Usage("--out needs a name that ends in .svg or .csv".into())),
    }
}

fn parse_slots(text: &str) -> Result<Slots, String> {
    match text {
        "auto" => Ok(Slots::Auto),
        n => match n.parse() {
            Ok(n) if (1..=1000).contains(&n) => Ok(Slots::Fixed(n)),
            _ => Err("write `auto` or a number from 1 to 1000".into()),
        },
    }
}

fn distribution(a: &DistributionArgs) -> Result<Rows<Row>, LabError> {
    for (flag, value) in [("--size", a.size), ("--us", a.us), ("--ui", a.ui), ("--down", a.down)] {
        if value == 0 {
            return Err(LabError::Usage(format!("{flag} must be above 0")));
        }
    }
    if a.peers.contains(&0) {
        return Err(LabError::Usage("--peers takes numbers from 1".into()));
    }
    let setting =
        Setting { size: a.size as f64, server_up: a.us as f64, peer_up: a.ui as f64, down: a.down as f64 };
    if !a.simulate {
        return Ok(Rows { rows: rows(&setting, &a.peers) });
    }
    let chunk = u32::try_from(a.chunk).map_err(|_| LabError::Usage("--chunk is at most 2Mi".into()))?;
    Ok(Rows { rows: experiments::simulated_rows(&setting, chunk, &a.peers, a.seed)? })
}

/// The scenarios that come with the program.
const SHIPPED: &[(&str, &str)] = &[
    ("uniform", include_str!("../../config/scenarios/uniform.toml")),
    ("heterogeneous", include_str!("../../config/scenarios/heterogeneous.toml")),
    ("flash-crowd", include_str!("../../config/scenarios/flash-crowd.toml")),
    ("churn", include_str!("../../config/scenarios/churn.toml")),
    ("liars", include_str!("../../config/scenarios/liars.toml")),
    ("free-riders", include_str!("../../config/scenarios/free-riders.toml")),
    ("slow-loris", include_str!("../../config/scenarios/slow-loris.toml")),
    ("four-seeds", include_str!("../../config/scenarios/four-seeds.toml")),
];

fn shipped_names() -> String {
    SHIPPED.iter().map(|s| s.0).collect::<Vec<_>>().join(", ")
}

fn swarm(a: &SwarmArgs) -> Result<Report, LabError> {
    let path = a.scenario.clone();
    let shipped = SHIPPED.iter().find(|s| Path::new(s.0) == path && !path.exists());
    let text = match shipped {
        Some((_, text)) => (*text).to_owned(),
        None => {
            std::fs::read_to_string(&path).map_err(|source| LabError::Read { path: path.clone(), source })?
        }
    };
    let mut scenario = Scenario::parse(&text).map_err(|source| LabError::Scenario { path, source })?;
    scenario.slots = a.slots.unwrap_or(scenario.slots);
    Ok(sim::run(&scenario, a.seed)?)
}

fn fairness(a: &FairnessArgs) -> Result<Rows<experiments::FairnessRow>, LabError> {
    let f = Fairness {
        contributors: a.contributors,
        riders: a.riders,
        size: a.size,
        up: a.up as f64,
        slots: a.slots,
        seed: a.seed,
    };
    Ok(Rows { rows: experiments::fairness(&f)? })
}

fn churn(a: &ChurnArgs) -> Result<Rows<experiments::ChurnRow>, LabError> {
    if a.leaving.iter().any(|p| !(0.0..=1.0).contains(p)) {
        return Err(LabError::Usage("--leaving takes parts from 0 to 1".into()));
    }
    let c = ChurnSwarm {
        peers: a.peers,
        size: a.size,
        seed_up: a.us as f64,
        up: a.ui as f64,
        down: a.down as f64,
        seed: a.seed,
    };
    Ok(Rows { rows: experiments::churn(&c, &a.leaving)? })
}

fn parse_family(text: &str) -> Result<Family, String> {
    let named = bounds::FAMILIES.iter().find(|f| f.0 == text);
    named.map(|f| f.1).ok_or_else(|| {
        let names: Vec<&str> = bounds::FAMILIES.iter().map(|f| f.0).collect();
        format!("write one of {}", names.join(", "))
    })
}

/// Runs the cases, some at a time; the table keeps their order, and progress goes to stderr.
fn check(args: &LabArgs, out: &mut dyn Write, a: &CheckArgs) -> Result<(), LabError> {
    let all: Vec<Family> = bounds::FAMILIES.iter().map(|f| f.1).collect();
    let families = if a.names.is_empty() { &all } else { &a.names };
    let has_chart = families.contains(&Family::Uniform);
    if args.out.as_ref().is_some_and(|p| p.extension().is_some_and(|e| e == "svg")) && !has_chart {
        let what = "only `uniform` has a chart: name it too, or write to a .csv file";
        return Err(LabError::Usage(what.into()));
    }
    let cases: Vec<bounds::Case> = families.iter().flat_map(|f| bounds::cases(*f, a.seeds)).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(usize::from(a.jobs));
    let pool = pool.build().map_err(|source| LabError::Threads { jobs: a.jobs, source })?;
    let done = std::sync::atomic::AtomicUsize::new(0);
    let run = |case: &bounds::Case| {
        let figures = case.run()?;
        let n = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let line: Vec<String> = figures.iter().map(|f| format!("{} {:.4}", f.what, f.value)).collect();
        // Nothing is lost if nobody reads the progress.
        let _ = writeln!(std::io::stderr(), "{n}/{}: {}: {}", cases.len(), case.name(), line.join(", "));
        Ok(figures)
    };
    let figures: Result<Vec<Vec<bounds::Figure>>, SimError> =
        pool.install(|| cases.par_iter().map(run).collect());
    let rows = Rows { rows: figures?.concat() };
    finish(args, out, &rows, show::check)?;
    let missed = || rows.rows.iter().filter(|f| !f.holds);
    match missed().next() {
        None => Ok(()),
        Some(f) => Err(LabError::Missed {
            missed: missed().count(),
            all: rows.rows.len(),
            first: format!("{}, seed {}: {} {:.4}", f.case, f.seed, f.what, f.value),
        }),
    }
}

fn ring_example(a: &RingArgs) -> Result<ring::example::Outcome, LabError> {
    let lookup = match (a.from, a.lookup) {
        (Some(from), Some(key)) => Some((from, key)),
        (None, None) => None,
        _ => return Err(LabError::Usage("--from and --lookup belong together".into())),
    };
    if a.successors == Some(0) {
        return Err(LabError::Usage("--successors must be at least 1".into()));
    }
    let example = ring::example::Example {
        bits: a.bits,
        ids: a.ids.clone(),
        lookup,
        shortcuts: a.shortcuts,
        successors: a.successors,
        leave: a.leave.clone(),
    };
    Ok(ring::example::run(&example)?)
}

fn ring_curve(a: &RingArgs) -> Result<Rows<ring::curve::Point>, LabError> {
    if a.peers.iter().any(|&n| !(2..=1_000_000).contains(&n)) {
        return Err(LabError::Usage("--peers takes numbers from 2 to 1000000".into()));
    }
    Ok(Rows { rows: ring::curve::curve(&a.peers, &[1, 2, 4, 8, 16, 32], 1000, a.seed)? })
}

fn ring_churn(a: &RingArgs) -> Result<Rows<ring::churn::Point>, LabError> {
    if a.intervals.iter().any(|i| !(0.1..=3600.0).contains(i)) {
        return Err(LabError::Usage("--intervals takes seconds from 0.1 to 3600".into()));
    }
    let (stay, span) = (Duration::from_secs(1200), Duration::from_secs(1200));
    let churn = ring::churn::Churn { peers: 128, stay, span, seed: a.seed };
    Ok(Rows { rows: ring::churn::curve(&churn, &a.intervals)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        lab: LabArgs,
    }

    fn lab(line: &str) -> Result<String, LabError> {
        let cli = Cli::try_parse_from(std::iter::once("lab").chain(line.split_whitespace()))
            .map_err(|e| LabError::Usage(e.to_string()))?;
        let mut out = Vec::new();
        run(&cli.lab, &mut out)?;
        Ok(String::from_utf8(out).expect("the lab prints UTF-8"))
    }

    fn json(line: &str) -> serde_json::Value {
        let text = lab(&format!("{line} --json")).unwrap();
        assert_eq!(text.lines().count(), 1, "one document on one line");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_ring_document_has_the_promised_form() {
        let base = "ring --bits 4 --ids 1,3,4,5,8,10,12,15 --from 3 --lookup 14";
        let plain = json(base);
        assert_eq!((plain["owner"].as_u64(), plain["messages"].as_u64()), (Some(15), Some(6)));
        assert_eq!(json(&format!("{base} --shortcuts"))["messages"], 2);
        assert_eq!(json(&format!("{base} --successors 2"))["messages"], 3);
        let after = json(&format!("{base} --leave 5 --leave 10"));
        let four = after["peers"].as_array().unwrap().iter().find(|p| p["id"] == 4).unwrap().clone();
        assert_eq!(four, serde_json::json!({"id": 4, "successors": [8, 12], "predecessor": 3}));
    }

    #[test]
    fn the_distribution_document_has_the_promised_form() {
        let d = json("distribution --size 3600M --us 10M --ui 1M --down 10M --peers 1,10,100");
        let row = &d["rows"][1];
        assert_eq!((row["n"].as_u64(), row["client_server"].as_f64()), (Some(10), Some(3600.0)));
        assert_eq!((row["p2p"].as_f64(), row["simulated"].is_null()), (Some(1800.0), true));
        let s = json("distribution --size 1M --us 4M --ui 2M --down 8M --peers 2 --simulate --chunk 64Ki");
        assert!(s["rows"][0]["simulated"].as_f64() > s["rows"][0]["p2p"].as_f64());
    }

    #[test]
    fn every_shipped_scenario_is_valid() {
        for (name, text) in SHIPPED {
            let s = Scenario::parse(text).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(!s.name.is_empty(), "{name}");
        }
    }

    #[test]
    fn mistakes_are_usage_errors_that_name_the_thing() {
        for (line, says) in [
            ("ring --ids 1,2 --from 1", "--from and --lookup"),
            ("ring --bits 4 --ids 1,99", "99"),
            ("ring --ids 1,2 --from 1 --lookup 2 --successors 0", "--successors"),
            ("distribution --us 0", "--us"),
            ("distribution --us 5x", "5x"),
            ("distribution --peers 0,1", "--peers"),
            ("check no-such-promise", "four-seeds"),
            ("check --seeds 0", "--seeds"),
            ("distribution --out plot.png", ".svg or .csv"),
            ("check newcomer liars --out plot.svg", "only `uniform` has a chart"),
            ("churn --leaving 2", "--leaving"),
            ("distribution --simulate --peers 30000", "20,000"),
        ] {
            let e = lab(line).unwrap_err();
            assert!(e.is_usage() && e.to_string().contains(says), "{line}: {e}");
        }
        let e = lab("swarm --scenario no-such-scenario").unwrap_err();
        assert!(e.is_usage() && e.to_string().contains("no-such-scenario"));
        assert!(e.to_string().contains("flash-crowd"), "what there is is named: {e}");
    }
}
