//! What the routes share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Holder;
use super::jobs::{Job, Jobs};
use super::shares::Shares;
use crate::node::NodeHandle;
use crate::node::api::Failure;

/// What kind of process the node lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Stays until it is told to end.
    Daemon,
    /// A `share`, `get` or the like that ends with its jobs; on the network or not.
    Foreground { network: bool },
}

/// A node and those who ask it.
pub struct App {
    pub(super) node: NodeHandle,
    role: Role,
    jobs: Arc<Jobs>,
    shares: Mutex<Shares>,
    stop: watch::Sender<bool>,
}

impl App {
    pub fn new(node: NodeHandle, role: Role) -> Arc<App> {
        let (stop, _) = watch::channel(false);
        Arc::new(App { node, role, jobs: Arc::default(), shares: Mutex::default(), stop })
    }

    pub fn node(&self) -> &NodeHandle {
        &self.node
    }

    pub fn is_daemon(&self) -> bool {
        self.role == Role::Daemon
    }

    pub fn holder(&self) -> Holder {
        Holder {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            daemon: self.is_daemon(),
            network: self.role != Role::Foreground { network: false },
            identity: self.node.identity(),
        }
    }

    /// How many jobs run, attached commands included.
    pub fn running(&self) -> usize {
        self.jobs.running()
    }

    /// Waits until the last job is done; those that come later are refused.
    pub async fn idle(&self) {
        self.jobs.close_when_idle().await;
    }

    /// Ends every job now: each that runs is answered with an error that says so.
    pub fn stop(&self) {
        self.jobs.close();
        self.stop.send_replace(true);
    }

    /// Waits for [`App::stop`], which `/v1/shutdown` calls too.
    pub async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // The sender is in `self`, so the wait cannot fail while we are here.
        let _ = stop.wait_for(|&stopped| stopped).await;
    }

    pub(super) fn enter(&self) -> Result<Job, Failure> {
        self.jobs.enter().ok_or_else(shutting_down)
    }

    pub(super) fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn shutting_down() -> Failure {
    Failure::failed("the node is shutting down; run the command again, what was done is kept")
}
