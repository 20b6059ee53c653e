//! Notes of entries as they stand in Redis: those of the set's members in a hash beside it, those
//! of allow keys as the value of the key.
//!
//! Other programs may write anything there, so the length of a text is asked before the text,
//! and a value that is no note is none. Other programs also write members without a note: a note
//! counts only for the end that it was written for.

use std::collections::HashMap;

use redis::Value;

use super::super::grant::{GrantNote, LONGEST_NOTE};
use super::super::member::Member;
use super::super::owners::{Held, Notes};
use super::connections::{Connections, SetType};
use super::error::{Kind, RedisFailure};
use super::keys::Keys;
use super::reply::{list, number, text};
use crate::unix_time::Expiry;

/// Commands that are sent at once.
const PIPELINE: usize = 200;

/// The difference of two ends that are one: a score is a number with a fraction.
const ROUNDING_MS: u64 = 10;

/// The difference of two readings of the end of the set, which servers tell as remaining time.
const SET_ROUNDING_MS: u64 = 5_000;

/// Notes in the hash, and their text there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredNote {
    pub(super) text: String,
    /// They, with the end of the entry that they were written for.
    pub(super) held: Held,
}

impl StoredNote {
    /// Returns true if they are those of an entry with this end.
    pub(super) fn is_of(&self, end: Expiry) -> bool {
        is_within(self.held.end, end, ROUNDING_MS)
    }

    /// The notes, if they are those of an entry with this end.
    pub(super) fn of(self, end: Expiry) -> Option<Notes> {
        let notes = self.is_of(end).then_some(self.held.notes)?;
        notes.map(|notes| *notes)
    }

    /// The notes, if they are those of an entry with this end, or of one that ends with the set.
    pub(super) fn of_entry(self, end: Expiry, set_end: Expiry) -> Option<Notes> {
        let ends_with_set = is_within(end, set_end, SET_ROUNDING_MS) && self.held.end > end;
        if ends_with_set { self.held.notes.map(|notes| *notes) } else { self.of(end) }
    }
}

/// The entry with this end, with its notes by the text beside it, if that is of this entry.
pub(super) fn held_until(end: Expiry, text: &[u8]) -> Held {
    let held = std::str::from_utf8(text).ok().and_then(Held::parse);
    let held = held.filter(|held| is_within(held.end, end, ROUNDING_MS));
    Held { end, notes: held.and_then(|held| held.notes) }
}

impl Connections {
    /// The key of the notes of members, where it can be in a transaction with the set.
    pub(super) fn notes_key(&self, keys: &Keys) -> String {
        let [plain, tagged] = keys.notes_keys();
        if self.map.joins(&plain, &keys.allow_set) { plain } else { tagged }
    }

    /// The notes of members, each with the end that it was written for.
    pub(super) async fn notes_of(
        &self,
        keys: &Keys,
        members: &[Member],
    ) -> Result<Vec<Option<StoredNote>>, RedisFailure> {
        let key = self.notes_key(keys);
        let mut notes = Vec::with_capacity(members.len());
        for members in members.chunks(PIPELINE) {
            notes.extend(self.some_notes(&key, members).await?);
        }
        Ok(notes)
    }

    async fn some_notes(
        &self,
        key: &str,
        members: &[Member],
    ) -> Result<Vec<Option<StoredNote>>, RedisFailure> {
        let connection = self.of(key);
        let mut lengths = redis::pipe();
        for member in members {
            lengths.cmd("HSTRLEN").arg(key).arg(member.to_string());
        }
        let lengths = connection.ask_all(&lengths).await?;
        let is_note = |length: &Value| {
            let length = number(length).and_then(|length| usize::try_from(length).ok());
            length.is_some_and(|length| (1..=LONGEST_NOTE).contains(&length))
        };
        let places: Vec<usize> =
            lengths.iter().enumerate().filter(|(_, it)| is_note(it)).map(|(it, _)| it).collect();
        let mut notes = vec![None; members.len()];
        if places.is_empty() {
            return Ok(notes);
        }
        let mut get = redis::cmd("HMGET");
        get.arg(key);
        for place in &places {
            get.arg(members[*place].to_string());
        }
        let texts = list(connection.ask(&get).await?).unwrap_or_default();
        for (place, value) in places.into_iter().zip(&texts) {
            notes[place] = text(value).and_then(|text| {
                let held = Held::parse(&text)?;
                Some(StoredNote { text, held })
            });
        }
        Ok(notes)
    }

