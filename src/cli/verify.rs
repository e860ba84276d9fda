//! `dunlin verify`: hash again.

use anyhow::{Result, bail};
use clap::Args;

use super::progress::Meter;
use super::session::{Need, Session};
use super::{Context, content, follow};
use crate::node::api::Verified;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Exit code 1 if something was lost: a shared file that changed is named; of a fetched one `get` fetches the rest.

  dunlin verify ./holiday.mp4")]
pub struct VerifyArgs {
    /// The content's CID, link, or path.
    #[arg(value_name = "CONTENT")]
    pub what: String,
}

pub async fn run(context: &Context, args: VerifyArgs) -> Result<()> {
    let what = content(&args.what)?;
    let session = Session::open(&context.resolved, Need::Store, &context.signals).await?;
    let result = verify(context, &session, &what).await;
    session.finish(&context.signals).await;
    result
}

async fn verify(context: &Context, session: &Session, what: &str) -> Result<()> {
    let out = context.out();
    let mut lines = session.client.verify(what).await?;
    let verified = follow::verified(context, &mut lines, Meter::new(out, "verifying")).await?;
    if out.is_json() {
        out.json(&verified)?;
    }
    judge(&verified)?;
    out.note(&format!("all {} chunks of {} are right", verified.chunks, verified.path.display()));
    Ok(())
}

/// # Errors
/// If anything is not as it was: how much, and in which file.
fn judge(verified: &Verified) -> Result<()> {
    let Verified { cid, path, chunks, lost_chunks, changed } = verified;
    match changed.as_slice() {
        [] if *lost_chunks == 0 => Ok(()),
        [] => bail!(
            "{lost_chunks} of {chunks} chunks of {} are lost; `dunlin get {cid}` fetches them",
            path.display()
        ),
        [first] => bail!("{} has changed; add it again to share it as it is now", first.display()),
        [first, rest @ ..] => bail!(
            "{} and {} more have changed; add {} again to share it as it is now",
            first.display(),
            rest.len(),
            path.display()
        ),
    }
}
