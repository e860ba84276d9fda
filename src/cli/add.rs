//! `dunlin add`: contents for a daemon to serve, now or later.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use super::flags::NodeFlags;
use super::output::Output;
use super::progress::Meter;
use super::session::{Need, Session};
use super::{Context, Interrupted, absolute, follow, human, utf8};
use crate::node::api::{AddRequest, Failure, Shared};
use crate::node::config::Providing;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Nothing is copied: files are hashed where they lie. With -q only the CID is printed.

  dunlin add -q --only-hash report.pdf    the CID that `ipfs add --cid-version=1` gives
  dunlin add --hidden ~/site              names that begin with a dot included")]
pub struct AddArgs {
    #[command(flatten)]
    pub import: ImportFlags,
    /// Compute the CID and keep nothing.
    #[arg(long)]
    pub only_hash: bool,
    #[command(flatten)]
    pub node: NodeFlags,
}

/// How files are made into a content.
#[derive(Debug, Clone, Args)]
pub struct ImportFlags {
    /// The files or folders.
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// How CIDs are made: v1-256k, unixfs-v1-2025 or unixfs-v0-2015.
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Include names that begin with a dot.
    #[arg(long)]
    pub hidden: bool,
    /// What the DHT is told of it: roots, all (every block) or none [default: the setting's].
    #[arg(long, value_name = "WHAT")]
    pub provide: Option<Providing>,
    /// Record permission bits.
    #[arg(long)]
    pub preserve_mode: bool,
    /// Record modification times.
    #[arg(long)]
    pub preserve_mtime: bool,
}

impl ImportFlags {
    /// A request for each path.
    ///
    /// # Errors
    /// Bad usage: a path that cannot be named to the node.
    pub fn requests(&self, only_hash: bool) -> Result<Vec<AddRequest>, Failure> {
        let request = |path: &PathBuf| {
            Ok(AddRequest {
                path: utf8(absolute(path)?)?,
                profile: self.profile.clone(),
                hidden: self.hidden,
                preserve_mode: self.preserve_mode,
                preserve_mtime: self.preserve_mtime,
                only_hash,
                provide: self.provide.map(|p| p.to_string()),
            })
        };
        self.paths.iter().map(request).collect()
    }
}

pub async fn run(context: &Context, args: AddArgs) -> Result<()> {
    let requests = args.import.requests(args.only_hash)?;
    let session = Session::open(&context.resolved, Need::Store, &context.signals).await?;
    let result = add_all(context, &session, &requests).await;
    session.finish(&context.signals).await;
    result
}

/// Adds what can be added, and ends with the first error if there was one.
async fn add_all(context: &Context, session: &Session, requests: &[AddRequest]) -> Result<()> {
    let out = context.out();
    let mut failed = None;
    for request in requests {
        let mut lines = session.client.add(request).await?;
        match follow::shared(context, &mut lines, Meter::new(out, "adding")).await {
            Ok(shared) => print(out, &shared)?,
            Err(error) if requests.len() == 1 || error.is::<Interrupted>() => return Err(error),
            Err(error) => {
                out.warn(&super::told(&error));
                failed = failed.or(Some(error));
            }
        }
    }
    match failed {
        None => Ok(()),
        Some(error) => {
            let usage = error.downcast_ref::<Failure>().is_some_and(|f| f.usage);
            let message = "not everything could be added; see above".to_owned();
            Err(Failure { message, usage }.into())
        }
    }
}

fn print(out: Output, shared: &Shared) -> Result<()> {
    warn_of(out, shared);
    if out.is_json() {
        out.json(shared)?;
    } else if out.is_quiet() {
        out.line(&shared.cid)?;
    } else {
        out.note(&added(shared));
        out.line(&shared.link)?;
    }
    Ok(())
}

/// `holiday.mp4, 12.3 MiB`.
pub fn added(shared: &Shared) -> String {
    let name = shared.path.file_name().map_or(shared.path.as_path(), Path::new);
    format!("{}, {}", name.display(), human::bytes(shared.size))
}

/// What is left out of it, and that it is paused.
pub fn warn_of(out: Output, shared: &Shared) {
    for skipped in &shared.skipped {
        out.warn(&format!("left out: {skipped}"));
    }
    if shared.paused {
        out.warn(&format!("{} is paused, and served to nobody until `dunlin resume`", shared.cid));
    }
}
