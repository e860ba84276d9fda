//! What the rest of the program holds of a node. Cheap to clone; the node ends with [`NodeHandle::shutdown`].
//!
//! Here is how it asks the driver and the store; what it can be asked stands by its subject in the files beside.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::net::NetHandle;
use crate::net::api::Command;
use crate::store::{FsStore, Store};
use crate::units::ContentKey;

use super::api::{Failure, Identity};
use super::driver::{Call, Known};
use super::limits::Limits;
use super::pausing::Paused;

mod fetch;
mod keep;
mod share;
mod show;
mod start;

pub(super) use fetch::{parse_link, parse_peers};
pub(super) use show::content_status;

#[derive(Clone)]
pub struct NodeHandle {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) store: Arc<FsStore>,
    pub(super) running: Option<Running>,
    pub(super) limits: tokio::sync::Mutex<Limits>,
    pub(super) paused: tokio::sync::Mutex<Paused>,
    identity: Identity,
    pub(super) data_dir: PathBuf,
    started: Instant,
}

/// What there is only with a network.
pub(super) struct Running {
    pub(super) calls: mpsc::Sender<Call>,
    net: NetHandle,
}

pub(super) fn failed(e: impl std::fmt::Display) -> Failure {
    Failure::failed(e.to_string())
}

/// The node ended while it was asked.
pub(super) fn gone() -> Failure {
    Failure::failed("the node is shutting down")
}

fn offline() -> Failure {
    Failure::failed("this needs the network: start `dunlin daemon` first")
}

impl NodeHandle {
    /// Where streams that nobody asked to keep are put meanwhile.
    pub(super) fn temporary_dir(&self) -> PathBuf {
        self.inner.data_dir.join("tmp")
    }

    pub(super) fn running(&self) -> Result<&Running, Failure> {
        self.inner.running.as_ref().ok_or_else(offline)
    }

    pub(super) async fn call(&self, call: Call) -> Result<(), Failure> {
        self.running()?.calls.send(call).await.map_err(|_| gone())
    }

    /// Tells the network task directly.
    pub(super) async fn command(&self, command: Command) -> Result<(), Failure> {
        self.running()?.net.commands.send(command).await.map_err(|_| gone())
    }

    pub(super) async fn ask<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.call(call(reply)).await?;
        answer.await.map_err(|_| gone())
    }

    async fn serve(&self, key: ContentKey) -> Result<(), Failure> {
        if self.inner.running.is_none() {
            return Ok(());
        }
        let store = self.inner.store.clone();
        let known = Box::new(blocking(move || compared(&*store, key)).await?);
        self.ask(|reply| Call::Serve { known, reply }).await
    }

    pub fn identity(&self) -> Identity {
        self.inner.identity.clone()
    }

    /// Ends the node: says goodbye, lets the disks finish, commits what is held.
    pub async fn shutdown(&self) {
        if self.inner.running.is_some() && self.ask(|reply| Call::Shutdown { reply }).await.is_err() {
            tracing::debug!("the node had ended already");
        }
    }
}

/// Runs something that blocks, off the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Failure::failed(format!("an internal task failed: {e}"))),
    }
}

/// What a content is and what of it is held, its disk compared with its records. Blocking, and slow where much has
/// to be hashed.
pub(super) fn compared(store: &dyn Store, key: ContentKey) -> Result<Known, Failure> {
    let have = store.have(key).map_err(failed)?;
    Ok(Known { info: store.info(key).map_err(failed)?, have })
}
