//! What is remembered of peers across restarts: the engine's accounts by peer ID, kept in the store.
//!
//! The engine knows peers by numbers that mean nothing tomorrow. Here their accounts stand under their IDs: an account
//! is given to the engine when its peer links up, and taken down when the link is lost, at a ban, at every [`KEEP`]
//! and at the end. Only what changed is written, in one commit. Bans are also the network's, so that a connection of a banned
//! peer is refused before anything is said on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libp2p::PeerId;

use crate::engine::Account;
use crate::engine::ledger::STRIKES;
use crate::net::api::Command;
use crate::store::{Store, StoreError};
use crate::units::{PeerKey, Time};

use super::api::{Banned, Failure, Peer, PeerAccount, Peers};
use super::clock::Clock;
use super::driver::{Call, Driver, Slow};
use super::handle::{NodeHandle, blocking, failed};
use super::limits::parse_peer;

/// The store's notes of accounts: a peer ID's bytes, and the account as JSON.
const KIND: &str = "peer";
/// Accounts that are kept; those without a ban go first, the longest unseen before the others.
const MAX_ACCOUNTS: usize = 16_384;
/// How often what has changed is written.
const KEEP: Duration = Duration::from_secs(30);

/// The accounts by peer.
#[derive(Debug, Default)]
pub struct Book {
    accounts: BTreeMap<PeerId, Account>,
    /// What the store does not know yet.
    changed: BTreeSet<PeerId>,
    written_at: Time,
    /// A ban or a pardon is not to be lost: write at the next tick.
    urgent: bool,
    writing: bool,
}

impl Book {
    /// What was kept. An account that cannot be read is left out; a time in the future (the clock was set back) is now.
    pub fn load(store: &dyn Store, now: Time) -> Result<Book, StoreError> {
        let mut book = Book { written_at: now, ..Book::default() };
        for (id, text) in store.notes(KIND)? {
            let (Ok(id), Ok(mut account)) =
                (PeerId::from_bytes(&id), serde_json::from_slice::<Account>(&text))
            else {
                tracing::warn!("an account of a peer cannot be read");
                continue;
            };
            (account.seen, account.fault_at) = (account.seen.min(now), account.fault_at.min(now));
            account.strikes = account.strikes.min(STRIKES);
            book.put(id, account);
        }
        // What had to make room is to be struck out; the rest is in the store already.
        book.changed.retain(|id| !book.accounts.contains_key(id));
        Ok(book)
    }

    pub fn get(&self, id: &PeerId) -> Option<&Account> {
        self.accounts.get(id)
    }

    pub fn banned(&self) -> impl Iterator<Item = (&PeerId, &Account)> {
        self.accounts.iter().filter(|(_, a)| a.banned)
    }

    /// Takes an account down. One that says nothing is not worth a line.
    pub fn put(&mut self, id: PeerId, account: Account) {
        let blank = account.given == 0 && account.taken == 0 && account.strikes == 0 && !account.banned;
        if blank || self.accounts.get(&id) == Some(&account) {
            return;
        }
        if self.accounts.len() >= MAX_ACCOUNTS && !self.accounts.contains_key(&id) {
            self.forget();
        }
        self.urgent |= account.banned && !self.accounts.get(&id).is_some_and(|a| a.banned);
        self.accounts.insert(id, account);
        self.changed.insert(id);
    }

    /// Drops an eighth.
    fn forget(&mut self) {
        let mut old: Vec<_> = self.accounts.iter().map(|(id, a)| (a.banned, a.seen, *id)).collect();
        old.sort_unstable();
        for (_, _, id) in &old[..(old.len() / 8).max(1)] {
            self.accounts.remove(id);
            self.changed.insert(*id);
        }
    }

    /// Takes a ban back; false if there is none.
    fn pardon(&mut self, id: &PeerId) -> bool {
        let Some(a) = self.accounts.get_mut(id).filter(|a| a.banned) else { return false };
        (a.banned, a.strikes) = (false, 0);
        self.changed.insert(*id);
        self.urgent = true;
        true
    }

