//! Listings for operators, and everything about one address.
//!
//! SCAN may tell an element twice; an operator is told once. A listing has
//! connections of its own, so that it holds nobody up.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use redis::Value;
use tokio::sync::mpsc;

use super::super::member::{Item, Member};
use super::super::store::{
    BATCH, Grant, Hold, Standing, StoreError, is_unmeant, networks_around, sooner,
};
use super::keys::{Subject, Window, spellings, spellings_of};
use super::link::number;
use super::links::{Form, Links, Truth};
use super::trouble::Trouble;
use super::walk::Walk;
use super::{RedisStore, now_ms};

/// A listing on its way to its reader.
struct Listing<'a, K, T> {
    to: &'a mpsc::Sender<Vec<T>>,
    told: HashSet<K>,
}

impl<'a, K: Hash + Eq, T> Listing<'a, K, T> {
    fn new(to: &'a mpsc::Sender<Vec<T>>) -> Self {
        Self { to, told: HashSet::new() }
    }

    async fn send(&mut self, found: Vec<(K, T)>) -> Result<(), StoreError> {
        let told = &mut self.told;
        let mut news = found.into_iter().filter_map(|(k, item)| told.insert(k).then_some(item));
        loop {
            let batch: Vec<T> = news.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            self.to.send(batch).await.map_err(|_| StoreError::CutOff)?;
        }
    }
}

pub(super) async fn allowed(
    store: &RedisStore,
    to: &mpsc::Sender<Vec<Item>>,
) -> Result<u64, StoreError> {
    let key = store.keys.allow_set.as_str();
    let links = reader(store, key).await?;
    let form = links.form(&store.keys).await.map_err(|trouble| trouble.about(key))?;
    let set_end = links.set_end(&store.keys).await.map_err(|trouble| trouble.about(key))?;
    let mut listing = Listing::new(to);
    let (mut cursor, mut garbage, mut walk) = (0, 0, Walk::default());
    loop {
        let page = links.scan_set(&store.keys, form, cursor).await;
        let page = page.map_err(|trouble| trouble.about(key))?;
        walk.page(links.of(key), page.found.len()).map_err(|trouble| trouble.about(key))?;
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
            break;
        }
    }
    let Some(prefix) = &store.keys.allow_prefix else { return Ok(garbage) };
    Ok(garbage + keys(store, &links, prefix, to).await?)
}

/// The end of a member of a set that ends by itself. One that nobody meant stays, so
/// that it can be noticed.
fn ends_with_set(end: Option<u64>, set_end: Option<u64>) -> Option<u64> {
    if is_unmeant(end) { end } else { sooner(end, set_end) }
}

pub(super) async fn bans(
    store: &RedisStore,
    to: &mpsc::Sender<Vec<Item>>,
) -> Result<u64, StoreError> {
    let prefix = &store.keys.ban_prefix;
    let links = reader(store, prefix).await?;
    keys(store, &links, prefix, to).await
}

