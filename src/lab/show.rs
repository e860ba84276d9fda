//! How the lab's results look: a text to read, a table for CSV, a chart for SVG.

use std::collections::BTreeMap;

use serde::Serialize;

use super::bounds::{Bound, Figure, TIME};
use super::distribution::Row;
use super::experiments::{ChurnRow, FairnessRow};
use super::plot::{Cell, Chart, Series, Table};
use super::quantity::show_bytes;
use super::report::Report;
use super::ring;
use super::scenario::Role;

/// A result in every form that it may be asked for in.
pub struct Shown {
    /// What a person reads first.
    pub text: String,
    /// What goes to a CSV file.
    pub table: Table,
    pub chart: Option<Chart>,
}

/// A series of results, `{"rows": [...]}` in JSON.
#[derive(Debug, Serialize)]
pub struct Rows<T> {
    pub rows: Vec<T>,
}

/// The two bounds, and the simulation beside them.
pub fn distribution(r: &Rows<Row>) -> Shown {
    let mut table = Table::new(&["n", "client-server s", "peer-to-peer s", "simulated s", "over the bound"]);
    for row in &r.rows {
        table.push(vec![
            Cell::Int(row.n),
            Cell::Real(row.client_server),
            Cell::Real(row.p2p),
            row.simulated.into(),
            row.simulated.filter(|_| row.p2p > 0.0).map(|s| s / row.p2p).into(),
        ]);
    }
    let chart = Chart {
        title: "least distribution time".into(),
        x: "receivers".into(),
        y: "seconds".into(),
        log: false,
        series: table.series(0, &[1, 2, 3]),
    };
    Shown { text: table.to_text(), table, chart: Some(chart) }
}

/// One swarm: a summary, a row for each peer, its course.
pub fn swarm(r: &Report) -> Shown {
    let of_useful = |bytes: u64| 100.0 * bytes as f64 / r.useful_bytes.max(1) as f64;
    let mut text = format!(
        "{}\nfinished      {} of {}\ntime          {:.2} s, {:.3} of the bound {:.2} s\n",
        r.name, r.finished, r.peers, r.seconds, r.ratio, r.bound
    );
    let times = r.finish_times(Role::Leecher);
    if let (Some(first), Some(last)) = (times.first(), times.last()) {
        let median = times[times.len() / 2];
        text += &format!("finish times  first {first:.2} s, median {median:.2} s, last {last:.2} s\n");
    }
    for (what, bytes) in [("duplicate", r.duplicate_bytes), ("bad", r.bad_bytes), ("lost", r.lost_bytes)] {
        text += &format!(
            "{what:13} {} ({:.2} % of what was of use)\n",
            show_bytes(bytes as f64),
            of_useful(bytes)
        );
    }
    text += &format!("banned        {}\nseeds sent    {:.2} copies\n", r.banned, r.seed_copies);
    let table = r.peer_table();
    if r.each.len() <= 40 {
        text += &format!("\n{}", table.to_text());
    }
    Shown { text, table, chart: Some(r.chart()) }
}

/// Rates of contributors and free-riders under each set of rules.
pub fn fairness(r: &Rows<FairnessRow>) -> Shown {
    let mut table = Table::new(&[
        "tit-for-tat",
        "optimistic",
        "contributor B/s",
        "free-rider B/s",
        "share",
        "last first chunk s",
        "contributors s",
        "free-riders s",
    ]);
    let on = |b: bool| Cell::Text(if b { "on" } else { "off" }.to_owned());
    for row in &r.rows {
        table.push(vec![
            on(row.tit_for_tat),
            on(row.optimistic),
            Cell::Real(row.contributor),
            Cell::Real(row.rider),
            Cell::Real(row.share),
            Cell::Real(row.last_first_chunk),
            Cell::Real(row.contributors_s),
            Cell::Real(row.riders_s),
        ]);
    }
    let point = |y: fn(&FairnessRow) -> f64| {
        r.rows.iter().enumerate().map(|(i, row)| (i as f64 + 1.0, y(row) / 1e6)).collect()
    };
    let chart = Chart {
        title: "rates until the first contributor has finished".into(),
        x: "1: both rules, 2: tit-for-tat only, 3: optimistic only, 4: neither".into(),
        y: "MB/s".into(),
        log: false,
        series: vec![
            Series { name: "median contributor".into(), points: point(|r| r.contributor) },
            Series { name: "median free-rider".into(), points: point(|r| r.rider) },
        ],
    };
    Shown { text: table.to_text(), table, chart: Some(chart) }
}

/// A row for each rate of churn.
pub fn churn(r: &Rows<ChurnRow>) -> Shown {
    let mut table =
        Table::new(&["leaving", "last finished s", "bound s", "mean s", "wasted", "finished", "stayed"]);
    for row in &r.rows {
        table.push(vec![
            Cell::Real(row.leaving),
            Cell::Real(row.seconds),
            Cell::Real(row.bound),
            Cell::Real(row.mean_s),
            Cell::Real(row.wasted),
            Cell::Int(row.finished.into()),
            Cell::Int(row.stayed.into()),
        ]);
    }
    let points = r.rows.iter().map(|row| (row.leaving, 100.0 * row.wasted)).collect();
    let wasted = Series { name: "wasted, %".into(), points };
    let chart = Chart {
        title: "time to finish and wasted bytes while peers leave and join".into(),
        x: "part of the peers that vanishes; as many join".into(),
        y: "seconds, and percent of the bytes of use".into(),
        log: false,
        series: [table.series(0, &[1, 2, 3]), vec![wasted]].concat(),
    };
    Shown { text: table.to_text(), table, chart: Some(chart) }
}

