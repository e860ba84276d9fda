//! `dunlin ls`: the names in a linked folder.

use anyhow::Result;
use clap::Args;

use super::flags::{NodeFlags, seconds};
use super::human::{self, Align, table};
use super::session::{Need, Session};
use super::{Context, Interrupted, link};
use crate::node::api::{Listed, ReadRequest};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Sizes are what the links claim. Only the folder itself is fetched, not its files.

  dunlin ls /ipfs/bafy.../2024")]
pub struct LsArgs {
    /// A folder's link; a path may follow.
    #[arg(value_name = "LINK")]
    pub link: String,
    /// Give up when what is needed has not come for so many seconds [default: never].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<f64>,
    #[command(flatten)]
    pub node: NodeFlags,
}

pub async fn run(context: &Context, args: LsArgs) -> Result<()> {
    link(&args.link)?;
    let session = Session::open(&context.resolved, Need::Network, &context.signals).await?;
    let peers = session.peers(&context.resolved).to_vec();
    let request = ReadRequest { link: args.link, peers, timeout: args.timeout };
    let listed = tokio::select! {
        biased;
        () = context.signals.asked() => Err(Interrupted.into()),
        listed = session.client.ls(&request) => listed.map_err(Into::into),
    };
    let result = listed.and_then(|entries| print(context, &entries));
    session.finish(&context.signals).await;
    result
}

fn print(context: &Context, entries: &[Listed]) -> Result<()> {
    let out = context.out();
    if out.is_json() {
        entries.iter().try_for_each(|entry| out.json(entry))?;
    } else if out.is_quiet() {
        entries.iter().try_for_each(|entry| out.line(&entry.name))?;
    } else {
        let head = [("CID", Align::Left), ("SIZE", Align::Right), ("NAME", Align::Left)];
        let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
        out.text(&table(&head, &rows))?;
    }
    Ok(())
}

fn row(entry: &Listed) -> Vec<String> {
    let mark = match entry.kind.as_str() {
        "dir" => "/",
        "link" => "@",
        _ => "",
    };
    vec![entry.cid.clone(), human::bytes(entry.size), format!("{}{mark}", entry.name)]
}
