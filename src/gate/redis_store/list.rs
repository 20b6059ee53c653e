//! Listings for operators, and the record of one address.
//!
//! SCAN may return an element twice; an operator sees it once. A listing has
//! connections of its own, so that it holds up nothing else.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use redis::Value;
use tokio::sync::mpsc;

use super::super::member::{Entry, Item, Member};
use super::super::store::{
    AddressRecord, AllowEntry, BATCH, Ban, StoreError, is_implausible, networks_around,
};
use super::RedisStore;
use super::connections::{Connections, SetType};
use super::error::RedisFailure;
use super::keys::{Subject, Window, spellings, spellings_of};
use super::reply::number;
use super::scan_limit::ScanLimit;
use crate::net::clock::now;
use crate::unix_time::Expiry;

/// A listing on its way to its reader.
struct Listing<'a, K, T> {
    to: &'a mpsc::Sender<Vec<T>>,
    sent: HashSet<K>,
}

impl<'a, K: Hash + Eq, T> Listing<'a, K, T> {
    fn new(to: &'a mpsc::Sender<Vec<T>>) -> Self {
        Self { to, sent: HashSet::new() }
    }

    async fn send(&mut self, found: Vec<(K, T)>) -> Result<(), StoreError> {
        let sent = &mut self.sent;
        let mut new = found.into_iter().filter_map(|(k, item)| sent.insert(k).then_some(item));
        loop {
            let batch: Vec<T> = new.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            self.to.send(batch).await.map_err(|_| StoreError::CutOff)?;
        }
    }
}

impl RedisStore {
    /// Sends all entries of the allow-set in batches. Returns the number of
    /// entries that are no address or network.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached.
    pub async fn list_allowed(&self, to: mpsc::Sender<Vec<Item>>) -> Result<u64, StoreError> {
        let connections = self.reader(&self.keys.allow_set).await?;
        let garbage = self.list_set(&connections, &to).await?;
        let Some(prefix) = &self.keys.allow_prefix else { return Ok(garbage) };
        Ok(garbage + self.list_keys(&connections, prefix, &to).await?)
    }

    /// Sends all bans in batches. Returns the number of keys that name no address.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached.
    pub async fn list_bans(&self, to: mpsc::Sender<Vec<Item>>) -> Result<u64, StoreError> {
        let prefix = &self.keys.ban_prefix;
        let connections = self.reader(prefix).await?;
        self.list_keys(&connections, prefix, &to).await
    }

    /// Sends the history in batches: addresses, and the unix second at which each was last
    /// admitted. Returns the number of entries that are none.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached.
    pub async fn history(&self, to: mpsc::Sender<Vec<(IpAddr, u64)>>) -> Result<u64, StoreError> {
        let key = self.keys.history.as_str();
        let failed = |failure: RedisFailure| failure.into_history_error(key);
        let connections = self.reader(key).await?;
        let mut listing = Listing::new(&to);
        let (mut cursor, mut garbage, mut limit) = (0, 0, ScanLimit::default());
        loop {
            let page = connections.scan_pairs("HSCAN", key, cursor).await.map_err(failed)?;
            limit.page(connections.of(key), page.found.len()).map_err(failed)?;
            let mut found = vec![];
            for (field, value) in page.found {
                match (field.parse::<IpAddr>(), count(&value)) {
                    (Ok(ip), Some(at)) => found.push((ip.to_canonical(), (ip.to_canonical(), at))),
                    _ => garbage += 1,
                }
            }
            listing.send(found).await?;
            cursor = page.next;
            if cursor == 0 {
                return Ok(garbage);
            }
        }
    }

    /// Returns the end of the allow-set's key, with all its members.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached.
    pub async fn set_end(&self) -> Result<Expiry, StoreError> {
        let key = self.keys.allow_set.as_str();
        let connections = self.reader(key).await?;
        let end = connections.set_end(&self.keys).await;
        end.map_err(|failure| failure.into_store_error(key))
    }

    /// Returns everything about one address, with the failures of the current window
    /// of `findtime`.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached.
    pub async fn address_record(
        &self,
        ip: IpAddr,
        findtime: Option<Duration>,
    ) -> Result<AddressRecord, StoreError> {
        let ip = ip.to_canonical();
        let key = self.keys.allow_set.as_str();
        let connections = self.reader(key).await?;
        let record = self.read_record(&connections, ip, findtime).await;
        let mut record = record.map_err(|failure| failure.into_store_error(key))?;
        let history = &self.keys.history;
        let mut get = redis::cmd("HGET");
        get.arg(history).arg(ip.to_string());
        let seen = connections.of(history).ask(&get).await;
        record.seen = count(&seen.map_err(|failure| failure.into_history_error(history))?);
        // Last, because a value of another program's may break the connection.
        self.add_notes(&connections, &mut record.allow_entries).await;
        Ok(record)
    }

