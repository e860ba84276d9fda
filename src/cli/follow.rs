//! Reads the lines of an answer up to its result.

use anyhow::{Result, bail};

use super::progress::Meter;
use super::{Context, Interrupted};
use crate::http::client::Lines;
use crate::node::api::{Failure, Line, Shared, Verified};

pub enum Outcome {
    Shared(Shared),
    Verified(Verified),
}

/// Shows progress until the result is there; the lines stay usable.
///
/// # Errors
/// What the node says, or [`Interrupted`].
pub async fn result(context: &Context, lines: &mut Lines, mut meter: Meter) -> Result<Outcome> {
    loop {
        let line = tokio::select! {
            biased;
            () = context.signals.asked() => return Err(Interrupted.into()),
            line = lines.next() => line,
        };
        match line {
            Some(Ok(Line::Progress(progress))) => meter.update(&progress),
            Some(Ok(Line::Done(shared))) => return Ok(Outcome::Shared(shared)),
            Some(Ok(Line::Verified(verified))) => return Ok(Outcome::Verified(verified)),
            // These belong to `find`, which reads its lines itself.
            Some(Ok(Line::Finding(_) | Line::Found(_) | Line::FoundAll(_))) => {}
            Some(Ok(Line::Error(failure)) | Err(failure)) => return Err(failure.into()),
            None => bail!("the running node has ended; run the command again, what was done is kept"),
        }
    }
}

/// The result of `add`, `share` or `get`.
pub async fn shared(context: &Context, lines: &mut Lines, meter: Meter) -> Result<Shared> {
    match result(context, lines, meter).await? {
        Outcome::Shared(shared) => Ok(shared),
        Outcome::Verified(_) => {
            Err(Failure::failed("the node answered something else than was asked").into())
        }
    }
}

/// The result of `verify`.
pub async fn verified(context: &Context, lines: &mut Lines, meter: Meter) -> Result<Verified> {
    match result(context, lines, meter).await? {
        Outcome::Verified(verified) => Ok(verified),
        Outcome::Shared(_) => Err(Failure::failed("the node answered something else than was asked").into()),
    }
}

/// Waits while the node holds the answer open. True: a signal ended the wait; false: the node did.
pub async fn held(context: &Context, lines: &mut Lines) -> bool {
    tokio::select! {
        biased;
        () = context.signals.asked() => true,
        () = async { while lines.next().await.is_some() {} } => false,
    }
}
