//! The removal of notes and members that are over.
//!
//! They are read first, and a script removes only what still is as it was read. An operator's entry,
//! or one that another program wrote meanwhile, is none that was read, so it stays as it is.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::super::member::Member;
use super::RedisStore;
use super::attempt::Attempt;
use super::connections::SetType;
use super::error::RedisFailure;
use super::members::score;
use super::reply::{list, text};
use crate::unix_time::Expiry;

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

/// Notes that are looked at after each write; so many more than one that the ended ones are few.
const SAMPLE: usize = 100;
const PRUNE_EVERY: Duration = Duration::from_secs(1);

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
            let ended = note.held.end.moment().filter(|_| set_type == SetType::Sorted);
            let score = ended.map(|end| score(Expiry::At(end))).unwrap_or_default();
            prune.arg(name).arg(note.text).arg(score);
        }
        if is_needed {
            connection.ask(&prune).await?;
        }
        Ok(())
    }
}
