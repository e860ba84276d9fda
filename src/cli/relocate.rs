//! `dunlin relocate`: files that were moved.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::session::{Need, Session};
use super::{Context, absolute, content, utf8};
use crate::http::Relocate;

#[derive(Debug, Args)]
#[command(
    after_long_help = "  mv holiday.mp4 /mnt/disk/ && dunlin relocate ./holiday.mp4 /mnt/disk/holiday.mp4"
)]
pub struct RelocateArgs {
    /// The content's CID, link, or old path.
    #[arg(value_name = "CONTENT")]
    pub what: String,
    /// Where it lies now.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

pub async fn run(context: &Context, args: RelocateArgs) -> Result<()> {
    let request = Relocate { what: content(&args.what)?, path: utf8(absolute(&args.path)?)? };
    let session = Session::open(&context.resolved, Need::Store, &context.signals).await?;
    let result = relocate(context, &session, &request).await;
    session.finish(&context.signals).await;
    result
}

async fn relocate(context: &Context, session: &Session, request: &Relocate) -> Result<()> {
    let moved = session.client.relocate(request).await?;
    let out = context.out();
    if out.is_json() {
        out.json(&moved)?;
    } else if out.is_quiet() {
        out.line(&moved.cid)?;
    } else {
        out.note(&format!("{} is now at {}", moved.cid, moved.path.display()));
    }
    Ok(())
}
