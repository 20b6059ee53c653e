//! Later ends for entries of knocks, and the removal of notes and members that are over.
//!
//! Both read first and then change only what still is as it was read: a script compares and
//! writes in one step. An operator's entry, one without an end or one that another program wrote
//! meanwhile is none that was read, so it stays as it is.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::super::grant::{GrantNote, NoteUntil};
use super::super::member::Member;
use super::RedisStore;
use super::attempt::{Attempt, Done, Failed, count, milliseconds};
use super::connections::{SetType, end_of, score_of};
use super::error::{Kind, RedisFailure};
use super::members::score;
use super::notes::StoredNote;
use super::reply::{list, text};
use crate::net::clock::now;
use crate::unix_time::Expiry;

/// Sets a later end in the set and the notes, if member and note are as they were read.
/// KEYS: the set, the notes. ARGV: the member, its score, the text of its note, both anew.
pub(super) const RENEW: &str = "\
    if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '') ~= tonumber(ARGV[2]) \
        or redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[3] then return 0 end \
    redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1]) \
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[5]) \
    return 1";

/// Sets a later end of a key, if its value is as it was read. ARGV: the value, milliseconds.
const RENEW_KEY: &str = "\
    local left = redis.call('PTTL', KEYS[1]) \
    if left < 0 or left >= tonumber(ARGV[2]) or redis.call('GET', KEYS[1]) ~= ARGV[1] \
        then return 0 end \
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

/// Removes notes that are as they were read, and of a sorted set the members with the end of the
/// note. KEYS: the set, the notes. ARGV: for each the member, the text of the note, and the score
/// of the member, or nothing.
const PRUNE: &str = "\
    local pruned = 0 \
    for i = 1, #ARGV, 3 do \
        if redis.call('HGET', KEYS[2], ARGV[i]) == ARGV[i + 1] then \
            if ARGV[i + 2] ~= '' and tonumber(redis.call('ZSCORE', KEYS[1], ARGV[i]) or '') \
                == tonumber(ARGV[i + 2]) then redis.call('ZREM', KEYS[1], ARGV[i]) end \
            pruned = pruned + redis.call('HDEL', KEYS[2], ARGV[i]) \
        end \
    end \
    return pruned";

/// Reads of an entry that changes all the time, each with a step that another change may undo.
pub(super) const MOST_TRIES: usize = 5;

/// Notes that are looked at after each write; so many more than one that the ended ones are few.
const SAMPLE: usize = 100;
const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// A member of a sorted set as it was read.
pub(super) struct Read {
    pub(super) score: f64,
    pub(super) note: StoredNote,
}

impl RedisStore {
    fn is_prune_due(&self) -> bool {
        let mut pruned = self.pruned.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY);
        if is_due {
            *pruned = Some(Instant::now());
        }
        is_due
    }
}

