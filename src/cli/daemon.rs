//! `dunlin daemon`: the long-lived node.

use anyhow::Result;
use serde::Serialize;

use super::Context;
use super::session::{Need, Session};

/// The line of `daemon --json`, printed once the node listens.
#[derive(Serialize)]
struct Running<'a> {
    peer_id: &'a str,
    listen: &'a [String],
}

pub async fn run(context: &Context) -> Result<()> {
    let session = Session::open(&context.resolved, Need::Daemon, &context.signals).await?;
    let result = print(context, &session);
    if result.is_ok() {
        tokio::select! {
            () = context.signals.asked() => {}
            () = session.stopped() => {}
        }
        context.out().note("ending");
    }
    session.finish(&context.signals).await;
    result
}

fn print(context: &Context, session: &Session) -> Result<()> {
    let out = context.out();
    let identity = &session.identity;
    if out.is_json() {
        out.json(&Running { peer_id: &identity.peer_id, listen: &identity.listen })?;
    } else if !out.is_quiet() {
        identity.listen.iter().try_for_each(|address| out.line(address))?;
        out.note("the node listens on these addresses; Ctrl-C ends it");
    }
    Ok(())
}
