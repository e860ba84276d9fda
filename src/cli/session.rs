//! A node to ask: the one that owns the data directory already, or one of our own for as long as we run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Interrupted;
use super::output::Output;
use super::resolve::Resolved;
use super::signals::Signals;
use crate::http::client::{AttachError, Client, Presence};
use crate::http::{App, Holder, Role, serve};
use crate::node::NodeHandle;
use crate::node::api::{Failure, Identity};
use crate::node::lock::{DataDir, LockHeld};

/// How long a lock's holder may be silent: it is starting or ending, which takes no longer.
const SILENCE: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(20);

/// After which a wait is worth a word.
const WORD_AFTER: Duration = Duration::from_secs(2);

/// How long withdrawals and the last answers may take when we end.
const LAST_JOBS: Duration = Duration::from_secs(5);

/// What a command needs of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// What is on this machine.
    Store,
    /// Other nodes.
    Network,
    /// To be the daemon.
    Daemon,
}

pub struct Session {
    pub client: Client,
    pub identity: Identity,
    home: Home,
    out: Output,
}

enum Home {
    Attached { holder: Holder, _presence: Presence },
    Own { app: std::sync::Arc<App>, data: DataDir, server: tokio::task::JoinHandle<std::io::Result<()>> },
}

impl Session {
    /// Takes the data directory, or attaches to who has it; waits for one that works offline if the network
    /// is needed.
    ///
    /// # Errors
    /// Flags that the running node cannot take (bad usage), a node that does not answer, one of our own
    /// that cannot start, or [`Interrupted`].
    pub async fn open(resolved: &Resolved, need: Need, signals: &Signals) -> Result<Session> {
        tokio::select! {
            biased;
            () = signals.asked() => Err(Interrupted.into()),
            session = take_or_attach(resolved, need) => session,
        }
    }

    /// Who answers, if it is another process.
    pub fn attached(&self) -> Option<&Holder> {
        match &self.home {
            Home::Attached { holder, .. } => Some(holder),
            Home::Own { .. } => None,
        }
    }

    /// `--peer` for a request: a node of our own has them already.
    pub fn peers<'a>(&self, resolved: &'a Resolved) -> &'a [String] {
        if self.attached().is_some() { &resolved.peers } else { &[] }
    }

    /// Waits until the node of our own is told to end by its API; forever for another's.
    pub async fn stopped(&self) {
        match &self.home {
            Home::Attached { .. } => std::future::pending().await,
            Home::Own { app, .. } => app.stopped().await,
        }
    }

    /// Ends a node of our own: when the commands that attached are done, or at once on a signal.
    pub async fn finish(self, signals: &Signals) {
        let Home::Own { app, data, server } = self.home else { return };
        drop(self.client);
        tokio::select! {
            biased;
            () = signals.asked() => {}
            () = app.stopped() => {}
            () = wait_for_attached(&app, self.out) => {}
        }
        data.unbind_control();
        app.stop();
        match server.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("control socket: {error}"),
            Err(error) => tracing::warn!("control socket: {error}"),
        }
        // A withdrawal that takes longer than that is worth less than a prompt end.
        let _ = tokio::time::timeout(LAST_JOBS, app.idle()).await;
        app.node().shutdown().await;
        // The lock goes last: the next holder finds everything in place.
        drop(app);
        drop(data);
    }
}

async fn wait_for_attached(app: &App, out: Output) {
    tokio::select! {
        () = app.idle() => {}
        () = tokio::time::sleep(WORD_AFTER) => {
            out.note("done; other commands still use this node (Ctrl-C ends them)");
            app.idle().await;
        }
    }
}

async fn take_or_attach(resolved: &Resolved, need: Need) -> Result<Session> {
    let (since, mut told) = (Instant::now(), false);
    let mut silent_since = Instant::now();
    loop {
        let pid = match DataDir::open(&resolved.data_dir) {
            Ok(data) => return own(resolved, need, data).await,
            Err(LockHeld::Held { pid, .. }) => pid,
            Err(error) => return Err(error.into()),
        };
        match Client::attach(&resolved.data_dir).await {
            Ok((client, holder, presence)) => {
                silent_since = Instant::now();
                if holder.network || need == Need::Store {
                    check(resolved, need, &holder)?;
                    let identity = holder.identity.clone();
                    let home = Home::Attached { holder, _presence: presence };
                    return Ok(Session { client, identity, home, out: resolved.out });
                }
            }
            Err(AttachError::Gone) if silent_since.elapsed() > SILENCE => {
                let who = pid.map_or("another process".to_owned(), |pid| format!("process {pid}"));
                bail!("{who} holds {} but does not answer; end it first", resolved.data_dir.display());
            }
            Err(AttachError::Gone) => {}
            Err(AttachError::Failed(failure)) => return Err(failure.into()),
        }
        if !told && since.elapsed() > WORD_AFTER {
            told = true;
            resolved.out.note("waiting for another dunlin command to be done with the data directory");
        }
        tokio::time::sleep(POLL).await;
    }
}

fn check(resolved: &Resolved, need: Need, holder: &Holder) -> Result<()> {
    if need == Need::Daemon {
        let what = if holder.daemon { "a daemon runs already" } else { "a node runs already" };
        bail!("{what} on {} (process {})", resolved.data_dir.display(), holder.pid);
    }
    if let Some(flag) = resolved.start_flag {
        return Err(Failure::usage(format!(
            "{flag} has no effect on the node that runs already (process {}); leave it out, or end that node first",
            holder.pid
        ))
        .into());
    }
    Ok(())
}

async fn own(resolved: &Resolved, need: Need, data: DataDir) -> Result<Session> {
    // First the socket, then the node: who comes meanwhile waits in its queue.
    let listener = data
        .bind_control()
        .with_context(|| format!("cannot make the control socket in {}", data.path().display()))?;
    let network = need != Need::Store;
    let mut config = resolved.config.node(resolved.data_dir.clone(), network);
    config.exchange = resolved.exchange;
    // A daemon is to be found where its settings say; a command in the foreground works beside it too.
    config.any_port = need == Need::Network && resolved.start_flag != Some("--listen");
    let node = NodeHandle::start(config).await?;
    let role = if need == Need::Daemon { Role::Daemon } else { Role::Foreground { network } };
    let identity = node.identity();
    let app = App::new(node, role);
    let server = tokio::spawn(serve(listener, app.clone()));
    let client = Client::local(&app);
    Ok(Session { client, identity, home: Home::Own { app, data, server }, out: resolved.out })
}
