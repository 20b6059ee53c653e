//! Grants of knocks, which make no entry shorter.
//!
//! The script that writes an entry decides whether the present one lasts longer: the entry may
//! have been changed by an operator since it was read, and a gate's memory may be behind.

use std::time::Duration;

use super::super::grant::{GrantNote, NoteUntil};
use super::super::member::Member;
use super::super::store::StoreError;
use super::attempt::{Attempt, Done, Failed, count, milliseconds};
use super::connections::SetType;
use super::keys::spellings;
use super::members::{denied_note, score};
use crate::net::clock::now;
use crate::unix_time::Expiry;

/// A function of the scripts: [`GrantNote::labelled_as`] for texts. What is no note, because another
/// program wrote it or this user may not read it, has no label.
macro_rules! labelled {
    () => {
        "local function labelled(text, old, is_of) \
             if type(old) ~= 'string' or #old > 896 then return text end \
             local new = cjson.decode(text) \
             local is_json, note = pcall(cjson.decode, old) \
             if new.label or not is_json or type(note) ~= 'table' or note.who ~= new.who \
                 or type(note.label) ~= 'string' or #note.label > 64 or not is_of(note) \
                 then return text end \
             return '{\"label\":' .. cjson.encode(note.label) .. ',' .. string.sub(text, 2) \
         end "
    };
}

/// Adds a member of a sorted set, or makes its end later. KEYS: the set, and the notes if a script
/// may change both. ARGV: the end, the text of the note, the time, the member, and its other
/// spellings.
const GRANT: &str = concat!(
    labelled!(),
    "for i = 4, #ARGV do \
        local present = redis.call('ZSCORE', KEYS[1], ARGV[i]) \
        if present and (present == 'inf' or tonumber(present) >= tonumber(ARGV[1])) \
            then return 0 end \
    end \
    if KEYS[2] then \
        local present = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[4]) or '') or 0 \
        local is_of = function(note) \
            return present > tonumber(ARGV[3]) and type(note.end_ms) == 'number' \
                and math.abs(note.end_ms - present * 1000) <= 10 \
        end \
        local old = redis.pcall('HGET', KEYS[2], ARGV[4]) \
        redis.call('HSET', KEYS[2], ARGV[4], labelled(ARGV[2], old, is_of)) \
    end \
    redis.call('ZADD', KEYS[1], ARGV[1], ARGV[4]) \
    return 1"
);

/// Sets a key that ends, unless it lasts longer. ARGV: the value, milliseconds.
const GRANT_KEY: &str = concat!(
    labelled!(),
    "local left = redis.call('PTTL', KEYS[1]) \
    if left == -1 or left >= tonumber(ARGV[2]) then return 0 end \
    local old = redis.pcall('GET', KEYS[1]) \
    local text = labelled(ARGV[1], old, function() return true end) \
    redis.call('SET', KEYS[1], text, 'PX', ARGV[2]) \
    return 1"
);

impl Attempt<'_> {
    pub(super) async fn grant(
        &self,
        member: Member,
        lasting: Duration,
        note: &GrantNote,
    ) -> Result<Done, Failed> {
        let (keys, set) = (&self.store.keys, &self.store.keys.allow_set);
        let set_type = self.set_type().await?;
        if set_type == SetType::Set && self.is_endless(member).await? {
            return Ok(Done { key: set.clone(), changed: false, count: None });
        }
        let own_key = keys.own_key(member);
        match (set_type, own_key) {
            (SetType::Absent | SetType::Set, Some(key)) => self.grant_key(key, lasting, note).await,
            (SetType::Set, None) => {
                let server = self.connections.node_of(set).to_string();
                Err(Failed::For(StoreError::NoGrant { server, key: set.clone() }))
            }
            (SetType::Absent | SetType::Sorted, _) => {
                let changed = self.grant_in_set(member, lasting, note).await?;
                if changed {
                    self.prune(SetType::Sorted).await;
                }
                self.announce(member, changed).await;
                Ok(Done { key: set.clone(), changed, count: None })
            }
        }
    }

    /// Returns true if a plain set has the member, which never ends there.
    async fn is_endless(&self, member: Member) -> Result<bool, Failed> {
        let keys = &self.store.keys;
        let found = self.connections.lookup(keys, SetType::Set, &spellings(member)).await;
        let found = found.map_err(|failure| Failed::At(keys.allow_set.clone(), failure))?;
        Ok(found.iter().any(Option::is_some))
    }

    async fn grant_in_set(
        &self,
        member: Member,
        lasting: Duration,
        note: &GrantNote,
    ) -> Result<bool, Failed> {
        let Self { connections, store } = self;
        let set = &store.keys.allow_set;
        let notes = self.notes_to_write().await?;
        let is_one_slot = connections.map.joins(&notes, set);
        let now = now();
        let end = Expiry::At(now.saturating_add(Duration::from_millis(milliseconds(lasting))));
        let text = NoteUntil { note: note.clone(), end }.json();
        let name = member.to_string();
        let mut grant = redis::cmd("EVAL");
        grant.arg(GRANT).arg(1 + usize::from(is_one_slot)).arg(set);
        if is_one_slot {
            grant.arg(&notes);
        }
        grant.arg(score(end)).arg(&text).arg(score(Expiry::At(now))).arg(&name);
        grant.arg(spellings(member).into_iter().filter(|other| *other != name).collect::<Vec<_>>());
        let granted = connections.of(set).ask(&grant).await;
        let granted = granted.map_err(|failure| denied_note(set, failure))?;
        let changed = count(&granted) == Some(1);
        if changed && !is_one_slot {
            // It is the note of this end only, so that one of another entry cannot be taken for it.
            let mut noting = redis::cmd("HSET");
            noting.arg(&notes).arg(&name).arg(&text);
            let noted = connections.of(&notes).ask(&noting).await;
            noted.map_err(|failure| denied_note(&notes, failure))?;
        }
        Ok(changed)
    }

    async fn grant_key(
        &self,
        key: String,
        lasting: Duration,
        note: &GrantNote,
    ) -> Result<Done, Failed> {
        let mut grant = redis::cmd("EVAL");
        grant.arg(GRANT_KEY).arg(1).arg(&key).arg(note.json()).arg(milliseconds(lasting));
        match self.connections.of(&key).ask(&grant).await {
            Ok(granted) => Ok(Done { changed: count(&granted) == Some(1), key, count: None }),
            Err(failure) => Err(Failed::At(key, failure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::grant::{LONGEST_NOTE, MOST_LABEL};
    use super::*;

    #[test]
    fn scripts_have_the_bounds_of_notes() {
        for script in [GRANT, GRANT_KEY] {
            assert!(script.contains(&format!("#old > {LONGEST_NOTE} ")), "{script}");
            assert!(script.contains(&format!("#note.label > {MOST_LABEL} ")), "{script}");
        }
    }
}
