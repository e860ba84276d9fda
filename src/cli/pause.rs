//! `dunlin pause` and `dunlin resume`: leave contents alone for a while, and go on with them.

use anyhow::Result;
use clap::Args;

use super::session::{Need, Session};
use super::{Context, Interrupted, content, told};
use crate::node::api::{ContentStatus, Failure};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Nothing of a paused content is fetched, sent to others or told to the DHT; what is here of it stays. It holds at
once, with a node running or not, and until `dunlin resume`, however often the node is started meanwhile.

  dunlin pause bafy... ./holiday.mp4")]
pub struct PauseArgs {
    /// The contents' CIDs, links, or paths.
    #[arg(value_name = "CONTENT", required = true)]
    pub what: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "  dunlin resume bafy... ./holiday.mp4")]
pub struct ResumeArgs {
    /// The contents' CIDs, links, or paths.
    #[arg(value_name = "CONTENT", required = true)]
    pub what: Vec<String>,
}

pub async fn run(context: &Context, args: PauseArgs) -> Result<()> {
    change(context, &args.what, true).await
}

pub async fn resume(context: &Context, args: ResumeArgs) -> Result<()> {
    change(context, &args.what, false).await
}

async fn change(context: &Context, what: &[String], pause: bool) -> Result<()> {
    let what: Vec<String> = what.iter().map(|w| content(w)).collect::<Result<_, Failure>>()?;
    let session = Session::open(&context.resolved, Need::Store, &context.signals).await?;
    let result = change_all(context, &session, &what, pause).await;
    session.finish(&context.signals).await;
    result
}

/// Does it with each that is here, and ends with an error if one was not.
async fn change_all(context: &Context, session: &Session, what: &[String], pause: bool) -> Result<()> {
    let mut failed = false;
    for one in what {
        let changed = async {
            match pause {
                true => session.client.pause(one).await,
                false => session.client.resume(one).await,
            }
        };
        let changed = tokio::select! {
            biased;
            () = context.signals.asked() => return Err(Interrupted.into()),
            changed = changed => changed,
        };
        match changed {
            Ok(status) => print(context, &status, pause)?,
            Err(failure) if what.len() == 1 => return Err(failure.into()),
            Err(failure) => {
                context.out().warn(&told(&failure.into()));
                failed = true;
            }
        }
    }
    let verb = if pause { "paused" } else { "resumed" };
    match failed {
        false => Ok(()),
        true => Err(Failure::failed(format!("not everything could be {verb}; see above")).into()),
    }
}

fn print(context: &Context, status: &ContentStatus, pause: bool) -> Result<()> {
    let out = context.out();
    if out.is_json() {
        out.json(status)?;
    } else if out.is_quiet() {
        out.line(&status.cid)?;
    } else {
        let verb = if pause { "paused" } else { "resumed" };
        out.note(&format!("{verb} {} ({})", status.cid, status.path.display()));
    }
    Ok(())
}