    /// Connections of a listing's own.
    async fn reader(&self, key: &str) -> Result<Connections, StoreError> {
        let connections = Connections::find(&self.topology, &self.access, None).await;
        connections.map_err(|failure| failure.into_store_error(key))
    }

    /// Lists the allow-set.
    async fn list_set(
        &self,
        connections: &Connections,
        to: &mpsc::Sender<Vec<Item>>,
    ) -> Result<u64, StoreError> {
        let key = self.keys.allow_set.as_str();
        let failed = |failure: RedisFailure| failure.into_store_error(key);
        let set_type = connections.set_type(&self.keys).await.map_err(failed)?;
        let set_end = connections.set_end(&self.keys).await.map_err(failed)?;
        let mut listing = Listing::new(to);
        let (mut cursor, mut garbage, mut limit) = (0, 0, ScanLimit::default());
        loop {
            let page = connections.scan_set(&self.keys, set_type, cursor).await.map_err(failed)?;
            limit.page(connections.of(key), page.found.len()).map_err(failed)?;
            let mut found = vec![];
            for (text, end) in page.found {
                match text.parse::<Member>() {
                    // Two spellings are two entries, but of one member.
                    Ok(member) => {
                        found.push((member, Item::Allowed(member, ends_with_set(end, set_end))));
                    }
                    Err(_) => garbage += 1,
                }
            }
            listing.send(found).await?;
            cursor = page.next;
            if cursor == 0 {
                return Ok(garbage);
            }
        }
    }

