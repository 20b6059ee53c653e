//! Changes of entries by their owners: grants, renewals, and what is taken back.
//!
//! An entry is read with its notes, `owners` decides, and a script writes only if both still are as
//! they were read; else all of it is done again. So several processes agree, and the entry of an
//! operator, or of another program, stays as it is, also one that is written in between.

use std::time::Duration;

use redis::{Cmd, Value};

use super::super::grant::GrantNote;
use super::super::member::Member;
use super::super::owners::{Change, Granting, Held, Notes, Terms};
use super::attempt::{Attempt, LONGEST_MS, count};
use super::connections::{end_of, score_of};
use super::error::{Kind, RedisFailure};
use super::keys::spellings;
use super::members::score;
use super::notes::held_until;
use super::reply::{list, number};
use crate::net::clock::now;
use crate::unix_time::{Expiry, UnixMillis};

/// A function of the scripts: the text of notes; nothing for what is too long or of another type,
/// or what this user may not read.
macro_rules! notes {
    () => {
        "local function notes(text) \
             if type(text) == 'string' and #text <= 12288 then return text end \
             return '' \
         end "
    };
}

/// Reads a member of a sorted set. KEYS: the set, and the notes if a script may read both. ARGV: the
/// member and its other spellings. Returns the notes and the scores.
const READ: &str = concat!(
    notes!(),
    "local found = {''} \
    if KEYS[2] then found[1] = notes(redis.pcall('HGET', KEYS[2], ARGV[1])) end \
    for i = 1, #ARGV do found[i + 1] = redis.call('ZSCORE', KEYS[1], ARGV[i]) end \
    return found"
);

/// Writes a member of a sorted set, or removes it. KEYS: as above. ARGV: the member, its score and
/// its notes as they were read, and both anew; a member without a score is none.
const WRITE: &str = concat!(
    notes!(),
    "local old = redis.call('ZSCORE', KEYS[1], ARGV[1]) or '' \
    if (old == '') ~= (ARGV[2] == '') or tonumber(old) ~= tonumber(ARGV[2]) then return 0 end \
    if KEYS[2] then \
        if notes(redis.pcall('HGET', KEYS[2], ARGV[1])) ~= ARGV[3] then return 0 end \
        if ARGV[5] == '' then redis.call('HDEL', KEYS[2], ARGV[1]) \
            else redis.call('HSET', KEYS[2], ARGV[1], ARGV[5]) end \
    end \
    if ARGV[4] == '' then redis.call('ZREM', KEYS[1], ARGV[1]) \
        else redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1]) end \
    return 1"
);

/// Reads a key that lets an address in: its notes, and the milliseconds that are left.
const READ_KEY: &str =
    concat!(notes!(), "return {notes(redis.pcall('GET', KEYS[1])), redis.call('PTTL', KEYS[1])}");

/// Writes such a key, or removes it. ARGV: its notes and the milliseconds as they were read, and both
/// anew. Time passes, so fewer milliseconds may be left.
const WRITE_KEY: &str = concat!(
    notes!(),
    "local left, old = redis.call('PTTL', KEYS[1]), tonumber(ARGV[2]) \
    if notes(redis.pcall('GET', KEYS[1])) ~= ARGV[1] or left > old \
        or (left < 0 or old < 0) and left ~= old then return 0 end \
    if ARGV[4] == '' then redis.call('DEL', KEYS[1]) \
        else redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4]) end \
    return 1"
);

/// Reads of an entry that others change at the same time: of those one succeeds each time.
const MOST_TRIES: usize = 64;

/// The value of a key of which nobody is known to have granted it.
const NO_NOTES: &str = "1";

