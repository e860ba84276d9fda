//! `dunlin peers`: who is connected.

use anyhow::Result;

use super::Context;
use super::human::{Align, table};
use super::session::{Need, Session};
use crate::net::api::PeerInfo;

pub async fn run(context: &Context) -> Result<()> {
    let session = Session::open(&context.resolved, Need::Store, &context.signals).await?;
    let result = print(context, &session).await;
    session.finish(&context.signals).await;
    result
}

async fn print(context: &Context, session: &Session) -> Result<()> {
    let peers = session.client.peers().await?.peers;
    let out = context.out();
    if out.is_json() {
        peers.iter().try_for_each(|peer| out.json(peer))?;
    } else if out.is_quiet() {
        peers.iter().try_for_each(|peer| out.line(&peer.peer))?;
    } else if session.attached().is_none() {
        out.note("no node runs; `dunlin daemon` starts one");
    } else if peers.is_empty() {
        out.note("no peer is connected");
    } else {
        let head = [
            ("PEER", Align::Left),
            ("RTT", Align::Right),
            ("DIALLED", Align::Left),
            ("SECURITY", Align::Left),
            ("AGENT", Align::Left),
            ("ADDRESS", Align::Left),
        ];
        let rows: Vec<Vec<String>> = peers.iter().map(row).collect();
        out.text(&table(&head, &rows))?;
    }
    Ok(())
}

fn row(peer: &PeerInfo) -> Vec<String> {
    vec![
        peer.peer.clone(),
        peer.rtt_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
        if peer.dialed { "by us" } else { "by it" }.to_owned(),
        peer.security.clone(),
        peer.agent.clone(),
        peer.addrs.first().cloned().unwrap_or_default(),
    ]
}
