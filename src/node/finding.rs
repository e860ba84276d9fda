//! Asking the DHTs on somebody's behalf: who provides this, and telling that we do.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::content::Hash;
use crate::dht::Stats;
use crate::net::api::Command;
use crate::net::dht::{FIND_QUEUE, FindEvent, ProvideStatus, Provided};

use super::api::{Failure, Finding, FoundProvider, Line, ProvideRequest, ProvidedLine};
use super::handle::{NodeHandle, failed, gone, parse_link};

/// A node that has just started knows nobody yet: how long it may take to enter a DHT.
const ENTER: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

impl NodeHandle {
    /// Looks for providers; gives lines until the last, which is `FoundAll` or `Error`. Dropping the
    /// receiver ends the look-up.
    ///
    /// # Errors
    /// What is no link, or no network.
    pub async fn find_providers(&self, link: &str) -> Result<mpsc::Receiver<Line>, Failure> {
        let link = parse_link(link)?;
        let cid = match &link.path {
            None => link.cid,
            Some(path) => self.resolve(&link, path, Vec::new(), None).await?,
        };
        self.running()?;
        let (to, lines) = mpsc::channel(FIND_QUEUE);
        let node = self.clone();
        tokio::spawn(async move {
            let last = node.watch(cid.hash(), cid.to_string(), &to).await.unwrap_or_else(Line::Error);
            let _ = to.send(last).await; // whoever asked may have gone
        });
        Ok(lines)
    }

    async fn watch(&self, hash: &Hash, cid: String, to: &mpsc::Sender<Line>) -> Result<Line, Failure> {
        let began = Instant::now();
        let ms = || began.elapsed().as_millis() as u64; // an age, far below 2^64
        self.entered().await?;
        let (reply, mut events) = mpsc::channel(FIND_QUEUE);
        self.command(Command::Find { hash: *hash, reply }).await?;
        let mut providers = 0;
        let finding = |stats: Stats, providers, ms| Finding {
            cid: cid.clone(),
            asked: stats.asked,
            answered: stats.answered,
            failed: stats.failed,
            hops: stats.hops,
            providers,
            ms,
        };
        while let Some(event) = events.recv().await {
            match event {
                FindEvent::Progress(stats) => {
                    // Of these a reader that does not keep up misses some.
                    let _ = to.try_send(Line::Finding(finding(stats, providers, ms())));
                }
                FindEvent::Provider { peer, addrs } => {
                    providers += 1;
                    let addrs = addrs.iter().map(ToString::to_string).collect();
                    let found = FoundProvider { peer_id: peer.to_string(), addrs, ms: ms() };
                    if to.send(Line::Found(found)).await.is_err() {
                        break;
                    }
                }
                FindEvent::Done(stats) => return Ok(Line::FoundAll(finding(stats, providers, ms()))),
            }
        }
        Err(gone())
    }

    /// Waits until a DHT can be asked.
    async fn entered(&self) -> Result<(), Failure> {
        let until = Instant::now() + ENTER;
        while Instant::now() < until && self.providing().await?.iter().all(|s| s.servers == 0) {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// How the providing stands in the public DHT, and in the local one.
    ///
    /// # Errors
    /// Without a network.
    pub async fn providing(&self) -> Result<[ProvideStatus; 2], Failure> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Providing { reply }).await?;
        answer.await.map_err(|_| gone())
    }

    /// Tells the closest servers now that we provide a content of ours.
    ///
    /// # Errors
    /// If it is none of ours, there is no network, or nobody took the record.
    pub async fn provide_now(&self, request: ProvideRequest) -> Result<ProvidedLine, Failure> {
        let info = self.find(&request.what).await?;
        if !info.seeding {
            let what = "is not served, so nobody may be told that it is; `dunlin add` its path again first";
            return Err(Failure::failed(format!("{} {what}", info.root)));
        }
        if self.is_paused(&info.root).await {
            let what = "is paused, so nobody may be told of it; `dunlin resume` it first";
            return Err(Failure::failed(format!("{} {what}", info.root)));
        }
        self.entered().await?;
        let ((wan, wan_answer), (lan, lan_answer)) = (oneshot::channel(), oneshot::channel());
        let command = Command::ProvideOnce { hash: *info.root.hash(), verify: request.verify, wan, lan };
        self.command(command).await?;
        // A reply that was dropped: there is no telling in that DHT.
        let (wan, lan) = (wan_answer.await.ok(), lan_answer.await.ok());
        let told = |p: Option<Provided>| p.map_or(0, |p| p.told);
        if told(wan) + told(lan) == 0 {
            return Err(failed(match (wan, lan) {
                (None, None) => "no DHT can be told: this node has no address that others could reach",
                _ => "no server took the record; see `dunlin peers` for who is connected",
            }));
        }
        Ok(ProvidedLine { cid: info.root.to_string(), wan, lan })
    }
}
