//! `dunlin cat`: a linked file's bytes, as they come.

use std::io::Write;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;

use super::flags::{NodeFlags, seconds};
use super::session::{Need, Session};
use super::{Context, Interrupted, link};
use crate::node::api::ReadRequest;

#[derive(Debug, Args)]
#[command(after_long_help = "  dunlin cat /ipfs/bafy.../talk.ogg | ffplay -")]
pub struct CatArgs {
    /// A file's link; a path may follow a folder's.
    #[arg(value_name = "LINK")]
    pub link: String,
    /// Give up when what is needed has not come for so many seconds [default: never].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<f64>,
    #[command(flatten)]
    pub node: NodeFlags,
}

pub async fn run(context: &Context, args: CatArgs) -> Result<()> {
    link(&args.link)?;
    let session = Session::open(&context.resolved, Need::Network, &context.signals).await?;
    let peers = session.peers(&context.resolved).to_vec();
    let request = ReadRequest { link: args.link, peers, timeout: args.timeout };
    let result = tokio::select! {
        biased;
        () = context.signals.asked() => Err(Interrupted.into()),
        result = copy(&session, &request) => result,
    };
    session.finish(&context.signals).await;
    result
}

async fn copy(session: &Session, request: &ReadRequest) -> Result<()> {
    let mut bytes = session.client.cat(request).await?;
    while let Some(part) = bytes.next().await {
        let part = part?;
        // Apart, since a pipe may block for as long as nobody reads it.
        tokio::task::spawn_blocking(move || write(&part)).await.context("stdout")??;
    }
    Ok(())
}

fn write(bytes: &Bytes) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}
