//! `dunlin peers`: who is connected, and who is refused.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;

use super::Context;
use super::human::{Align, bytes, duration, table};
use super::session::{Need, Session};
use crate::node::api::{Banned, Peer};

#[derive(Debug, Args)]
pub struct PeersArgs {
    /// Show the peers that are refused, because they broke the protocol or sent wrong bytes.
    #[arg(long)]
    pub banned: bool,
}

pub async fn run(context: &Context, args: PeersArgs) -> Result<()> {
    let session = Session::open(&context.resolved, Need::Store, &context.signals).await?;
    let result = match args.banned {
        true => print_banned(context, &session).await,
        false => print(context, &session).await,
    };
    session.finish(&context.signals).await;
    result
}

async fn print(context: &Context, session: &Session) -> Result<()> {
    let peers = session.client.peers().await?.peers;
    let out = context.out();
    if out.is_json() {
        peers.iter().try_for_each(|peer| out.json(peer))?;
    } else if out.is_quiet() {
        peers.iter().try_for_each(|peer| out.line(&peer.info.peer))?;
    } else if session.attached().is_none() {
        out.note("no node runs; `dunlin daemon` starts one");
    } else if peers.is_empty() {
        out.note("no peer is connected");
    } else {
        let head = [
            ("PEER", Align::Left),
            ("RTT", Align::Right),
            ("GIVEN", Align::Right),
            ("TAKEN", Align::Right),
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

fn row(peer: &Peer) -> Vec<String> {
    let Peer { info, account } = peer;
    vec![
        info.peer.clone(),
        info.rtt_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
        bytes(account.given),
        bytes(account.taken),
        if info.dialed { "by us" } else { "by it" }.to_owned(),
        info.security.clone(),
        info.agent.clone(),
        info.addrs.first().cloned().unwrap_or_default(),
    ]
}

async fn print_banned(context: &Context, session: &Session) -> Result<()> {
    let banned = session.client.banned().await?;
    let out = context.out();
    if out.is_json() {
        banned.iter().try_for_each(|peer| out.json(peer))?;
    } else if out.is_quiet() {
        banned.iter().try_for_each(|peer| out.line(&peer.peer))?;
    } else if banned.is_empty() {
        out.note("no peer is banned");
    } else {
        let head = [
            ("PEER", Align::Left),
            ("BANNED", Align::Right),
            ("GIVEN", Align::Right),
            ("TAKEN", Align::Right),
        ];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let row = |b: &Banned| {
            let ago = format!("{} ago", duration(now.saturating_sub(b.since) as f64));
            vec![b.peer.clone(), ago, bytes(b.account.given), bytes(b.account.taken)]
        };
        let rows: Vec<Vec<String>> = banned.iter().map(row).collect();
        out.text(&table(&head, &rows))?;
    }
    Ok(())
}