    /// What the store is to be told of these.
    fn notes(&self, ids: &BTreeSet<PeerId>) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        // Numbers and truth values: JSON always takes them.
        let text = |a: &Account| serde_json::to_vec(a).unwrap_or_default();
        ids.iter().map(|id| (id.to_bytes(), self.accounts.get(id).map(text))).collect()
    }

    /// Writes what has changed, on this thread.
    pub fn write(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        if self.changed.is_empty() {
            return Ok(());
        }
        store.note(KIND, &self.notes(&self.changed))?;
        self.changed.clear();
        Ok(())
    }
}

fn shown(a: &Account) -> PeerAccount {
    PeerAccount { given: a.given, taken: a.taken, strikes: a.strikes }
}

fn banned(book: &Book) -> Vec<Banned> {
    let line = |(id, a): (&PeerId, &Account)| Banned {
        peer: id.to_string(),
        since: a.fault_at.0 / 1_000_000_000,
        account: shown(a),
    };
    book.banned().map(line).collect()
}

impl Driver {
    /// Before anything else: who was banned stays out.
    pub(super) async fn close_to_banned(&self) {
        let peers: Vec<PeerId> = self.book.banned().map(|(id, _)| *id).collect();
        if !peers.is_empty() {
            // The network task is gone only when we are too.
            let _ = self.net.send(Command::Banned { peers }).await;
        }
    }

    /// A peer links up: the engine is reminded of it.
    pub(super) fn recall(&mut self, key: PeerKey, id: &PeerId) {
        if let Some(account) = self.book.get(id) {
            self.engine.restore([(key, account.clone())]);
        }
    }

    /// Takes a peer's account down.
    pub(super) fn enter(&mut self, key: PeerKey) {
        let (Some(id), Some(account)) = (self.peers.id(key), self.engine.account(key)) else { return };
        self.book.put(id, account.clone());
    }

    fn enter_linked(&mut self) {
        let linked: Vec<PeerKey> =
            self.peers.iter().filter(|(_, _, p)| p.link.is_some()).map(|(k, _, _)| k).collect();
        let by_bitswap: Vec<PeerKey> = self.bitswap.peers().collect();
        linked.into_iter().chain(by_bitswap).for_each(|key| self.enter(key));
    }

    /// At every tick: writes what has changed if it is time.
    pub(super) fn keep_accounts(&mut self) {
        let now = self.clock.now();
        let due = now.since(self.book.written_at) >= KEEP;
        if self.book.writing || !(due || self.book.urgent) {
            return;
        }
        self.enter_linked();
        (self.book.written_at, self.book.urgent) = (now, false);
        if self.book.changed.is_empty() {
            return;
        }
        self.book.writing = true;
        let ids = std::mem::take(&mut self.book.changed);
        let (store, notes) = (self.store.clone(), self.book.notes(&ids));
        self.slowly(move || Slow::Kept { result: store.note(KIND, &notes), ids });
    }

    pub(super) fn kept(&mut self, result: Result<(), StoreError>, ids: BTreeSet<PeerId>) {
        self.book.writing = false;
        if let Err(e) = result {
            tracing::error!("cannot keep what is known of {} peers: {e}", ids.len());
            self.book.changed.extend(ids);
        }
    }

    /// The end: everything is taken down and given to whoever writes it.
    pub(super) fn close_book(&mut self) -> Book {
        self.enter_linked();
        std::mem::take(&mut self.book)
    }

    pub(super) fn pardon(&mut self, peer: PeerId) -> bool {
        if let Some(key) = self.peers.known(&peer) {
            self.engine.pardon(key);
        }
        let was = self.book.pardon(&peer);
        if was {
            self.command(Command::Pardon { peer });
        }
        was
    }

    pub(super) fn banned(&self) -> Vec<Banned> {
        banned(&self.book)
    }

    /// The accounts of those that are connected.
    pub(super) fn accounts(&self) -> BTreeMap<PeerId, PeerAccount> {
        let connected = self.peers.iter().filter(|(_, _, p)| p.connected);
        let account = |key, id: &PeerId| self.engine.account(key).or_else(|| self.book.get(id)).map(shown);
        connected.map(|(key, id, _)| (id, account(key, &id).unwrap_or_default())).collect()
    }
}