    /// The texts of the values of allow keys; of a value of another type none.
    pub(super) async fn values_of(
        &self,
        names: &[String],
    ) -> Result<Vec<Option<String>>, RedisFailure> {
        let mut values = vec![None; names.len()];
        let mut places: Vec<Vec<usize>> = vec![vec![]; self.all.len()];
        for (place, name) in names.iter().enumerate() {
            places[self.map.index(name)].push(place);
        }
        for (connection, places) in self.all.iter().zip(places) {
            for places in places.chunks(PIPELINE) {
                let mut asked = redis::pipe();
                for place in places {
                    // One byte more than a note has shows that it is none.
                    asked.cmd("GETRANGE").arg(&names[*place]).arg(0).arg(LONGEST_NOTE);
                }
                let answers = connection.ask_each(&mut asked).await?;
                places.iter().zip(&answers).for_each(|(place, it)| values[*place] = text(it));
            }
        }
        Ok(values)
    }

    /// Those of these members that are in the set for ever, with their notes.
    pub(super) async fn endless(
        &self,
        keys: &Keys,
        set_type: SetType,
        members: &[Member],
    ) -> Result<HashMap<Member, Option<GrantNote>>, RedisFailure> {
        if set_type == SetType::Absent || members.is_empty() {
            return Ok(HashMap::new());
        }
        let names: Vec<String> = members.iter().map(Member::to_string).collect();
        let ends = self.lookup(keys, set_type, &names).await?;
        let endless = members.iter().zip(ends).filter(|(_, end)| *end == Some(Expiry::Never));
        let endless: Vec<Member> = endless.map(|(member, _)| *member).collect();
        let notes = match self.notes_of(keys, &endless).await {
            // A user that may not read notes, or finds none there, still may let addresses in.
            Err(failure) if matches!(failure.kind, Kind::Denied | Kind::WrongType) => {
                vec![None; endless.len()]
            }
            notes => notes?,
        };
        let notes = notes.into_iter().map(|note| Some(note?.of(Expiry::Never)?.note));
        Ok(endless.into_iter().zip(notes).collect())
    }

    /// Checks that notes can be written beside the set: a command that fails in a transaction
    /// would leave the others done.
    pub(super) async fn check_notes(&self, keys: &Keys) -> Result<(), RedisFailure> {
        let key = self.notes_key(keys);
        let answer = self.of(&key).ask(redis::cmd("TYPE").arg(&key)).await?;
        match text(&answer).as_deref() {
            Some("none" | "hash") => Ok(()),
            other => {
                let other: String = other.unwrap_or("something unknown").chars().take(30).collect();
                let cause = format!("key \"{key}\" is a {other} and no hash of notes");
                Err(RedisFailure::new(Kind::WrongType, self.of(&key).node(), cause))
            }
        }
    }
}

/// Returns true if two ends are as good as one.
fn is_within(one: Expiry, other: Expiry, rounding_ms: u64) -> bool {
    match (one, other) {
        (Expiry::At(one), Expiry::At(other)) => one.0.abs_diff(other.0) <= rounding_ms,
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unix_time::UnixMillis;

    #[test]
    fn a_note_is_of_the_end_that_it_was_written_for() {
        let at = |ms| Expiry::At(UnixMillis(ms));
        for (written, present, is_of) in [
            (at(1_790_000_000_123), at(1_790_000_000_122), true),
            (at(1_790_000_000_123), at(1_790_000_001_123), false),
            (at(1_790_000_000_123), Expiry::Never, false),
            (Expiry::Never, at(1_790_000_000_123), false),
            (Expiry::Never, Expiry::Never, true),
        ] {
            let note = GrantNote::new("key:1a2b3c4d", None, UnixMillis(0));
            let held = Held::new(written, Some(note));
            let note = StoredNote { text: held.json().unwrap(), held };
            assert_eq!(note.of(present).is_some(), is_of, "{written:?} {present:?}");
        }
    }

    #[test]
    fn an_entry_that_ends_with_its_set_keeps_its_note() {
        let at = |ms| Expiry::At(UnixMillis(ms));
        for (written, present, set_end, is_of) in [
            (at(9_000_000), at(1_000_000), at(1_000_200), true),
            (Expiry::Never, at(1_000_000), at(1_000_200), true),
            (at(9_000_000), at(1_000_000), at(2_000_000), false),
            (at(500_000), at(1_000_000), at(1_000_000), false),
            (at(9_000_000), Expiry::Never, Expiry::Never, false),
            (Expiry::Never, Expiry::Never, Expiry::Never, true),
        ] {
            let note = GrantNote::new("key:1a2b3c4d", None, UnixMillis(0));
            let held = Held::new(written, Some(note));
            let note = StoredNote { text: held.json().unwrap(), held };
            let found = note.of_entry(present, set_end).is_some();
            assert_eq!(found, is_of, "{written:?} {present:?} {set_end:?}");
        }
    }
}