impl Attempt<'_> {
    pub(super) async fn renew(
        &self,
        member: Member,
        lasting: Duration,
        who_prefix: &str,
    ) -> Result<Done, Failed> {
        let set = &self.store.keys.allow_set;
        let mut done = Done { key: set.clone(), changed: false, count: None };
        if self.set_type().await? == SetType::Sorted {
            let renewed = self.renew_in_set(member, lasting, who_prefix).await;
            done.changed = renewed.map_err(|failure| Failed::At(set.clone(), failure))?;
            self.announce(member, done.changed).await;
        }
        if let Some(key) = self.store.keys.own_key(member) {
            let renewed = self.renew_key(&key, lasting, who_prefix).await;
            if renewed.map_err(|failure| Failed::At(key.clone(), failure))? {
                done = Done { key, changed: true, count: None };
            }
        }
        Ok(done)
    }

    async fn renew_in_set(
        &self,
        member: Member,
        lasting: Duration,
        who_prefix: &str,
    ) -> Result<bool, RedisFailure> {
        let keys = &self.store.keys;
        let notes = self.connections.notes_key(keys);
        self.check_slot(&notes)?;
        for _ in 0..MOST_TRIES {
            let Some(Read { score: old, note }) = self.read(member).await? else {
                return Ok(false);
            };
            let (now, present) = (now(), end_of(old));
            let end = Expiry::At(now.saturating_add(Duration::from_millis(milliseconds(lasting))));
            let is_of = note.is_of(present) && note.until.note.who.starts_with(who_prefix);
            if !is_of || present.is_past(now) || present >= end {
                return Ok(false);
            }
            let until = NoteUntil { note: note.until.note, end };
            let mut renew = redis::cmd("EVAL");
            renew.arg(RENEW).arg(2).arg(&keys.allow_set).arg(&notes);
            renew.arg(member.to_string()).arg(old.to_string()).arg(note.text);
            renew.arg(score(end)).arg(until.json());
            let renewed = self.connections.of(&keys.allow_set).ask(&renew).await?;
            if count(&renewed) == Some(1) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Checks that one script may change both the set and the notes.
    pub(super) fn check_slot(&self, notes: &str) -> Result<(), RedisFailure> {
        if self.connections.map.joins(notes, &self.store.keys.allow_set) {
            return Ok(());
        }
        let cause = "the notes of this set have another slot of the Cluster, so that no entry can be changed by its note; name a set without braces";
        Err(self.connections.of(notes).other_failure(cause))
    }

    /// Reads a member of a sorted set that has a note.
    pub(super) async fn read(&self, member: Member) -> Result<Option<Read>, RedisFailure> {
        let keys = &self.store.keys;
        let mut get = redis::cmd("ZMSCORE");
        get.arg(&keys.allow_set).arg(member.to_string());
        let scores = self.connections.of(&keys.allow_set).ask(&get).await?;
        let score = list(scores).unwrap_or_default().first().and_then(score_of);
        let Some(score) = score else { return Ok(None) };
        let notes = self.connections.notes_of(keys, &[member]).await?;
        Ok(notes.into_iter().flatten().next().map(|note| Read { score, note }))
    }

    async fn renew_key(
        &self,
        key: &str,
        lasting: Duration,
        who_prefix: &str,
    ) -> Result<bool, RedisFailure> {
        let values = self.connections.values_of(&[key.to_owned()]).await?;
        let value = values.into_iter().flatten().next().unwrap_or_default();
        if !GrantNote::parse(&value).is_some_and(|note| note.who.starts_with(who_prefix)) {
            return Ok(false);
        }
        let mut renew = redis::cmd("EVAL");
        renew.arg(RENEW_KEY).arg(1).arg(key).arg(value).arg(milliseconds(lasting));
        match self.connections.of(key).ask(&renew).await {
            Ok(renewed) => Ok(count(&renewed) == Some(1)),
            // It is another program's by now.
            Err(failure) if failure.kind == Kind::WrongType => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Removes notes without an entry, and entries of the set that ended with their note: some,
    /// once in [`PRUNE_EVERY`]. That a server refuses it costs it memory only.
    pub(super) async fn prune(&self, set_type: SetType) {
        if self.store.is_prune_due() {
            let _ = self.prune_some(set_type).await;
        }
    }

    async fn prune_some(&self, set_type: SetType) -> Result<(), RedisFailure> {
        let keys = &self.store.keys;
        let notes = self.connections.notes_key(keys);
        let connection = self.connections.of(&notes);
        let mut sample = redis::cmd("HRANDFIELD");
        sample.arg(&notes).arg(SAMPLE);
        let fields = list(connection.ask(&sample).await?).unwrap_or_default();
        let members = fields.iter().filter_map(text).filter_map(|field| field.parse().ok());
        let members: Vec<Member> = members.collect();
        let names: Vec<String> = members.iter().map(Member::to_string).collect();
        let stored = self.connections.notes_of(keys, &members).await?;
        let ends = self.connections.lookup(keys, set_type, &names).await?;
        let mut prune = redis::cmd("EVAL");
        prune.arg(PRUNE).arg(2).arg(&keys.allow_set).arg(&notes);
        let mut is_needed = false;
        for ((name, note), end) in names.iter().zip(stored).zip(ends) {
            let Some(note) = note.filter(|note| !end.is_some_and(|end| note.is_of(end))) else {
                continue;
            };
            is_needed = true;
            let ended = note.until.end.moment().filter(|_| set_type == SetType::Sorted);
            let score = ended.map(|end| score(Expiry::At(end))).unwrap_or_default();
            prune.arg(name).arg(note.text).arg(score);
        }
        if is_needed {
            connection.ask(&prune).await?;
        }
        Ok(())
    }
}
