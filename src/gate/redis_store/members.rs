//! Edits of the allow-set's members, each in one transaction with its note.
//!
//! Notes are for people: an ACL user who may not write them can take members out all the same, and
//! is refused only where a note is to be kept, before anything is written.

use std::net::IpAddr;
use std::time::Duration;

use redis::{Cmd, Value};

use super::super::grant::GrantNote;
use super::super::member::Member;
use super::super::owners::Held;
use super::super::store::StoreError;
use super::attempt::{Attempt, Done, Failed, LONGEST_MS, count, set_for};
use super::connections::{Connections, SetType};
use super::error::{Kind, RedisFailure};
use super::keys::{Keys, spellings};
use super::list::with_prefix;
use crate::net::clock::now;
use crate::unix_time::Expiry;

/// A member that is to be let in.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) member: Member,
    pub(super) lasting: Option<Duration>,
    pub(super) note: Option<&'a GrantNote>,
}

/// The commands that let a member in.
pub(super) struct Adding {
    pub(super) key: String,
    pub(super) command: Cmd,
    /// The change of the notes; `None` for a key of its own, which has its note as value.
    pub(super) note: Option<Cmd>,
    /// The type of the set afterwards.
    pub(super) set_type: SetType,
}

impl Wanted<'_> {
    /// The commands for this member, where the set has this type.
    pub(super) fn adding(
        &self,
        keys: &Keys,
        connections: &Connections,
        set_type: SetType,
    ) -> Result<Adding, Failed> {
        let Self { member, lasting, note } = *self;
        let set = &keys.allow_set;
        let own_key = keys.own_key(member);
        let end = end_after(lasting);
        let notes_key = connections.notes_key(keys);
        let in_set = |command: Cmd, set_type| Adding {
            key: set.clone(),
            command,
            note: Some(noting(&notes_key, member, note, end)),
            set_type,
        };
        match (set_type, lasting, own_key) {
            (SetType::Absent | SetType::Set, None, _) => {
                let mut add = redis::cmd("SADD");
                add.arg(set).arg(member.to_string());
                Ok(in_set(add, SetType::Set))
            }
            (SetType::Absent | SetType::Set, Some(lasting), Some(key)) => {
                let value = note.map_or_else(|| "1".to_owned(), GrantNote::json);
                let command = set_for(&key, &value, lasting);
                Ok(Adding { key, command, note: None, set_type })
            }
            (SetType::Set, Some(_), None) => {
                let server = connections.node_of(set).to_string();
                Err(Failed::For(StoreError::NoExpiry { server, key: set.clone() }))
            }
            (SetType::Sorted | SetType::Absent, ..) => {
                let mut add = redis::cmd("ZADD");
                add.arg(set).arg("CH").arg(score(end)).arg(member.to_string());
                Ok(in_set(add, SetType::Sorted))
            }
        }
    }
}

/// Writes the note of a member, or removes the one before.
fn noting(key: &str, member: Member, note: Option<&GrantNote>, end: Expiry) -> Cmd {
    let Some(note) = note else { return unnoting(key, member) };
    let mut set = redis::cmd("HSET");
    let held = Held::new(end, Some(note.clone()));
    set.arg(key).arg(member.to_string()).arg(held.json());
    set
}

/// Removes the note of a member.
pub(super) fn unnoting(key: &str, member: Member) -> Cmd {
    let mut delete = redis::cmd("HDEL");
    delete.arg(key).arg(member.to_string());
    delete
}

/// The end of a member that lasts for so long from now on.
fn end_after(lasting: Option<Duration>) -> Expiry {
    Expiry::after(now(), lasting.map(|lasting| lasting.min(Duration::from_millis(LONGEST_MS))))
}

/// The score of a member with this end, in unix seconds.
pub(super) fn score(end: Expiry) -> String {
    match end.as_millis() {
        None => "+inf".to_owned(),
        Some(end) => format!("{}.{:03}", end / 1000, end % 1000),
    }
}

