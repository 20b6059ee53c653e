//! Changes of entries by their note: of those that one who knocks has made, and no others.
//!
//! The entry is read first, and a script changes it only if it still is as it was read. So the
//! entry of an operator, or of another program, stays as it is, also one written in between.

use std::time::Duration;

use redis::Cmd;

use super::super::grant::{GrantNote, NoteUntil};
use super::super::member::Member;
use super::attempt::{Attempt, Done, Failed, count, milliseconds};
use super::connections::{SetType, end_of};
use super::error::{Kind, RedisFailure};
use super::members::score;
use super::renew::{MOST_TRIES, RENEW, Read};
use crate::net::clock::now;
use crate::unix_time::Expiry;

/// Removes a member and its note, if both are as they were read. KEYS: the set, the notes. ARGV: the
/// member, its score, the text of its note.
const TAKE_BACK: &str = "\
    if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '') ~= tonumber(ARGV[2]) \
        or redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[3] then return 0 end \
    redis.call('ZREM', KEYS[1], ARGV[1]) \
    redis.call('HDEL', KEYS[2], ARGV[1]) \
    return 1";

/// Sets value and end of a key, if its value is as it was read. ARGV: the value, both anew.
const REPLACE_KEY: &str = "\
    if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end \
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) \
    return 1";

/// Deletes a key, if its value is as it was read. ARGV: the value.
const DELETE_KEY: &str = "\
    if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end \
    return redis.call('DEL', KEYS[1])";

/// The new end and note of an entry.
#[derive(Clone, Copy)]
pub(super) struct Anew<'a> {
    pub(super) lasting: Duration,
    pub(super) note: &'a GrantNote,
}

/// A change of an entry with a note that is read.
#[derive(Clone, Copy)]
enum Change<'a> {
    /// By a `who` that begins so.
    Replace(&'a str, Anew<'a>),
    /// By this `who`.
    TakeBack(&'a str),
}

impl Change<'_> {
    fn is_about(&self, note: &GrantNote) -> bool {
        match self {
            Self::Replace(who_prefix, _) => note.who.starts_with(who_prefix),
            Self::TakeBack(who) => note.who == *who,
        }
    }
}

impl Attempt<'_> {
    pub(super) async fn replace(
        &self,
        member: Member,
        anew: Anew<'_>,
        who_prefix: &str,
    ) -> Result<Done, Failed> {
        self.change(member, Change::Replace(who_prefix, anew)).await
    }

    pub(super) async fn take_back(&self, member: Member, who: &str) -> Result<Done, Failed> {
        self.change(member, Change::TakeBack(who)).await
    }

    async fn change(&self, member: Member, change: Change<'_>) -> Result<Done, Failed> {
        let set = &self.store.keys.allow_set;
        let mut done = Done { key: set.clone(), changed: false, count: None };
        if self.set_type().await? == SetType::Sorted {
            let changed = self.change_in_set(member, change).await;
            done.changed = changed.map_err(|failure| Failed::At(set.clone(), failure))?;
            self.announce(member, done.changed).await;
        }
        if let Member::Address(ip) = member
            && let Some(key) = self.store.keys.allow_key(ip)
        {
            let changed = self.change_key(&key, change).await;
            if changed.map_err(|failure| Failed::At(key.clone(), failure))? {
                done = Done { key, changed: true, count: None };
            }
        }
        Ok(done)
    }

    async fn change_in_set(
        &self,
        member: Member,
        change: Change<'_>,
    ) -> Result<bool, RedisFailure> {
        let keys = &self.store.keys;
        let notes = self.connections.notes_key(keys);
        self.check_slot(&notes)?;
        for _ in 0..MOST_TRIES {
            let Some(Read { score: old, note }) = self.read(member).await? else {
                return Ok(false);
            };
            let present = end_of(old);
            let is_of = note.is_of(present) && change.is_about(&note.until.note);
            if !is_of || present.is_past(now()) {
                return Ok(false);
            }
            let mut script = match change {
                Change::Replace(..) => eval(RENEW, 2),
                Change::TakeBack(_) => eval(TAKE_BACK, 2),
            };
            script.arg(&keys.allow_set).arg(&notes);
            script.arg(member.to_string()).arg(old.to_string()).arg(note.text);
            if let Change::Replace(_, Anew { lasting, note }) = change {
                let time = Duration::from_millis(milliseconds(lasting));
                let end = Expiry::At(now().saturating_add(time));
                let until = NoteUntil { note: note.clone(), end };
                script.arg(score(end)).arg(until.json());
            }
            let changed = self.connections.of(&keys.allow_set).ask(&script).await?;
            if count(&changed) == Some(1) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn change_key(&self, key: &str, change: Change<'_>) -> Result<bool, RedisFailure> {
        let values = self.connections.values_of(&[key.to_owned()]).await?;
        let value = values.into_iter().flatten().next().unwrap_or_default();
        if !GrantNote::parse(&value).is_some_and(|note| change.is_about(&note)) {
            return Ok(false);
        }
        let script = match change {
            Change::Replace(_, Anew { lasting, note }) => {
                let mut script = eval(REPLACE_KEY, 1);
                script.arg(key).arg(value).arg(note.json()).arg(milliseconds(lasting));
                script
            }
            Change::TakeBack(_) => {
                let mut script = eval(DELETE_KEY, 1);
                script.arg(key).arg(value);
                script
            }
        };
        match self.connections.of(key).ask(&script).await {
            Ok(changed) => Ok(count(&changed) == Some(1)),
            // It is another program's by now.
            Err(failure) if failure.kind == Kind::WrongType => Ok(false),
            Err(failure) => Err(failure),
        }
    }
}

fn eval(script: &str, keys: usize) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(keys);
    command
}
