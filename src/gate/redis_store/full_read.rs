//! The full read: everything that a gate has in Redis, in batches, while
//! changes and questions go on being answered between the pages.
//!
//! Nothing is collected: a set of a million passes through in pieces.

use tokio::time::Instant;

use super::super::member::{Item, Member};
use super::super::store::{BATCH, Event, either, sooner};
use super::follow::Session;
use super::keys::Subject;
use super::now_ms;
use super::plan::Read;
use super::recheck::MOST_FORMS;
use super::trouble::{Kind, Trouble};
use super::walk::Walk;

/// Set to what keys are told of at once from memory.
const FROM_MEMORY: usize = 1_000;

impl Session<'_> {
    /// Makes a full read, of the set alone where the keys are known.
    pub(super) async fn read(&mut self, read: Read) -> Result<(), Trouble> {
        let read = if self.memory.is_complete() { read } else { Read::All };
        let began = Instant::now();
        self.plan.begin(read, began);
        self.walk = Walk::default();
        let mut begun = self.begin().await;
        for _ in 0..MOST_FORMS {
            match &begun {
                // It became another type since its type was asked for. One that is
                // no set stays one, and the next question tells.
                Err(trouble) if trouble.kind == Kind::WrongType => begun = self.begin().await,
                _ => break,
            }
        }
        let mut garbage = begun?;
        let for_set = began.elapsed();
        match read {
            Read::Set => self.tell_memory().await?,
            Read::All => self.read_keys().await?,
        }
        garbage += self.memory.garbage;
        self.odd.end();
        self.send(Event::End { garbage }).await?;
        self.plan.ended(Instant::now(), for_set, began.elapsed());
        Ok(())
    }

    /// Begins a full read with the set; gives how many members are garbage.
    async fn begin(&mut self) -> Result<u64, Trouble> {
        // Before it begins: a key of a type that is no set is no content.
        self.look_at_set().await?;
        self.send(Event::Begin).await?;
        self.odd.begin_set();
        self.read_set().await
    }

    /// Looks what the set is, and when it ends as a whole.
    pub(super) async fn look_at_set(&mut self) -> Result<(), Trouble> {
        self.form = self.links.form(&self.store.keys).await?;
        self.set_end = self.links.set_end(&self.store.keys).await?;
        Ok(())
    }

    async fn read_set(&mut self) -> Result<u64, Trouble> {
        let (form, mut cursor, mut garbage) = (self.form, 0, 0);
        loop {
            let page = self.links.scan_set(&self.store.keys, form, cursor).await?;
            self.walk.page(self.links.of(&self.store.keys.allow_set), page.found.len())?;
            let mut items = Vec::with_capacity(page.found.len());
            for (text, end) in page.found {
                match text.parse::<Member>() {
                    Err(_) => garbage += 1,
                    Ok(member) => {
                        self.odd.note_member(member, &text);
                        items.push(Item::Allowed(member, sooner(end, self.set_end)));
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

    async fn read_keys(&mut self) -> Result<(), Trouble> {
        self.memory.clear();
        self.odd.begin_keys();
        for index in 0..self.links.all.len() {
            let bans = self.store.keys.ban_prefix.clone();
            self.read_prefix(index, &bans).await?;
            if let Some(allows) = self.store.keys.allow_prefix.clone() {
                self.read_prefix(index, &allows).await?;
            }
        }
        Ok(())
    }

    async fn read_prefix(&mut self, index: usize, prefix: &str) -> Result<(), Trouble> {
        let mut cursor = 0;
        loop {
            let link = &self.links.all[index];
            let page = self.links.scan_keys(link, prefix, cursor).await?;
            self.walk.page(link, page.found.len())?;
            let mut subjects = vec![];
            let mut keys = vec![];
            for key in page.found {
                match self.store.keys.subject(&key) {
                    // The allow-set's own name may begin with the prefix.
                    Some(Subject::AllowSet) => {}
                    None => self.memory.garbage += 1,
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
    ) -> Result<(), Trouble> {
        let ends = self.links.ends(keys, now_ms()).await?;
        let mut bans = vec![];
        let mut allows = vec![];
        for (subject, end) in subjects.iter().zip(ends) {
            // Gone since the scan, or at home on another server of the Cluster.
            let Some(end) = end else { continue };
            self.memory.found(*subject, end);
            match subject {
                Subject::Ban(member) => bans.push(Item::Banned(*member, end)),
                Subject::AllowKey(ip) => allows.push((Member::from(*ip), end)),
                Subject::AllowSet => {}
            }
        }
        self.send_items(bans).await?;
        self.send_allows(&allows).await
    }

    /// Tells what the keys said last.
    async fn tell_memory(&mut self) -> Result<(), Trouble> {
        self.memory.drop_past(now_ms());
        let bans: Vec<Item> =
            self.memory.bans.iter().map(|(member, end)| Item::Banned(*member, *end)).collect();
        self.send_items(bans).await?;
        let allows: Vec<_> =
            self.memory.allows.iter().map(|(member, end)| (*member, *end)).collect();
        for allows in allows.chunks(FROM_MEMORY) {
            self.send_allows(allows).await?;
        }
        Ok(())
    }

    /// Sends addresses with a key of their own. The set may let them in for longer.
    async fn send_allows(&mut self, allows: &[(Member, Option<u64>)]) -> Result<(), Trouble> {
        let members: Vec<Member> = allows.iter().map(|(member, _)| *member).collect();
        let by_set = self.in_set(&members).await?;
        let items =
            members.iter().zip(allows).zip(by_set).filter_map(|((member, (_, end)), set)| {
                either(Some(*end), set).map(|end| Item::Allowed(*member, end))
            });
        let items = items.collect();
        self.send_items(items).await
    }

    async fn send_items(&self, mut items: Vec<Item>) -> Result<(), Trouble> {
        while items.len() > BATCH {
            let rest = items.split_off(BATCH);
            self.send(Event::Items(std::mem::replace(&mut items, rest))).await?;
        }
        if items.is_empty() { Ok(()) } else { self.send(Event::Items(items)).await }
    }
}
