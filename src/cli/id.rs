//! `dunlin id`: who the node is. Without a running node its key is all that is read.

use anyhow::{Context as _, Result};

use super::Context;
use super::escape::escape;
use super::session::{Need, Session};
use crate::net::identity;
use crate::node::api::Identity;
use crate::node::lock::{DataDir, LockHeld};

pub async fn run(context: &Context) -> Result<()> {
    match DataDir::open(&context.resolved.data_dir) {
        Ok(data) => {
            let keypair = identity::load_or_create(data.path())
                .with_context(|| format!("the identity in {}", data.path().display()))?;
            let identity = Identity {
                peer_id: keypair.public().to_peer_id().to_string(),
                listen: Vec::new(),
                agent: concat!("dunlin/", env!("CARGO_PKG_VERSION")).to_owned(),
            };
            print(context, &identity)
        }
        Err(LockHeld::Held { .. }) => {
            let session = Session::open(&context.resolved, Need::Store, &context.signals).await?;
            let result = print(context, &session.identity);
            session.finish(&context.signals).await;
            result
        }
        Err(error) => Err(error.into()),
    }
}

fn print(context: &Context, identity: &Identity) -> Result<()> {
    let out = context.out();
    if out.is_json() {
        out.json(identity)?;
        return Ok(());
    }
    out.line(&identity.peer_id)?;
    if !out.is_quiet() {
        let addresses: String = identity.listen.iter().map(|a| format!("{}\n", escape(a))).collect();
        out.text(&addresses)?;
    }
    Ok(())
}