impl Attempt<'_> {
    pub(super) async fn allow(&self, wanted: Wanted<'_>) -> Result<Done, Failed> {
        let Self { connections, store } = self;
        let (keys, set) = (&store.keys, &store.keys.allow_set);
        let set_type = self.set_type().await?;
        let failed = |failure| Failed::At(set.clone(), failure);
        let mut relabels = false;
        if wanted.lasting.is_none() {
            let kept = connections.endless(keys, set_type, &[wanted.member]).await;
            if let Some(present) = kept.map_err(failed)?.get(&wanted.member) {
                relabels = GrantNote::relabels(wanted.note, present.as_ref());
                if !relabels {
                    return Ok(Done { key: set.clone(), changed: false, count: None });
                }
            }
        }
        let Adding { key, command, note, set_type } = wanted.adding(keys, connections, set_type)?;
        let Some(note) = note else {
            let done = connections.of(&key).ask(&command).await;
            done.map_err(|failure| Failed::At(key.clone(), failure))?;
            return Ok(Done { key, changed: true, count: None });
        };
        let added = if wanted.note.is_some() {
            let added = self.keep_note(&command, &note).await?;
            self.prune(set_type).await;
            added
        } else {
            self.drop_note(&command, &note).await?
        };
        if let Member::Address(ip) = wanted.member
            && let Some(prefix) = keys.allow_prefix.as_ref().filter(|_| wanted.lasting.is_some())
        {
            // From before the set was a sorted one, with another end.
            self.delete(&with_prefix(prefix, ip)).await?;
        }
        let changed = added > 0 || relabels;
        self.announce(wanted.member, changed).await;
        Ok(Done { key, changed, count: None })
    }

    pub(super) async fn remove(&self, member: Member) -> Result<Done, Failed> {
        let mut key = self.store.keys.allow_set.clone();
        let set_type = self.set_type().await?;
        let mut removed = self.take_out(set_type, &spellings(member), member).await?;
        if let (Member::Address(ip), Some(prefix)) = (member, &self.store.keys.allow_prefix) {
            let names = with_prefix(prefix, ip);
            let deleted = self.delete(&names).await?;
            if removed == 0 && deleted > 0 {
                key.clone_from(&names[0]);
            }
            removed += deleted;
        }
        if removed == 0 {
            // Written in an unusual way, and still in force.
            let is_it = |other: &Member| *other == member;
            let found = self.store.find_in_set(self.connections, set_type, is_it).await;
            let found = found.map_err(|failure| Failed::At(key.clone(), failure))?;
            let names: Vec<String> = found.into_iter().map(|found| found.written).collect();
            removed = self.take_out(set_type, &names, member).await?;
        }
        self.announce(member, removed > 0).await;
        Ok(Done { key, changed: removed > 0, count: None })
    }

    pub(super) async fn forget(&self, ip: IpAddr, before_s: u64) -> Result<Done, Failed> {
        let key = self.store.keys.history.clone();
        if self.seen(ip).await?.is_some_and(|seen_s| seen_s >= before_s) {
            return Ok(Done { key, changed: false, count: None });
        }
        let set_type = self.set_type().await?;
        let mut removed = self.take_out(set_type, &spellings(ip.into()), ip.into()).await?;
        self.announce(ip.into(), removed > 0).await;
        if let Some(prefix) = &self.store.keys.allow_prefix {
            removed += self.delete(&with_prefix(prefix, ip)).await?;
        }
        let mut delete = redis::cmd("HDEL");
        delete.arg(&key).arg(with_prefix("", ip));
        removed += self.count(&key, &delete).await?;
        Ok(Done { key, changed: removed > 0, count: None })
    }

    /// The unix second at which `ip` was last admitted, in any of its spellings.
    async fn seen(&self, ip: IpAddr) -> Result<Option<u64>, Failed> {
        let key = &self.store.keys.history;
        let mut all = redis::pipe();
        for name in with_prefix("", ip) {
            all.cmd("HGET").arg(key).arg(name);
        }
        let answers = self.connections.of(key).ask_all(&all).await;
        let answers = answers.map_err(|failure| Failed::At(key.clone(), failure))?;
        Ok(answers.iter().filter_map(count).max())
    }

    /// Removes a member from the allow-set by its names, with its note. Returns their number.
    async fn take_out(
        &self,
        set_type: SetType,
        names: &[String],
        member: Member,
    ) -> Result<u64, Failed> {
        let command = match set_type {
            _ if names.is_empty() => return Ok(0),
            SetType::Absent => return Ok(0),
            SetType::Set => "SREM",
            SetType::Sorted => "ZREM",
        };
        let mut remove = redis::cmd(command);
        remove.arg(&self.store.keys.allow_set).arg(names);
        let notes = self.connections.notes_key(&self.store.keys);
        self.drop_note(&remove, &unnoting(&notes, member)).await
    }

    /// Returns the key of notes, if they can be written there.
    pub(super) async fn notes_to_write(&self) -> Result<String, Failed> {
        let keys = &self.store.keys;
        let notes = self.connections.notes_key(keys);
        match self.connections.check_notes(keys).await {
            Ok(()) => Ok(notes),
            Err(failure) => Err(denied_note(&notes, failure)),
        }
    }

    /// Sends a change of the set with that of a note that is to be kept, or neither. Returns
    /// the count of the first.
    async fn keep_note(&self, change: &Cmd, note: &Cmd) -> Result<u64, Failed> {
        let Self { connections, store } = self;
        let set = &store.keys.allow_set;
        let failed = |failure| Failed::At(set.clone(), failure);
        let notes = self.notes_to_write().await?;
        if !connections.map.joins(&notes, set) {
            let noted = connections.of(&notes).ask(note).await;
            noted.map_err(|failure| denied_note(&notes, failure))?;
            return self.count(set, change).await;
        }
        match self.both(change, note).await {
            Ok(answers) => Ok(answers.first().and_then(count).unwrap_or(0)),
            Err(failure) if failure.kind == Kind::Denied => {
                // Of the two commands the one that may be unknown to the user's rights.
                let mut probe = redis::cmd("HDEL");
                probe.arg(&notes).arg("");
                match connections.of(&notes).ask(&probe).await {
                    Err(denied) => Err(denied_note(&notes, denied)),
                    Ok(_) => Err(failed(failure)),
                }
            }
            Err(failure) => Err(failed(failure)),
        }
    }

    /// Sends a change of the set, and removes a note if that is possible. Returns the count of
    /// the first.
    async fn drop_note(&self, change: &Cmd, note: &Cmd) -> Result<u64, Failed> {
        let set = &self.store.keys.allow_set;
        let notes = self.connections.notes_key(&self.store.keys);
        if !self.connections.map.joins(&notes, set) {
            let _ = self.connections.of(&notes).ask(note).await;
            return self.count(set, change).await;
        }
        match self.both(change, note).await {
            Ok(answers) => Ok(answers.first().and_then(count).unwrap_or(0)),
            Err(failure) if failure.kind == Kind::Denied => self.count(set, change).await,
            Err(failure) => Err(Failed::At(set.clone(), failure)),
        }
    }

    /// Sends two commands as one transaction; a failure of the first is the failure of both.
    async fn both(&self, one: &Cmd, other: &Cmd) -> Result<Vec<Value>, RedisFailure> {
        let connection = self.connections.of(&self.store.keys.allow_set);
        let mut both = redis::pipe();
        both.atomic().add_command(one.clone()).add_command(other.clone());
        let answers = connection.ask_each(&mut both).await?;
        match answers.first() {
            Some(Value::ServerError(error)) => Err(connection.refusal(error)),
            _ => Ok(answers),
        }
    }
}

/// The failure to write a note; one that an ACL denies has a remedy of its own.
pub(super) fn denied_note(key: &str, failure: RedisFailure) -> Failed {
    if failure.kind != Kind::Denied {
        return Failed::At(key.to_owned(), failure);
    }
    let RedisFailure { server, cause, .. } = failure;
    Failed::For(StoreError::NoNote { server, key: key.to_owned(), cause })
}
