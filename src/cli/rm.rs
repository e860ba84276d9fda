//! `dunlin rm`: forget a content.

use anyhow::Result;
use clap::Args;

use super::session::{Need, Session};
use super::{Context, content};
use crate::http::Remove;

#[derive(Debug, Args)]
#[command(after_long_help = "  dunlin rm bafy...\n  dunlin rm ./holiday.mp4")]
pub struct RmArgs {
    /// The content's CID, link, or path.
    #[arg(value_name = "CONTENT")]
    pub what: String,
    /// Delete what an unfinished fetch has written.
    #[arg(long)]
    pub delete_part: bool,
}

pub async fn run(context: &Context, args: RmArgs) -> Result<()> {
    let request = Remove { what: content(&args.what)?, delete_part: args.delete_part };
    let session = Session::open(&context.resolved, Need::Store, &context.signals).await?;
    let result = remove(context, &session, &request).await;
    session.finish(&context.signals).await;
    result
}

async fn remove(context: &Context, session: &Session, request: &Remove) -> Result<()> {
    let removed = session.client.remove(request).await?;
    let out = context.out();
    if out.is_json() {
        out.json(&removed)?;
    } else if out.is_quiet() {
        out.line(&removed.cid)?;
    } else {
        out.note(&format!("forgot {} ({})", removed.cid, removed.path.display()));
    }
    Ok(())
}