/// Lists the keys with a prefix on all servers.
async fn keys(
    store: &RedisStore,
    links: &Links,
    prefix: &str,
    to: &mpsc::Sender<Vec<Item>>,
) -> Result<u64, StoreError> {
    let mut listing = Listing::new(to);
    let mut walk = Walk::default();
    // Their hashes: what is no address can be long.
    let (mut garbage, hasher) = (HashSet::new(), RandomState::new());
    for link in &links.all {
        let mut cursor = 0;
        loop {
            let page = links.scan_keys(link, prefix, cursor).await;
            let page = page.map_err(|trouble| trouble.about(prefix))?;
            walk.page(link, page.found.len()).map_err(|trouble| trouble.about(prefix))?;
            let ends = links.ends(&page.found, now_ms()).await;
            let ends = ends.map_err(|trouble| trouble.about(prefix))?;
            let mut found = vec![];
            for (key, end) in page.found.into_iter().zip(ends) {
                match (store.keys.subject(&key), end) {
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

pub(super) async fn history(
    store: &RedisStore,
    to: &mpsc::Sender<Vec<(IpAddr, u64)>>,
) -> Result<u64, StoreError> {
    let key = store.keys.history.as_str();
    let links = reader(store, key).await?;
    let mut listing = Listing::new(to);
    let (mut cursor, mut garbage, mut walk) = (0, 0, Walk::default());
    loop {
        let page = links.scan_pairs("HSCAN", key, cursor).await;
        let page = page.map_err(|trouble| trouble.about_history(key))?;
        let counted = walk.page(links.of(key), page.found.len());
        counted.map_err(|trouble| trouble.about_history(key))?;
        let mut found = vec![];
        for (field, value) in page.found {
            let at = number(&value).and_then(|at| u64::try_from(at).ok());
            match (field.parse::<IpAddr>(), at) {
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

pub(super) async fn set_end(store: &RedisStore) -> Result<Option<u64>, StoreError> {
    let key = store.keys.allow_set.as_str();
    let links = reader(store, key).await?;
    links.set_end(&store.keys).await.map_err(|trouble| trouble.about(key))
}

pub(super) async fn standing(
    store: &RedisStore,
    ip: IpAddr,
    findtime: Option<Duration>,
) -> Result<Standing, StoreError> {
    let key = store.keys.allow_set.as_str();
    let links = reader(store, key).await?;
    let found = read_standing(store, &links, ip, findtime).await;
    let mut standing = found.map_err(|trouble| trouble.about(key))?;
    let history = &store.keys.history;
    let mut get = redis::cmd("HGET");
    get.arg(history).arg(ip.to_string());
    let seen = links.of(history).ask(&get).await;
    standing.seen = count(&seen.map_err(|trouble| trouble.about_history(history))?);
    Ok(standing)
}

async fn read_standing(
    store: &RedisStore,
    links: &Links,
    ip: IpAddr,
    findtime: Option<Duration>,
) -> Result<Standing, Trouble> {
    let keys = &store.keys;
    let mut standing = Standing { server: links.names(), ..Standing::default() };
    standing.grants = grants_of_key(store, links, ip).await?;
    standing.set_ends_ms = links.set_end(keys).await?;
    let of_set = grants_of_set(store, links, ip).await?.into_iter().map(|grant| {
        let expires_ms = ends_with_set(grant.expires_ms, standing.set_ends_ms);
        Grant { expires_ms, ..grant }
    });
    standing.grants.extend(of_set);
    let ban_keys = ban_keys(&keys.ban_prefix, ip.into());
    let names: Vec<String> = ban_keys.iter().map(|(_, key)| key.clone()).collect();
    let ends = links.ends(&names, now_ms()).await?;
    let hold = |((member, key), end): ((Member, String), Truth)| {
        Some(Hold { member, key, expires_ms: end? })
    };
    standing.ban = ban_keys.into_iter().zip(ends).find_map(hold);
    if let Some(findtime) = findtime {
        let key = keys.strike_key(Member::source_of(ip), Window::at(now_ms(), findtime));
        let counted = links.of(&key).ask(redis::cmd("GET").arg(&key)).await?;
        standing.strikes = Some(count(&counted).unwrap_or(0));
    }
    Ok(standing)
}

async fn grants_of_key(
    store: &RedisStore,
    links: &Links,
    ip: IpAddr,
) -> Result<Vec<Grant>, Trouble> {
    let Some(prefix) = &store.keys.allow_prefix else { return Ok(vec![]) };
    let names = with_prefix(prefix, ip);
    let ends = links.ends(&names, now_ms()).await?;
    let grant = |(key, end): (String, Truth)| {
        end.map(|expires_ms| Grant { key, member: ip.into(), expires_ms })
    };
    Ok(names.into_iter().zip(ends).filter_map(grant).collect())
}

/// By name in its usual spellings; when that finds nothing, by looking at all.
async fn grants_of_set(
    store: &RedisStore,
    links: &Links,
    ip: IpAddr,
) -> Result<Vec<Grant>, Trouble> {
    let key = &store.keys.allow_set;
    let form = links.form(&store.keys).await?;
    let mut members = vec![Member::from(ip)];
    members.extend(networks_around(ip, (0..=128).rev()));
    let names: Vec<(Member, String)> = members
        .into_iter()
        .flat_map(|member| spellings(member).into_iter().map(move |name| (member, name)))
        .collect();
    let texts: Vec<String> = names.iter().map(|(_, name)| name.clone()).collect();
    let truths = links.lookup(&store.keys, form, &texts).await?;
    let grant = |(member, end): (Member, Truth)| {
        end.map(|expires_ms| Grant { key: key.clone(), member, expires_ms })
    };
    let mut grants: Vec<Grant> =
        names.into_iter().map(|(member, _)| member).zip(truths).filter_map(grant).collect();
    if grants.is_empty() {
        let found = find_in_set(store, links, form, |member| member.contains(ip)).await?;
        let found = found.into_iter().map(|(member, _, end)| (member, Some(end)));
        grants.extend(found.filter_map(grant));
    }
    Ok(grants)
}

/// Looks through the whole set for members, however they are written.
pub(super) async fn find_in_set(
    store: &RedisStore,
    links: &Links,
    form: Form,
    wanted: impl Fn(&Member) -> bool,
) -> Result<Vec<(Member, String, Option<u64>)>, Trouble> {
    let mut found = vec![];
    let (mut cursor, mut walk, mut told) = (0, Walk::default(), HashSet::new());
    loop {
        let page = links.scan_set(&store.keys, form, cursor).await?;
        walk.page(links.of(&store.keys.allow_set), page.found.len())?;
        for (text, end) in page.found {
            // A scan may tell a member twice.
            let member = text.parse::<Member>().ok().filter(&wanted);
            if let Some(member) = member.filter(|_| told.insert(text.clone())) {
                found.push((member, text, end));
            }
        }
        cursor = page.next;
        if cursor == 0 {
            return Ok(found);
        }
    }
}

/// The keys that ban `member`, or for an address also its /64, and which of both each is about.
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

async fn reader(store: &RedisStore, key: &str) -> Result<Links, StoreError> {
    let links = Links::find(&store.topology, &store.access, None).await;
    links.map_err(|trouble| trouble.about(key))
}
