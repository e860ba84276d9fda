//! What is shared: added, and withdrawn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::content::Cid;
use crate::content::profile::Profile;
use crate::store::{ImportOptions, ImportProgress, Store, import};

use super::super::api::{AddRequest, Failure, Progress, Shared};
use super::super::config::{ConfigError, Providing};
use super::super::driver::Call;
use super::super::providing::NOTES;
use super::{NodeHandle, blocking, failed};

/// How often an import says how far it is.
const IMPORT_PROGRESS: Duration = Duration::from_millis(200);

impl NodeHandle {
    /// Hashes a file or folder where it lies, and serves it from now on.
    ///
    /// # Errors
    /// What cannot be read or shared, by its path.
    pub async fn add(&self, req: AddRequest, progress: mpsc::Sender<Progress>) -> Result<Shared, Failure> {
        let profile = profile(req.profile.as_deref())?;
        let provide = providing(req.provide.as_deref())?;
        let options = ImportOptions {
            profile,
            hidden: req.hidden,
            preserve_mode: req.preserve_mode,
            preserve_mtime: req.preserve_mtime,
            only_hash: req.only_hash,
        };
        let (store, path) = (self.inner.store.clone(), req.path.clone());
        let stop = CancelOnDrop::default();
        let cancelled = stop.0.clone();
        let imported = blocking(move || {
            let said = std::sync::Mutex::new(Instant::now());
            let tell = |p: ImportProgress| {
                let Ok(mut last) = said.try_lock() else { return };
                if last.elapsed() >= IMPORT_PROGRESS {
                    *last = Instant::now();
                    // A reader that does not keep up misses a line, which the next one makes good.
                    let _ = progress.try_send(Progress {
                        done: p.bytes,
                        files: p.files,
                        state: "hashing".into(),
                        ..Progress::default()
                    });
                }
            };
            import(&store, &path, &options, &tell, &cancelled).map_err(failed)
        })
        .await?;
        if let Some(key) = imported.key {
            let store = self.inner.store.clone();
            let info = blocking(move || {
                store.set_seeding(key, true).map_err(failed)?;
                store.info(key).map_err(failed)
            })
            .await?;
            if let Some(mode) = provide {
                self.settle(info.root, mode).await?;
            }
            self.serve(key).await?;
        }
        let link = self.link(imported.root, imported.name, Some(imported.size)).await;
        Ok(Shared {
            cid: imported.root.to_string(),
            link: link.to_string(),
            size: imported.size,
            path: req.path,
            paused: self.is_paused(&imported.root).await,
            skipped: imported.skipped.iter().map(|p| p.display().to_string()).collect(),
        })
    }

    /// How a content is provided from now on.
    pub(super) async fn settle(&self, root: Cid, mode: Providing) -> Result<(), Failure> {
        let store = self.inner.store.clone();
        let note = (root.to_bytes(), Some(mode.to_string().into_bytes()));
        blocking(move || store.note(NOTES, &[note]).map_err(failed)).await?;
        match self.inner.running {
            Some(_) => self.call(Call::Provide { root, mode }).await,
            None => Ok(()),
        }
    }

    /// The end of a `share`: it stays in the store, and is served no more.
    ///
    /// # Errors
    /// If no such content is here.
    pub async fn withdraw(&self, what: &str) -> Result<(), Failure> {
        let info = self.find(what).await?;
        let (store, key) = (self.inner.store.clone(), info.key);
        blocking(move || store.set_seeding(key, false).map_err(failed)).await?;
        match self.inner.running {
            Some(_) => self.ask(|reply| Call::Withdraw { key, reply }).await,
            None => Ok(()),
        }
    }
}

#[derive(Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) fn providing(what: Option<&str>) -> Result<Option<Providing>, Failure> {
    what.map(str::parse).transpose().map_err(|e: ConfigError| Failure::usage(e.to_string()))
}

fn profile(name: Option<&str>) -> Result<&'static Profile, Failure> {
    let Some(name) = name else { return Ok(&Profile::V1_256K) };
    Profile::by_name(name).ok_or_else(|| {
        let known: Vec<&str> = Profile::ALL.iter().map(|p| p.name).collect();
        Failure::usage(format!("unknown profile {}: use one of {}", name.escape_debug(), known.join(", ")))
    })
}
