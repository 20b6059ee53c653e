//! Claims, and listings of entries with their notes.
//!
//! A listing of entries goes on when notes cannot be read: it says why, and notes have
//! connections of their own, which a value of another program's may break.

use std::time::Duration;

use rand::RngExt;
use tokio::sync::mpsc;

use super::super::member::{Item, Member};
use super::super::owners;
use super::super::store::{AllowEntry, Grant, Listed, StoreError};
use super::RedisStore;
use super::attempt::{Failed, milliseconds};
use super::connections::Connections;
use super::error::RedisFailure;
use super::reply::text;
use super::write::may_retry;
use crate::unix_time::Expiry;

/// The notes of a listing.
struct Notes<'a> {
    store: &'a RedisStore,
    connections: Connections,
    /// The end of the set as a whole, which entries have that would last longer.
    set_end: Expiry,
    is_any_beside: bool,
}

impl RedisStore {
    /// Claims `name` for a while. Returns false if it is claimed already.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached, after one retry.
    pub async fn claim(&self, name: &str, lasting: Duration) -> Result<bool, StoreError> {
        let key = self.keys.claim_key(name);
        // By which a second try recognises that the first one was done.
        let token = format!("{:016x}", rand::rng().random::<u64>());
        let claimed = match self.try_claim(&key, &token, lasting).await {
            Err(failure) if may_retry(&[], &failure) => {
                self.before_retry(&failure).await;
                self.try_claim(&key, &token, lasting).await
            }
            claimed => claimed,
        };
        claimed.map_err(|failure| Failed::At(key, failure).into_error(self))
    }

    async fn try_claim(
        &self,
        key: &str,
        token: &str,
        lasting: Duration,
    ) -> Result<bool, RedisFailure> {
        let connections = self.writer_connections().await?;
        let mut both = redis::pipe();
        both.cmd("SET").arg(key).arg(token).arg("NX").arg("PX").arg(milliseconds(lasting));
        both.cmd("GET").arg(key);
        match connections.of(key).ask_all(&both).await {
            Ok(answers) => Ok(answers.get(1).and_then(text).as_deref() == Some(token)),
            Err(failure) => {
                self.forget_writer().await;
                Err(failure)
            }
        }
    }

    /// Sends all entries of the allow-set with their notes in batches.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached, for the entries.
    pub async fn list_grants(&self, to: mpsc::Sender<Vec<Grant>>) -> Result<Listed, StoreError> {
        let (entries, mut batches) = mpsc::channel::<Vec<Item>>(1);
        let pass = async {
            let mut notes = Notes::open(self).await;
            let mut without_notes = None;
            while let Some(batch) = batches.recv().await {
                let entries = batch.into_iter().filter_map(|item| match item {
                    Item::Allowed(member, expiry) => {
                        Some(Grant { member, expiry, note: None, others: vec![] })
                    }
                    Item::Banned(..) => None,
                });
                let mut entries: Vec<Grant> = entries.collect();
                if let Ok(open) = &notes
                    && let Err(failure) = open.add(&mut entries).await
                {
                    notes = Err(failure);
                }
                if let Err(failure) = &notes {
                    without_notes.get_or_insert_with(|| failure.to_string());
                }
                if to.send(entries).await.is_err() {
                    break;
                }
            }
            without_notes
        };
        let (listed, without_notes) = tokio::join!(self.list_allowed(entries), pass);
        Ok(Listed { garbage: listed?, without_notes })
    }

    /// Adds the notes to entries that allow one address, where they can be read.
    pub(super) async fn add_notes(&self, connections: &Connections, entries: &mut [AllowEntry]) {
        let is_in_set = |entry: &&mut AllowEntry| entry.key == self.keys.allow_set;
        let (in_set, own): (Vec<_>, Vec<_>) = entries.iter_mut().partition(is_in_set);
        let members: Vec<Member> = in_set.iter().map(|entry| entry.member).collect();
        if !members.is_empty() {
            let beside = connections.notes_of(&self.keys, &members).await.unwrap_or_default();
            let set_end = connections.set_end(&self.keys).await.unwrap_or(Expiry::Never);
            for (entry, note) in in_set.into_iter().zip(beside) {
                let notes = note.and_then(|note| note.of_entry(entry.expiry, set_end));
                entry.add_notes(notes);
            }
        }
        let names: Vec<String> = own.iter().map(|entry| entry.key.clone()).collect();
        let values = connections.values_of(&names).await.unwrap_or_default();
        for (entry, value) in own.into_iter().zip(values) {
            entry.add_notes(value.and_then(|text| owners::Notes::parse(&text)));
        }
    }
}

impl<'a> Notes<'a> {
    async fn open(store: &'a RedisStore) -> Result<Self, RedisFailure> {
        let connections = Connections::find(&store.topology, &store.access, None).await?;
        let set_end = connections.set_end(&store.keys).await?;
        let key = connections.notes_key(&store.keys);
        let there = connections.of(&key).ask(redis::cmd("EXISTS").arg(&key)).await?;
        let is_any_beside = super::attempt::count(&there) == Some(1);
        Ok(Self { store, connections, set_end, is_any_beside })
    }

    /// Adds the notes to entries, which are members of the set or keys of their own.
    async fn add(&self, entries: &mut [Grant]) -> Result<(), RedisFailure> {
        let keys = &self.store.keys;
        if self.is_any_beside {
            let members: Vec<Member> = entries.iter().map(|entry| entry.member).collect();
            let notes = self.connections.notes_of(keys, &members).await?;
            for (entry, note) in entries.iter_mut().zip(notes) {
                let notes = note.and_then(|note| note.of_entry(entry.expiry, self.set_end));
                entry.add_notes(notes);
            }
        }
        let mut own: Vec<(usize, String)> = vec![];
        for (place, entry) in entries.iter().enumerate() {
            if entry.note.is_none() {
                own.extend(keys.own_key(entry.member).map(|key| (place, key)));
            }
        }
        let (places, names): (Vec<usize>, Vec<String>) = own.into_iter().unzip();
        let values = self.connections.values_of(&names).await?;
        for (place, value) in places.into_iter().zip(values) {
            entries[place].add_notes(value.and_then(|text| owners::Notes::parse(&text)));
        }
        Ok(())
    }
}