impl NodeHandle {
    /// Who is connected; nobody without a network.
    pub async fn peers(&self) -> Peers {
        let infos = self.connected().await;
        let accounts = self.ask(|reply| Call::Accounts { reply }).await.unwrap_or_default();
        let account = |id: &str| id.parse().ok().and_then(|id: PeerId| accounts.get(&id).copied());
        let peer = |info: crate::net::api::PeerInfo| {
            let account = account(&info.peer).unwrap_or_default();
            Peer { info, account }
        };
        Peers { peers: infos.into_iter().map(peer).collect() }
    }

    /// Who is refused.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn banned(&self) -> Result<Vec<Banned>, Failure> {
        if self.inner.running.is_some() {
            return self.ask(|reply| Call::Banned { reply }).await;
        }
        let store = self.inner.store.clone();
        blocking(move || Ok(banned(&Book::load(&*store, Clock::start().now()).map_err(failed)?))).await
    }

    /// Takes a ban back.
    ///
    /// # Errors
    /// `usage` if it is no peer ID; if that peer is not banned.
    pub async fn pardon(&self, peer: &str) -> Result<Banned, Failure> {
        let id = parse_peer(peer)?;
        let name = id.to_string();
        let line = self.banned().await?.into_iter().find(|b| b.peer == name);
        let not_banned = || Failure::failed(format!("{name} is not banned; see `dunlin peers --banned`"));
        let line = line.ok_or_else(not_banned)?;
        let done = if self.inner.running.is_some() {
            self.ask(|reply| Call::Pardon { peer: id, reply }).await?
        } else {
            let store = self.inner.store.clone();
            blocking(move || {
                let mut book = Book::load(&*store, Clock::start().now()).map_err(failed)?;
                let done = book.pardon(&id);
                book.write(&*store).map_err(failed)?;
                Ok(done)
            })
            .await?
        };
        if done { Ok(line) } else { Err(not_banned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemStore;

    fn account(given: u64, banned: bool, seen: u64) -> Account {
        Account { given, banned, seen: Time(seen), fault_at: Time(seen), ..Account::default() }
    }

    #[test]
    fn accounts_come_back_as_they_were_and_only_changes_are_written() {
        let (store, a, b, c) = (MemStore::new(), PeerId::random(), PeerId::random(), PeerId::random());
        let mut book = Book::default();
        book.put(a, account(5, false, 10));
        book.put(b, account(0, true, 20));
        book.put(c, account(0, false, 30));
        assert!(book.urgent, "a ban is written soon");
        assert_eq!(book.changed.len(), 2, "an account that says nothing is not kept");
        book.write(&store).unwrap();
        book.put(a, account(5, false, 10));
        assert!(book.changed.is_empty());

        let mut again = Book::load(&store, Time(15)).unwrap();
        assert_eq!(again.get(&a), Some(&account(5, false, 10)));
        assert_eq!(again.get(&b).unwrap().fault_at, Time(15), "not later than now");
        assert!(again.changed.is_empty());
        assert!(again.pardon(&b) && !again.pardon(&b) && !again.pardon(&c));
        again.write(&store).unwrap();
        assert_eq!(Book::load(&store, Time(99)).unwrap().banned().count(), 0);
    }

    #[test]
    fn strangers_push_no_ban_out_and_what_is_forgotten_is_struck_out() {
        let (store, bad) = (MemStore::new(), PeerId::random());
        let mut book = Book::default();
        book.put(bad, account(0, true, 0));
        for n in 0..MAX_ACCOUNTS as u64 + 10 {
            book.put(PeerId::random(), account(1, false, n + 1));
        }
        assert!(book.accounts.len() <= MAX_ACCOUNTS && book.get(&bad).is_some());
        book.write(&store).unwrap();
        assert_eq!(store.notes(KIND).unwrap().len(), book.accounts.len());
    }

    #[test]
    fn an_account_that_cannot_be_read_is_left_out() {
        let store = MemStore::new();
        let id = PeerId::random().to_bytes();
        let rubbish = [(id, Some(b"{".to_vec())), (b"nobody".to_vec(), Some(b"{}".to_vec()))];
        store.note(KIND, &rubbish).unwrap();
        assert_eq!(Book::load(&store, Time(1)).unwrap().accounts.len(), 0);
    }
}
