//! `dunlin find`: who provides a link's content.

use anyhow::{Result, bail};
use clap::Args;

use super::flags::NodeFlags;
use super::output::Output;
use super::progress::Ticker;
use super::session::{Need, Session};
use super::{Context, Interrupted, human, link};
use crate::http::client::Lines;
use crate::node::api::{Failure, Finding, Line};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Each provider is printed as soon as it is found. With --json: an object a provider (`peer_id`, `addrs`, `ms`
since the start), then one with the look-up's figures (`providers`, `asked`, `hops`, `ms`). Exit code 1 if
nobody provides it.

  dunlin find bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")]
pub struct FindArgs {
    /// Whose providers to look for.
    #[arg(value_name = "LINK")]
    pub link: String,
    #[command(flatten)]
    pub node: NodeFlags,
}

pub async fn run(context: &Context, args: FindArgs) -> Result<()> {
    link(&args.link)?;
    let session = Session::open(&context.resolved, Need::Network, &context.signals).await?;
    let result = find(context, &session, &args.link).await;
    session.finish(&context.signals).await;
    result
}

async fn find(context: &Context, session: &Session, link: &str) -> Result<()> {
    let mut lines = session.client.find(link).await?;
    let summary = tokio::select! {
        biased;
        () = context.signals.asked() => Err(Interrupted.into()),
        summary = follow(context.out(), &mut lines) => summary,
    }?;
    if summary.providers == 0 {
        bail!("nobody provides {}, as far as {} peers know", summary.cid, summary.answered);
    }
    Ok(())
}

/// Prints the providers as they come, and the figures at the end.
async fn follow(out: Output, lines: &mut Lines) -> Result<Finding> {
    let ticker = Ticker::new(out);
    loop {
        match lines.next().await {
            Some(Ok(Line::Finding(f))) => ticker.say(&said(&f)),
            Some(Ok(Line::Found(provider))) => {
                if out.is_json() {
                    out.json(&provider)?;
                } else if out.is_quiet() {
                    out.line(&provider.peer_id)?;
                } else {
                    let addrs = provider.addrs.join(" ");
                    ticker.apart(|| out.line(&format!("{} {addrs}", provider.peer_id)))?;
                }
            }
            Some(Ok(Line::FoundAll(f))) => {
                drop(ticker);
                if out.is_json() {
                    out.json(&f)?;
                }
                out.note(&said(&f));
                return Ok(f);
            }
            Some(Ok(Line::Error(failure)) | Err(failure)) => return Err(failure.into()),
            Some(Ok(_)) => return Err(Failure::failed("the node answered something else").into()),
            None => bail!("the running node has ended; run the command again"),
        }
    }
}

fn said(f: &Finding) -> String {
    let (providers, time) = (f.providers, human::duration(f.ms as f64 / 1e3));
    format!(
        "{providers} providers, {} peers asked ({} answered), {} hops, {time}",
        f.asked, f.answered, f.hops
    )
}
