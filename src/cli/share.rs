//! `dunlin share`: add, and serve until Ctrl-C.

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::add::{ImportFlags, added, warn_of};
use super::flags::NodeFlags;
use super::progress::Meter;
use super::session::{Need, Session};
use super::{Context, Interrupted, follow};
use crate::http::client::Lines;
use crate::node::api::{AddRequest, Identity, Shared};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Give the printed link to whoever should have the files. Nothing is copied: they are served from where they
lie, as long as they do not change. With -q only the CID is printed.

  dunlin share holiday.mp4
  dunlin share --listen /ip4/192.168.1.5/tcp/4201 --no-bootstrap photos/   in the local network only")]
pub struct ShareArgs {
    #[command(flatten)]
    pub import: ImportFlags,
    #[command(flatten)]
    pub node: NodeFlags,
}

/// A line of `share --json`.
#[derive(Serialize)]
struct Sharing<'a> {
    #[serde(flatten)]
    shared: &'a Shared,
    peer_id: &'a str,
    listen: &'a [String],
}

pub async fn run(context: &Context, args: ShareArgs) -> Result<()> {
    let requests = args.import.requests(false)?;
    let session = Session::open(&context.resolved, Need::Network, &context.signals).await?;
    if session.attached().is_some() && !context.resolved.peers.is_empty() {
        context.out().warn("--peer has no effect on the node that runs already");
    }
    let result = serve(context, &session, &requests).await;
    session.finish(&context.signals).await;
    result
}

/// Ends well when it is told to end.
async fn serve(context: &Context, session: &Session, requests: &[AddRequest]) -> Result<()> {
    let mut open = Vec::new();
    for request in requests {
        let mut lines = session.client.share(request).await?;
        let meter = Meter::new(context.out(), "adding");
        match follow::shared(context, &mut lines, meter).await {
            Ok(shared) => print(context, &session.identity, &shared)?,
            // Ctrl-C is how a share ends; before its link is out, it has not begun.
            Err(error) if error.is::<Interrupted>() && !open.is_empty() => return Ok(()),
            Err(error) => return Err(error),
        }
        open.push(lines);
    }
    context.out().note("sharing until Ctrl-C");
    until_the_end(context, session, open).await
}

async fn until_the_end(context: &Context, session: &Session, open: Vec<Lines>) -> Result<()> {
    let ended =
        open.into_iter().map(|mut lines| Box::pin(async move { while lines.next().await.is_some() {} }));
    tokio::select! {
        biased;
        () = context.signals.asked() => Ok(()),
        () = session.stopped() => Ok(()),
        _ = futures::future::select_all(ended) => bail!("the node that shared it has ended"),
    }
}

fn print(context: &Context, identity: &Identity, shared: &Shared) -> Result<()> {
    let out = context.out();
    warn_of(out, shared);
    if out.is_json() {
        out.json(&Sharing { shared, peer_id: &identity.peer_id, listen: &identity.listen })?;
    } else if out.is_quiet() {
        out.line(&shared.cid)?;
    } else {
        out.note(&added(shared));
        out.line(&shared.link)?;
    }
    Ok(())
}
