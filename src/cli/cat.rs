//! `dunlin cat`: a linked file's bytes, as they come.

use std::io::Write;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;

use super::flags::NodeFlags;
use super::session::{Need, Session};
use super::{Context, Interrupted, link};

#[derive(Debug, Args)]
#[command(after_long_help = "  dunlin cat /ipfs/bafy.../talk.ogg | ffplay -")]
pub struct CatArgs {
    /// A file's link; a path may follow a folder's.
    #[arg(value_name = "LINK")]
    pub link: String,
    #[command(flatten)]
    pub node: NodeFlags,
}

pub async fn run(context: &Context, args: CatArgs) -> Result<()> {
    link(&args.link)?;
    let session = Session::open(&context.resolved, Need::Network, &context.signals).await?;
    let result = tokio::select! {
        biased;
        () = context.signals.asked() => Err(Interrupted.into()),
        result = copy(context, &session, &args.link) => result,
    };
    session.finish(&context.signals).await;
    result
}

async fn copy(context: &Context, session: &Session, link: &str) -> Result<()> {
    let mut bytes = session.client.cat(link, session.peers(&context.resolved)).await?;
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