/// Every figure beside its bound.
pub fn check(r: &Rows<Figure>) -> Shown {
    let mut table = Table::new(&["case", "seed", "figure", "value", "bound", "holds"]);
    for f in &r.rows {
        let bound = match f.bound {
            Bound::AtMost(x) => Cell::Text(format!("<= {x}")),
            Bound::AtLeast(x) => Cell::Text(format!(">= {x}")),
            Bound::None => Cell::Empty,
        };
        let holds = if f.holds { "yes" } else { "NO" };
        table.push(vec![
            Cell::Text(f.case.clone()),
            Cell::Int(f.seed),
            Cell::Text(f.what.to_owned()),
            Cell::Real(f.value),
            bound,
            Cell::Text(holds.to_owned()),
        ]);
    }
    // Time over D against N, the worst seed of each, is what a picture tells.
    let line = |name: &str, auto: bool| {
        let rows = r.rows.iter().filter(|f| f.what == TIME && f.name == "uniform" && f.auto == auto);
        let mut worst: BTreeMap<u32, f64> = BTreeMap::new();
        for f in rows {
            let w = worst.entry(f.n).or_insert(f.value);
            *w = w.max(f.value);
        }
        let points = worst.into_iter().map(|(n, v)| (f64::from(n).log2(), 100.0 * (v - 1.0))).collect();
        Series { name: name.to_owned(), points }
    };
    let chart = Chart {
        title: "what a swarm takes beyond the lower bound D".into(),
        x: "log2 of the number of leechers".into(),
        y: "percent more than D".into(),
        log: false,
        series: vec![line("auto, worst of the seeds", true), line("4 + 1 slots", false)],
    };
    let chart = chart.series.iter().any(|s| !s.points.is_empty()).then_some(chart);
    Shown { text: table.to_text(), table, chart }
}

/// The answer and the ring.
pub fn ring_example(o: &ring::example::Outcome) -> Shown {
    let list = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    let mut table = Table::new(&["peer", "predecessor", "successors", "shortcuts"]);
    for p in &o.peers {
        let before = p.predecessor.map_or(Cell::Empty, Cell::Int);
        let (next, far) = (list(&p.successors), list(&p.shortcuts));
        table.push(vec![Cell::Int(p.id), before, Cell::Text(next), Cell::Text(far)]);
    }
    let mut text = String::new();
    if let (Some(owner), Some(messages)) = (o.owner, o.messages) {
        text += &format!("owner     {owner}\nmessages  {messages}\npath      {}\n\n", list(&o.path));
    }
    text += &table.to_text();
    Shown { text, table, chart: None }
}

/// Neighbours against messages; the chart is of the largest ring.
pub fn ring_curve(r: &Rows<ring::curve::Point>) -> Shown {
    let mut table = Table::new(&["peers", "rule", "neighbours", "messages", "worst"]);
    for p in &r.rows {
        let (rule, n) = (Cell::Text(p.rule.clone()), Cell::Real(p.neighbours));
        table.push(vec![Cell::Int(p.n), rule, n, Cell::Real(p.messages), Cell::Int(p.worst.into())]);
    }
    let largest = r.rows.iter().map(|p| p.n).max().unwrap_or(0);
    let line = |name: &str, pick: &dyn Fn(&ring::curve::Point) -> bool| {
        let rows = r.rows.iter().filter(|p| p.n == largest && pick(p));
        Series { name: name.to_owned(), points: rows.map(|p| (p.neighbours, p.messages)).collect() }
    };
    // One point each would not show: a short stroke does.
    let dot = |name: &str, rule: &str| {
        let mut s = line(name, &|p| p.rule == rule);
        s.points = s.points.iter().flat_map(|&(x, y)| [(x * 0.93, y), (x * 1.07, y)]).collect();
        s
    };
    let chart = Chart {
        title: format!("neighbours against messages, {largest} peers"),
        x: "neighbours".into(),
        y: "messages a look-up".into(),
        log: true,
        series: vec![
            line("1, 2, 4 ... successors", &|p| {
                p.rule.starts_with("successor") || p.rule.ends_with("successors")
            }),
            dot("shortcuts", "shortcuts"),
            dot("Kademlia, k = 20", "kademlia k=20"),
        ],
    };
    Shown { text: table.to_text(), table, chart: Some(chart) }
}

/// Failed look-ups against the repair interval.
pub fn ring_churn(r: &Rows<ring::churn::Point>) -> Shown {
    let mut table = Table::new(&["rule", "repair every s", "look-ups", "failed", "upkeep messages/s a peer"]);
    for p in &r.rows {
        let (rule, every) = (Cell::Text(p.rule.clone()), Cell::Real(p.interval));
        table.push(vec![rule, every, Cell::Int(p.lookups), Cell::Real(p.failed), Cell::Real(p.upkeep)]);
    }
    let mut rules: Vec<&str> = r.rows.iter().map(|p| p.rule.as_str()).collect();
    rules.sort_unstable();
    rules.dedup();
    let line = |rule: &str| {
        let rows = r.rows.iter().filter(|p| p.rule == rule);
        Series { name: rule.to_owned(), points: rows.map(|p| (p.interval, p.failed)).collect() }
    };
    let chart = Chart {
        title: "look-ups that fail while peers come and go".into(),
        x: "seconds between repairs".into(),
        y: "part that fails".into(),
        log: false,
        series: rules.into_iter().map(line).collect(),
    };
    Shown { text: table.to_text(), table, chart: Some(chart) }
}
