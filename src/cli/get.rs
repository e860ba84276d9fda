//! `dunlin get`: fetch, resume, verify.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use super::flags::{NodeFlags, seconds};
use super::progress::Meter;
use super::session::{Need, Session};
use super::{Context, Interrupted, absolute, add, follow, human, link, utf8};
use crate::node::api::{GetRequest, Shared};
use crate::node::config::Providing;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Run it again to resume. With a daemon running, the daemon fetches, and goes on serving what it has. With -q
only the path is printed.

  dunlin get 'magnet:?xt=urn:cid:bafy...&dn=photos'
  dunlin get bafy... -o photos --peer /ip4/192.0.2.7/tcp/4201/p2p/12D3KooW...
  dunlin get /ipfs/bafy.../2024/beach.jpg --timeout 60")]
pub struct GetArgs {
    /// A CID, /ipfs/ path, ipfs:// or gateway URL, or magnet link.
    #[arg(value_name = "LINK")]
    pub link: String,
    /// The exact path to write [default: the link's name, or the CID, in the current folder].
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Replace what lies at the destination.
    #[arg(long)]
    pub force: bool,
    /// Go on serving it until Ctrl-C.
    #[arg(long)]
    pub seed: bool,
    /// What the DHT is told of it: roots, all (every block) or none [default: the setting's].
    #[arg(long, value_name = "WHAT")]
    pub provide: Option<Providing>,
    /// Give up after so many seconds without progress, a pause not counted [default: never].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<f64>,
    #[command(flatten)]
    pub node: NodeFlags,
}

pub async fn run(context: &Context, args: GetArgs) -> Result<()> {
    link(&args.link)?;
    let folder = utf8(absolute(".".as_ref())?)?;
    let dest = args.output.as_deref().map(|path| utf8(absolute(path)?)).transpose()?;
    let session = Session::open(&context.resolved, Need::Network, &context.signals).await?;
    let request = GetRequest {
        link: args.link,
        dest,
        folder,
        force: args.force,
        peers: session.peers(&context.resolved).to_vec(),
        seed: args.seed,
        provide: args.provide.map(|p| p.to_string()),
        timeout: args.timeout,
    };
    let result = fetch(context, &session, &request).await;
    session.finish(&context.signals).await;
    if result.as_ref().is_err_and(|e| e.is::<Interrupted>()) {
        context.out().note("interrupted; run the same command again to resume");
    }
    result
}

async fn fetch(context: &Context, session: &Session, request: &GetRequest) -> Result<()> {
    let since = Instant::now();
    let mut lines = session.client.get(request).await?;
    let shared = follow::shared(context, &mut lines, Meter::new(context.out(), "fetching")).await?;
    print(context, &shared, since)?;
    if request.seed {
        if session.attached().is_some_and(|holder| holder.daemon) {
            context.out().note("the daemon goes on serving it");
        } else {
            context.out().note("serving it until Ctrl-C");
        }
    }
    // With --seed the node holds the answer open; otherwise this is the end of it.
    follow::held(context, &mut lines).await;
    Ok(())
}

fn print(context: &Context, shared: &Shared, since: Instant) -> Result<()> {
    let out = context.out();
    add::warn_of(out, shared);
    if out.is_json() {
        out.json(shared)?;
        return Ok(());
    }
    let took = since.elapsed().as_secs_f64();
    let rate = human::rate(shared.size as f64 / took.max(1e-3));
    out.note(&format!("{} in {took:.1} s ({rate}), verified", human::bytes(shared.size)));
    out.path(&shared.path)?;
    Ok(())
}
