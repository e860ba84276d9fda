//! `dunlin pardon`: take a ban back.

use anyhow::Result;
use clap::Args;

use super::Context;
use super::session::{Need, Session};
use crate::http::Pardon;

#[derive(Debug, Args)]
#[command(after_long_help = "  dunlin peers --banned\n  dunlin pardon 12D3KooW...")]
pub struct PardonArgs {
    /// The peer's ID.
    #[arg(value_name = "PEER")]
    pub peer: String,
}

pub async fn run(context: &Context, args: PardonArgs) -> Result<()> {
    let session = Session::open(&context.resolved, Need::Store, &context.signals).await?;
    let result = pardon(context, &session, Pardon { peer: args.peer }).await;
    session.finish(&context.signals).await;
    result
}

async fn pardon(context: &Context, session: &Session, request: Pardon) -> Result<()> {
    let pardoned = session.client.pardon(&request).await?;
    let out = context.out();
    if out.is_json() {
        out.json(&pardoned)?;
    } else if out.is_quiet() {
        out.line(&pardoned.peer)?;
    } else {
        out.note(&format!("{} is banned no more", pardoned.peer));
    }
    Ok(())
}
