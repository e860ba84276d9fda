//! `dunlin status`: what the node does.

use anyhow::Result;

use super::Context;
use super::escape::escape;
use super::human;
use super::list::contents_table;
use super::session::{Need, Session};
use crate::net::dht::ProvideStatus;
use crate::node::api::Status;

pub async fn run(context: &Context) -> Result<()> {
    let session = Session::open(&context.resolved, Need::Store, &context.signals).await?;
    let result = print(context, &session).await;
    session.finish(&context.signals).await;
    result
}

async fn print(context: &Context, session: &Session) -> Result<()> {
    let status = session.client.status().await?;
    let out = context.out();
    if out.is_json() {
        out.json(&status)?;
    } else if out.is_quiet() {
        out.line(running(&status, session))?;
    } else {
        out.text(&describe(&status, session))?;
    }
    Ok(())
}

fn running(status: &Status, session: &Session) -> &'static str {
    match session.attached() {
        _ if status.daemon => "daemon",
        Some(_) => "foreground",
        None => "offline",
    }
}

/// `server, 512 servers known, 3 provided (1 of them late)`.
fn dht_line(dht: &ProvideStatus, unreachable: &str) -> String {
    let role = if dht.server { "server" } else { "client" };
    let provided = match dht {
        _ if !dht.reachable => format!("nothing provided: {unreachable}"),
        ProvideStatus { waiting: 0, late: 0, keys, .. } => format!("{keys} provided"),
        ProvideStatus { keys, waiting, late, .. } => {
            format!("{keys} provided ({waiting} not told yet, {late} late)")
        }
    };
    format!("{role}, {} servers known, {provided}", dht.servers)
}

fn describe(status: &Status, session: &Session) -> String {
    let node = match running(status, session) {
        "daemon" => format!("a daemon, up {}", human::duration(status.uptime_s)),
        "foreground" => format!("a foreground command's, up {}", human::duration(status.uptime_s)),
        _ => "none runs; `dunlin daemon` starts one".to_owned(),
    };
    let mut out = format!("node       {node}\npeer ID    {}\n", escape(&status.peer_id));
    for (i, address) in status.listen.iter().enumerate() {
        let label = if i == 0 { "listens on" } else { "          " };
        out.push_str(&format!("{label} {}\n", escape(address)));
    }
    if session.attached().is_some() {
        out.push_str(&format!("peers      {}\n", status.peers));
        for (label, rate, all) in [
            ("down      ", status.down_rate, status.downloaded),
            ("up        ", status.up_rate, status.uploaded),
        ] {
            out.push_str(&format!("{label} {} ({} in all)\n", human::rate(rate), human::bytes(all)));
        }
    }
    if let Some(dht) = status.dht {
        out.push_str(&format!("public DHT {}\n", dht_line(&dht.wan, "not reachable from outside")));
        out.push_str(&format!("local DHT  {}\n", dht_line(&dht.lan, "no address on a local network")));
    }
    if !status.contents.is_empty() {
        out.push('\n');
        out.push_str(&contents_table(&status.contents));
    }
    for content in &status.contents {
        if let Some((what, why)) = content.state.split_once(": ") {
            let path = content.path.to_string_lossy();
            out.push_str(&format!("{what}: {}: {}\n", escape(&path), escape(why)));
        }
        for path in &content.changed {
            let path = path.to_string_lossy();
            out.push_str(&format!("changed since it was shared: {}\n", escape(&path)));
        }
    }
    out
}
