//! `dunlin provide`: tell the DHT now.

use anyhow::{Result, bail};
use clap::Args;

use super::flags::NodeFlags;
use super::session::{Need, Session};
use super::{Context, Interrupted, content};
use crate::net::dht::Provided;
use crate::node::api::ProvideRequest;

#[derive(Debug, Args)]
#[command(after_long_help = "\
A node provides its contents by itself, again every 22 hours at most. This does it now, and says how many of the
20 servers closest to the content took the record; --verify asks each of them back.

  dunlin provide --verify ./holiday.mp4")]
pub struct ProvideArgs {
    /// The content's CID, link, or path.
    #[arg(value_name = "CONTENT")]
    pub what: String,
    /// Ask the servers back, and say how many hold the record.
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    pub node: NodeFlags,
}

pub async fn run(context: &Context, args: ProvideArgs) -> Result<()> {
    let what = content(&args.what)?;
    let session = Session::open(&context.resolved, Need::Network, &context.signals).await?;
    let result = provide(context, &session, ProvideRequest { what, verify: args.verify }).await;
    session.finish(&context.signals).await;
    result
}

async fn provide(context: &Context, session: &Session, request: ProvideRequest) -> Result<()> {
    let provided = tokio::select! {
        biased;
        () = context.signals.asked() => return Err(Interrupted.into()),
        provided = session.client.provide(&request) => provided?,
    };
    let out = context.out();
    if out.is_json() {
        out.json(&provided)?;
    }
    for (name, result) in [("public", provided.wan), ("local", provided.lan)] {
        if let Some(result) = result {
            out.note(&said(name, &result));
        }
    }
    let holds = |p: Option<Provided>| p.and_then(|p| p.hold).unwrap_or(0);
    if request.verify && holds(provided.wan) + holds(provided.lan) == 0 {
        bail!("no server that was asked holds the record of {}", provided.cid);
    }
    Ok(())
}

fn said(name: &str, p: &Provided) -> String {
    let Provided { closest, told, hold } = p;
    let hold = hold.map_or(String::new(), |n| format!(", {n} hold it"));
    format!("{name} DHT: {told} of the {closest} closest servers took the record{hold}")
}