/// A change of an entry, by what is beside it.
#[derive(Clone, Copy)]
pub(super) enum Owned<'a> {
    /// A grant, by its note, for a time.
    Grant { note: &'a GrantNote, lasting: Duration, terms: Terms },
    /// A later end of what a `who` that begins so granted.
    Renew { who_prefix: &'a str, lasting: Duration },
    /// The end of what `who` granted, until this moment if one is given.
    TakeBack { who: &'a str, until: Option<UnixMillis> },
}

/// A member of a sorted set as it was read.
struct InSet {
    notes: Vec<u8>,
    score: Option<f64>,
    /// The latest end that it has in another spelling.
    elsewhere: Option<Expiry>,
}

/// A key as it was read: its notes, and the milliseconds that are left.
struct Key {
    notes: Vec<u8>,
    left: i64,
}

// === impl Owned ===

impl Owned<'_> {
    /// Decides about the present entry. `elsewhere` is the end of one that another program wrote
    /// for the same member: nobody's grant needs to be beside one that lasts longer.
    fn decide(&self, present: Option<&Held>, elsewhere: Option<Expiry>, now: UnixMillis) -> Change {
        let end =
            |lasting: Duration| now.saturating_add(lasting.min(Duration::from_millis(LONGEST_MS)));
        match *self {
            Self::Grant { note, lasting, terms } => {
                let end = end(lasting);
                let is_by = present.is_some_and(|present| present.is_by(&note.who));
                if !is_by && elsewhere >= Some(Expiry::At(end)) {
                    return Change::Keep;
                }
                Held::granted(present, &Granting { note, end, terms }, now)
            }
            Self::Renew { who_prefix, lasting } => present
                .map_or(Change::Keep, |present| present.renewed(who_prefix, end(lasting), now)),
            Self::TakeBack { who, until } => {
                present.map_or(Change::Keep, |present| present.taken_back(who, until, now))
            }
        }
    }

    /// Returns true if it needs the notes, which a plain grant can do without.
    fn needs_notes(&self) -> bool {
        !matches!(self, Self::Grant { terms: Terms::Later, .. })
    }
}

impl Attempt<'_> {
    /// Makes a change of a member of a sorted set, or of a set that is not there yet. Returns false
    /// if it stays as it is.
    pub(super) async fn change_in_set(
        &self,
        member: Member,
        change: Owned<'_>,
    ) -> Result<bool, RedisFailure> {
        let keys = &self.store.keys;
        let notes = self.connections.notes_key(keys);
        let is_one_slot = self.connections.map.joins(&notes, &keys.allow_set);
        if change.needs_notes() && !is_one_slot {
            return Err(self.other_slot(&notes));
        }
        for _ in 0..MOST_TRIES {
            let read = self.read(member, &notes).await?;
            let now = now();
            let present = read.held(now);
            // Without the notes nobody is known to have granted it.
            let unknown = present.as_ref().map(|held| held.end).filter(|_| !is_one_slot);
            let elsewhere = read.elsewhere.max(unknown);
            let decided = change.decide(present.as_ref(), elsewhere, now);
            let next = match decided {
                Change::Keep => return Ok(false),
                Change::Write(held) => Some(held),
                Change::Remove => None,
            };
            let mut write = self.eval_beside(WRITE, &notes);
            write.arg(member.to_string());
            write.arg(read.score.map(|score| score.to_string()).unwrap_or_default());
            write.arg(read.notes);
            write.arg(next.as_ref().map(|held| score(held.end)).unwrap_or_default());
            let text = next.and_then(|held| held.json()).unwrap_or_default();
            write.arg(&text);
            let written = self.connections.of(&keys.allow_set).ask(&write).await?;
            if count(&written) == Some(1) {
                self.note_elsewhere(member, &notes, &text).await?;
                return Ok(true);
            }
        }
        Err(self.too_busy(&keys.allow_set))
    }

    /// Makes a change of a key that lets an address in. Returns false if it stays as it is.
    pub(super) async fn change_key(
        &self,
        key: &str,
        change: Owned<'_>,
    ) -> Result<bool, RedisFailure> {
        let connection = self.connections.of(key);
        for _ in 0..MOST_TRIES {
            let read = Key::read(connection.ask(&eval(READ_KEY, &[key])).await?);
            let read = read.ok_or_else(|| connection.other_failure("answers no end of a key"))?;
            let now = now();
            let next = match change.decide(read.held(now).as_ref(), None, now) {
                Change::Keep => return Ok(false),
                Change::Write(held) => Some(held),
                Change::Remove => None,
            };
            let mut write = eval(WRITE_KEY, &[key]);
            write.arg(read.notes).arg(read.left);
            match next {
                Some(Held { end, notes }) => {
                    let left = end.left(now).map_or(LONGEST_MS, |left| {
                        u64::try_from(left.as_millis()).unwrap_or(LONGEST_MS)
                    });
                    let value = notes.map_or_else(|| NO_NOTES.to_owned(), |notes| notes.json());
                    write.arg(value).arg(left.max(1));
                }
                None => drop(write.arg("").arg("")),
            }
            if count(&connection.ask(&write).await?) == Some(1) {
                return Ok(true);
            }
        }
        Err(self.too_busy(key))
    }

    async fn read(&self, member: Member, notes: &str) -> Result<InSet, RedisFailure> {
        let mut read = self.eval_beside(READ, notes);
        read.arg(spellings(member));
        let connection = self.connections.of(&self.store.keys.allow_set);
        let found = list(connection.ask(&read).await?).unwrap_or_default();
        let mut scores = found.iter().skip(1).map(score_of);
        let score = scores.next().flatten();
        let elsewhere = scores.flatten().map(end_of).max();
        Ok(InSet { notes: found.first().map(bytes).unwrap_or_default(), score, elsewhere })
    }

    /// A script about the set, and its notes where one script may be about both.
    fn eval_beside(&self, script: &str, notes: &str) -> Cmd {
        let set = self.store.keys.allow_set.as_str();
        if self.connections.map.joins(notes, set) {
            eval(script, &[set, notes])
        } else {
            eval(script, &[set])
        }
    }

    /// Writes the notes of a grant where no script may be about them and the set.
    async fn note_elsewhere(
        &self,
        member: Member,
        notes: &str,
        text: &str,
    ) -> Result<(), RedisFailure> {
        if self.connections.map.joins(notes, &self.store.keys.allow_set) {
            return Ok(());
        }
        // They are of this end only, so that those of another entry cannot be taken for them.
        let mut noting = redis::cmd("HSET");
        noting.arg(notes).arg(member.to_string()).arg(text);
        self.connections.of(notes).ask(&noting).await.map(drop)
    }

    /// The failure where no script may change both the set and the notes.
    fn other_slot(&self, notes: &str) -> RedisFailure {
        let cause = "the notes of this set have another slot of the Cluster, so that no entry can be changed by its note; name a set without braces";
        self.connections.of(notes).other_failure(cause)
    }

    fn too_busy(&self, key: &str) -> RedisFailure {
        let cause = "the entry changes all the time, so that no change of ours is done";
        RedisFailure::new(Kind::Elsewhere, self.connections.node_of(key), cause)
    }
}

