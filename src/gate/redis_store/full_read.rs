//! The full read: everything that a gate has in Redis, in batches, while
//! changes and queries go on being answered between the pages.
//!
//! Nothing is collected: a set of a million members passes through in batches.

use tokio::time::Instant;

use super::super::member::{Entry, Item, Member};
use super::super::store::{BATCH, Event};
use super::error::{Kind, RedisFailure};
use super::follow::Session;
use super::keys::Subject;
use super::lookup::MOST_TYPE_CHANGES;
use super::scan_limit::ScanLimit;
use super::schedule::Read;
use crate::net::clock::now;
use crate::unix_time::Expiry;

/// Cached keys that are reported at once.
const CACHED_AT_ONCE: usize = 1_000;

impl Session<'_> {
    /// Makes a full read, of the set alone where the keys are known.
    pub(super) async fn read(&mut self, read: Read) -> Result<(), RedisFailure> {
        let read = if self.key_cache.is_complete() { read } else { Read::All };
        let began = Instant::now();
        self.schedule.begin(read, began);
        self.scan_limit = ScanLimit::default();
        let mut begun = self.begin().await;
        for _ in 0..MOST_TYPE_CHANGES {
            match &begun {
                // It became another type since its type was looked up. One that is
                // no set stays one, and the next look-up shows it.
                Err(failure) if failure.kind == Kind::WrongType => begun = self.begin().await,
                _ => break,
            }
        }
        let mut garbage = begun?;
        let for_set = began.elapsed();
        match read {
            Read::Set => self.tell_cached_keys().await?,
            Read::All => self.read_keys().await?,
        }
        garbage += self.key_cache.garbage;
        self.aliases.end();
        self.send(Event::End { garbage }).await?;
        self.schedule.ended(Instant::now(), for_set, began.elapsed());
        Ok(())
    }

    /// Begins a full read with the set. Returns the number of garbage members.
    async fn begin(&mut self) -> Result<u64, RedisFailure> {
        // Before it begins: a key of a type that is no set is no content.
        self.look_at_set().await?;
        self.send(Event::Begin).await?;
        self.aliases.begin_set();
        self.read_set().await
    }

    /// Looks up the type of the set, and its end as a whole.
    pub(super) async fn look_at_set(&mut self) -> Result<(), RedisFailure> {
        self.set_type = self.connections.set_type(&self.store.keys).await?;
        self.set_end = self.connections.set_end(&self.store.keys).await?;
        Ok(())
    }

    async fn read_set(&mut self) -> Result<u64, RedisFailure> {
        let (set_type, mut cursor, mut garbage) = (self.set_type, 0, 0);
        loop {
            let page = self.connections.scan_set(&self.store.keys, set_type, cursor).await?;
            self.scan_limit
                .page(self.connections.of(&self.store.keys.allow_set), page.found.len())?;
            let mut items = Vec::with_capacity(page.found.len());
            for (text, end) in page.found {
                match text.parse::<Member>() {
                    Err(_) => garbage += 1,
                    Ok(member) => {
                        self.aliases.note_member(member, &text);
                        items.push(Item::Allowed(member, end.min(self.set_end)));
                    }
                }
            }
            self.send_items(items).await?;
            self.between_pages().await?;
            cursor = page.next;
            if cursor == 0 {
                return Ok(garbage);
            }
        }
    }

    async fn read_keys(&mut self) -> Result<(), RedisFailure> {
        self.key_cache.clear();
        self.aliases.begin_keys();
        for index in 0..self.connections.all.len() {
            let bans = self.store.keys.ban_prefix.clone();
            self.read_prefix(index, &bans).await?;
            if let Some(allows) = self.store.keys.allow_prefix.clone() {
                self.read_prefix(index, &allows).await?;
            }
        }
        Ok(())
    }

    async fn read_prefix(&mut self, index: usize, prefix: &str) -> Result<(), RedisFailure> {
        let mut cursor = 0;
        loop {
            let connection = &self.connections.all[index];
            let page = self.connections.scan_keys(connection, prefix, cursor).await?;
            self.scan_limit.page(connection, page.found.len())?;
            let mut subjects = vec![];
            let mut keys = vec![];
            for key in page.found {
                match self.store.keys.subject(&key) {
                    // The names of the allow-set and of notes may begin with the prefix.
                    Some(Subject::AllowSet | Subject::Beside) => {}
                    None => self.key_cache.garbage += 1,
                    Some(subject) => {
                        self.note_key(subject, &key);
                        subjects.push(subject);
                        keys.push(key);
                    }
                }
            }
            self.read_subjects(&subjects, &keys).await?;
            self.between_pages().await?;
            cursor = page.next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    async fn read_subjects(
        &mut self,
        subjects: &[Subject],
        keys: &[String],
    ) -> Result<(), RedisFailure> {
        let ends = self.connections.ends(keys, now()).await?;
        let mut bans = vec![];
        let mut allows = vec![];
        for (subject, end) in subjects.iter().zip(ends) {
            // Gone since the scan, or at home on another server of the Cluster.
            let Some(end) = end else { continue };
            self.key_cache.found(*subject, end);
            match subject {
                Subject::Ban(member) => bans.push(Item::Banned(*member, end)),
                Subject::AllowKey(ip) => allows.push(Entry { member: (*ip).into(), expiry: end }),
                Subject::AllowSet | Subject::Beside => {}
            }
        }
        self.send_items(bans).await?;
        self.send_allows(&allows).await
    }

    /// Reports the last known state of the keys.
    async fn tell_cached_keys(&mut self) -> Result<(), RedisFailure> {
        self.key_cache.drop_past(now());
        let bans: Vec<Item> =
            self.key_cache.bans.iter().map(|(member, end)| Item::Banned(*member, *end)).collect();
        self.send_items(bans).await?;
        let entry =
            |(member, expiry): (&Member, &Expiry)| Entry { member: *member, expiry: *expiry };
        let allows: Vec<Entry> = self.key_cache.allows.iter().map(entry).collect();
        for allows in allows.chunks(CACHED_AT_ONCE) {
            self.send_allows(allows).await?;
        }
        Ok(())
    }

    /// Sends addresses with a key of their own. The set may allow them for longer.
    async fn send_allows(&mut self, allows: &[Entry]) -> Result<(), RedisFailure> {
        let members: Vec<Member> = allows.iter().map(|entry| entry.member).collect();
        let by_set = self.in_set(&members).await?;
        let items = allows.iter().zip(by_set).filter_map(|(entry, by_set)| {
            let expiry = Some(entry.expiry).max(by_set)?;
            Some(Item::Allowed(entry.member, expiry))
        });
        let items = items.collect();
        self.send_items(items).await
    }

    async fn send_items(&self, mut items: Vec<Item>) -> Result<(), RedisFailure> {
        while items.len() > BATCH {
            let rest = items.split_off(BATCH);
            self.send(Event::Items(std::mem::replace(&mut items, rest))).await?;
        }
        if items.is_empty() { Ok(()) } else { self.send(Event::Items(items)).await }
    }
}