    /// Lists the keys with a prefix on all servers.
    async fn list_keys(
        &self,
        connections: &Connections,
        prefix: &str,
        to: &mpsc::Sender<Vec<Item>>,
    ) -> Result<u64, StoreError> {
        let failed = |failure: RedisFailure| failure.into_store_error(prefix);
        let mut listing = Listing::new(to);
        let mut limit = ScanLimit::default();
        // Their hashes: a key that names no address can be long.
        let (mut garbage, hasher) = (HashSet::new(), RandomState::new());
        for connection in &connections.all {
            let mut cursor = 0;
            loop {
                let page =
                    connections.scan_keys(connection, prefix, cursor).await.map_err(failed)?;
                limit.page(connection, page.found.len()).map_err(failed)?;
                let ends = connections.ends(&page.found, now()).await.map_err(failed)?;
                let mut found = vec![];
                for (key, end) in page.found.into_iter().zip(ends) {
                    match (self.keys.subject(&key), end) {
                        (Some(Subject::Ban(member)), Some(end)) => {
                            found.push((member, Item::Banned(member, end)));
                        }
                        (Some(Subject::AllowKey(ip)), Some(end)) => {
                            found.push((ip.into(), Item::Allowed(ip.into(), end)));
                        }
                        (None, _) => {
                            garbage.insert(hasher.hash_one(&key));
                        }
                        _ => {}
                    }
                }
                listing.send(found).await?;
                cursor = page.next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(garbage.len() as u64)
    }

    /// Reads the record of an address, without its place in the history.
    async fn read_record(
        &self,
        connections: &Connections,
        ip: IpAddr,
        findtime: Option<Duration>,
    ) -> Result<AddressRecord, RedisFailure> {
        let keys = &self.keys;
        let mut allow_entries = self.allow_keys_of(connections, ip).await?;
        let set_expiry = connections.set_end(keys).await?;
        let of_set = self.set_entries_of(connections, ip).await?.into_iter().map(|entry| {
            let expiry = ends_with_set(entry.expiry, set_expiry);
            AllowEntry { expiry, ..entry }
        });
        allow_entries.extend(of_set);
        let ban_keys = ban_keys(&keys.ban_prefix, ip.into());
        let names: Vec<String> = ban_keys.iter().map(|(_, key)| key.clone()).collect();
        let ends = connections.ends(&names, now()).await?;
        let ban = |((member, key), end): ((Member, String), Option<Expiry>)| {
            Some(Ban { member, key, expiry: end? })
        };
        let ban = ban_keys.into_iter().zip(ends).find_map(ban);
        let mut strikes = None;
        if let Some(findtime) = findtime {
            let key = keys.strike_key(Member::source_of(ip), Window::at(now(), findtime));
            let counted = connections.of(&key).ask(redis::cmd("GET").arg(&key)).await?;
            strikes = Some(count(&counted).unwrap_or(0));
        }
        let server = connections.names();
        Ok(AddressRecord { server, allow_entries, ban, seen: None, strikes, set_expiry })
    }

    /// The keys that each allow `ip`.
    async fn allow_keys_of(
        &self,
        connections: &Connections,
        ip: IpAddr,
    ) -> Result<Vec<AllowEntry>, RedisFailure> {
        let Some(prefix) = &self.keys.allow_prefix else { return Ok(vec![]) };
        let names = with_prefix(prefix, ip);
        let ends = connections.ends(&names, now()).await?;
        let entry = |(key, end): (String, Option<Expiry>)| {
            end.map(|expiry| AllowEntry {
                key,
                member: ip.into(),
                expiry,
                note: None,
                others: vec![],
            })
        };
        Ok(names.into_iter().zip(ends).filter_map(entry).collect())
    }

    /// The members of the set that allow `ip`: by name in its usual spellings; if that
    /// finds none, by a scan of all.
    async fn set_entries_of(
        &self,
        connections: &Connections,
        ip: IpAddr,
    ) -> Result<Vec<AllowEntry>, RedisFailure> {
        let key = &self.keys.allow_set;
        let set_type = connections.set_type(&self.keys).await?;
        let mut members = vec![Member::from(ip)];
        members.extend(networks_around(ip, (0..=128).rev()));
        let names: Vec<(Member, String)> = members
            .into_iter()
            .flat_map(|member| spellings(member).into_iter().map(move |name| (member, name)))
            .collect();
        let texts: Vec<String> = names.iter().map(|(_, name)| name.clone()).collect();
        let ends = connections.lookup(&self.keys, set_type, &texts).await?;
        let members = names.into_iter().map(|(member, _)| member);
        let entry = |(member, end): (Member, Option<Expiry>)| {
            end.map(|expiry| AllowEntry {
                key: key.clone(),
                member,
                expiry,
                note: None,
                others: vec![],
            })
        };
        let mut entries: Vec<AllowEntry> = members.zip(ends).filter_map(entry).collect();
        if entries.is_empty() {
            let found = self.find_in_set(connections, set_type, |member| member.contains(ip));
            let found = found.await?.into_iter().map(|found| found.entry);
            entries.extend(found.map(|Entry { member, expiry }| AllowEntry {
                key: key.clone(),
                member,
                expiry,
                note: None,
                others: vec![],
            }));
        }
        Ok(entries)
    }

    /// Looks through the whole set for members, however they are written.
    pub(super) async fn find_in_set(
        &self,
        connections: &Connections,
        set_type: SetType,
        wanted: impl Fn(&Member) -> bool,
    ) -> Result<Vec<Found>, RedisFailure> {
        let mut found = vec![];
        let (mut cursor, mut limit, mut seen) = (0, ScanLimit::default(), HashSet::new());
        loop {
            let page = connections.scan_set(&self.keys, set_type, cursor).await?;
            limit.page(connections.of(&self.keys.allow_set), page.found.len())?;
            for (written, expiry) in page.found {
                // A scan may return a member twice.
                let member = written.parse::<Member>().ok().filter(&wanted);
                if let Some(member) = member.filter(|_| seen.insert(written.clone())) {
                    found.push(Found { entry: Entry { member, expiry }, written });
                }
            }
            cursor = page.next;
            if cursor == 0 {
                return Ok(found);
            }
        }
    }
}

/// A member of the set, and its spelling there.
pub(super) struct Found {
    pub(super) entry: Entry,
    pub(super) written: String,
}

/// The end of a member of a set that ends by itself. An implausible one stays, so
/// that it can be noticed.
fn ends_with_set(end: Expiry, set_end: Expiry) -> Expiry {
    if is_implausible(end) { end } else { end.min(set_end) }
}

/// The keys that ban `member`, or for an address also its /64, each with its subject.
pub(super) fn ban_keys(prefix: &str, member: Member) -> Vec<(Member, String)> {
    let around = |network: Member| {
        let spellings = spellings(network).into_iter();
        spellings.map(|text| (network, format!("{prefix}{text}"))).collect::<Vec<_>>()
    };
    let Member::Address(ip) = member else { return around(member) };
    let mut all: Vec<(Member, String)> =
        with_prefix(prefix, ip).into_iter().map(|key| (member, key)).collect();
    all.extend(Member::bans_of(ip).filter(|other| *other != member).flat_map(around));
    all
}

/// `prefix` before each spelling of `ip`, the canonical one first.
pub(super) fn with_prefix(prefix: &str, ip: IpAddr) -> Vec<String> {
    let mut all = vec![format!("{prefix}{ip}")];
    all.extend(spellings_of(ip).into_iter().map(|spelling| format!("{prefix}{spelling}")));
    all.dedup();
    all
}

fn count(value: &Value) -> Option<u64> {
    number(value).and_then(|number| u64::try_from(number).ok())
}