// === impl InSet ===

impl InSet {
    /// The entry, if it is not over.
    fn held(&self, now: UnixMillis) -> Option<Held> {
        let end = end_of(self.score?);
        let held = held_until(end, &self.notes);
        (!end.is_past(now)).then_some(held)
    }
}

// === impl Key ===

impl Key {
    fn read(answer: Value) -> Option<Self> {
        let found = list(answer)?;
        let [notes, left] = &found[..] else { return None };
        Some(Self { notes: bytes(notes), left: number(left)? })
    }

    /// The entry, if there is one.
    fn held(&self, now: UnixMillis) -> Option<Held> {
        let end = match u64::try_from(self.left) {
            Ok(left) => Expiry::At(now.saturating_add(Duration::from_millis(left))),
            Err(_) if self.left == -1 => Expiry::Never,
            Err(_) => return None,
        };
        let notes = std::str::from_utf8(&self.notes).ok().and_then(Notes::parse);
        Some(Held { end, notes: notes.map(Box::new) })
    }
}

fn eval(script: &str, keys: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(keys.len()).arg(keys);
    command
}

/// The bytes of an answer, as a script compares them.
fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes.clone(),
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::grant::LONGEST_NOTE;
    use super::*;

    #[test]
    fn scripts_have_the_bound_of_notes() {
        for script in [READ, WRITE, READ_KEY, WRITE_KEY] {
            assert!(script.contains(&format!("#text <= {LONGEST_NOTE} ")), "{script}");
        }
    }
}
