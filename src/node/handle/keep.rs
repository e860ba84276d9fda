//! What is kept: found by its name, checked, moved, forgotten.

use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::content::Cid;
use crate::link::Link;
use crate::store::{ContentInfo, Store};
use crate::units::ContentKey;

use super::super::api::{ContentStatus, Failure, Progress, Verified};
use super::super::driver::{Call, View};
use super::show::content_status;
use super::{NodeHandle, blocking, failed};

impl NodeHandle {
    pub(in super::super) async fn infos(&self) -> Result<Vec<ContentInfo>, Failure> {
        let store = self.inner.store.clone();
        blocking(move || store.list().map_err(failed)).await
    }

    /// A content of ours by its CID, its link, or its path.
    pub(in super::super) async fn find(&self, what: &str) -> Result<ContentInfo, Failure> {
        let infos = self.infos().await?;
        let cid = Link::parse(what).ok().filter(|l| l.path.is_none()).map(|l| l.cid);
        let path = Path::new(what);
        let same = |c: &Cid| cid.is_some_and(|cid| cid.hash() == c.hash());
        infos.into_iter().find(|i| same(&i.root) || i.origin.path() == path).ok_or_else(|| {
            Failure::failed(format!("{} is not one of our contents; see `dunlin list`", what.escape_debug()))
        })
    }

    /// Forgets a content; the user's files stay.
    ///
    /// # Errors
    /// If no such content is here.
    pub async fn remove(&self, what: &str, delete_part: bool) -> Result<ContentStatus, Failure> {
        let info = self.find(what).await?;
        let key = info.key;
        self.forget(key).await?;
        let store = self.inner.store.clone();
        blocking(move || store.remove(key, delete_part).map_err(failed)).await?;
        if !self.infos().await?.iter().any(|i| i.root == info.root) {
            self.unlimit(&info.root).await?;
            self.note_paused(info.root, false).await?;
        }
        Ok(content_status(info, false, &View::default(), &[]))
    }

    pub(in super::super) async fn forget(&self, key: ContentKey) -> Result<(), Failure> {
        match self.inner.running {
            Some(_) => self.ask(|reply| Call::Forget { key, reply }).await,
            None => Ok(()),
        }
    }

    /// Hashes a content's files again; what no longer matches is served no more.
    ///
    /// # Errors
    /// If no such content is here, or it cannot be read.
    pub async fn verify(&self, what: &str, progress: mpsc::Sender<Progress>) -> Result<Verified, Failure> {
        let info = self.find(what).await?;
        let (store, key, total) = (self.inner.store.clone(), info.key, info.size);
        let (lost, changed, after) = blocking(move || {
            let (lost, changed) = store
                .verify(key, &mut |done| {
                    let line = Progress {
                        done,
                        total: Some(total),
                        state: "verifying".into(),
                        ..Progress::default()
                    };
                    let _ = progress.try_send(line);
                })
                .map_err(failed)?;
            Ok((lost, changed, store.info(key).map_err(failed)?))
        })
        .await?;
        let lost_chunks = lost.iter().map(|r| u64::from(r.len())).sum();
        if self.inner.running.is_some() {
            self.call(Call::Lost { key, ranges: lost }).await?;
            if after.complete && after.seeding {
                self.serve(key).await?;
            }
        }
        Ok(Verified {
            cid: info.root.to_string(),
            path: info.origin.path().to_owned(),
            chunks: info.chunks,
            lost_chunks,
            changed,
        })
    }

    /// A content's files were moved to `path`.
    ///
    /// # Errors
    /// If what is there is something else.
    pub async fn relocate(&self, what: &str, path: PathBuf) -> Result<ContentStatus, Failure> {
        let info = self.find(what).await?;
        let (store, key) = (self.inner.store.clone(), info.key);
        self.forget(key).await?;
        let moved = blocking(move || {
            let result = store.relocate(key, &path).map_err(failed);
            Ok((result, store.info(key).map_err(failed)?))
        })
        .await;
        let (result, info) = moved?;
        if info.seeding && info.complete {
            self.serve(key).await?;
        }
        result?;
        let paused = self.is_paused(&info.root).await;
        Ok(content_status(info, paused, &self.view().await, &[]))
    }
}
