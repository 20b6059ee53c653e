//! The owners of an entry: all that granted it, each until an end of its own.
//!
//! Several may let in one address: tokens behind one NAT, a key and an operator. The entry lasts as
//! long as the grant of the one that ends last, and what one of them takes back or makes shorter
//! changes nothing of what the others granted. Every kind of store decides by these functions, so
//! that all agree. Pure: the present entry and a moment in, the next one out.

use crate::grant::{GrantNote, MOST_OWNERS, NoteUntil, TOKEN, Text};
use knockpipe_base::unix_time::{Expiry, UnixMillis};

/// The owner of an entry that another program wrote, without a note.
const UNKNOWN: &str = "unknown";

/// The notes of an entry: of the owner that ends last, and of the others, with their ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notes {
    /// The note of the owner that ends last, with the entry.
    pub note: GrantNote,
    /// Those of the others, the later end first.
    pub others: Vec<NoteUntil>,
}

/// An entry of the allow-set without its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its end.
    pub end: Expiry,
    /// The notes beside it; `None` for an entry of another program.
    pub notes: Option<Box<Notes>>,
}

/// What becomes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It stays as it is.
    Keep,
    /// It is written anew.
    Write(Held),
    /// It is taken out.
    Remove,
}

/// A grant that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Granting<'a> {
    /// Its note.
    pub note: &'a GrantNote,
    /// Its end.
    pub end: UnixMillis,
    /// What it does to the present grants.
    pub terms: Terms,
}

/// What a grant does to the present ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terms {
    /// It makes no end sooner.
    Later,
    /// It makes the end of what the same owner granted sooner, too.
    Anew,
    /// The same, and it takes the place of what other tokens granted.
    ForTokens,
}

// === impl Notes ===

impl Notes {
    /// Returns the notes of an entry with one owner.
    pub fn of(note: GrantNote) -> Self {
        Self { note, others: vec![] }
    }

    /// Reads notes; `None` for a text that is none.
    pub fn parse(text: &str) -> Option<Self> {
        Held::parse(text)?.notes.map(|notes| *notes)
    }

    /// The notes as one line of JSON, without the end of the entry.
    pub fn json(&self) -> String {
        self.text(None)
    }

    fn text(&self, end_ms: Option<u64>) -> String {
        let other = |other: &NoteUntil| Text::of(&other.note, other.end.as_millis());
        let others = self.others.iter().map(other).collect();
        let mut text = Text::of(&self.note, end_ms);
        text.others = others;
        text.json()
    }
}

// === impl Held ===

impl Held {
    /// Makes an entry with one owner, or with none that is known.
    pub fn new(end: Expiry, note: Option<GrantNote>) -> Self {
        Self { end, notes: note.map(Notes::of).map(Box::new) }
    }

    /// Reads notes with the end of the entry that they were written for; `None` for a text that is
    /// none. Where other programs write the entry without them, another end shows that they are of
    /// an entry before.
    pub fn parse(text: &str) -> Option<Self> {
        let text = Text::parse(text)?;
        let NoteUntil { note, end } = text.note()?;
        let ends = |other: &NoteUntil| other.end <= end && other.end != Expiry::Never;
        let other = |other: &Text| other.note().filter(ends);
        let others = text.others.iter().map(other).collect::<Option<Vec<_>>>()?;
        let notes = (others.len() < MOST_OWNERS).then_some(Notes { note, others })?;
        Some(Self { end, notes: Some(Box::new(notes)) })
    }

    /// The notes with the end as one line of JSON; `None` for an entry without.
    pub fn json(&self) -> Option<String> {
        self.notes.as_ref().map(|notes| notes.text(self.end.as_millis()))
    }

    /// The note of the owner that ends last.
    pub fn note(&self) -> Option<&GrantNote> {
        self.notes.as_ref().map(|notes| &notes.note)
    }

    /// The notes of the other owners.
    pub fn others(&self) -> &[NoteUntil] {
        self.notes.as_ref().map_or(&[], |notes| &notes.others)
    }

    /// Returns true if `who` granted it, alone or beside others.
    pub fn is_by(&self, who: &str) -> bool {
        let others = self.others().iter().map(|other| &other.note);
        self.note().into_iter().chain(others).any(|note| note.who == who)
    }

    /// Decides about a grant beside the `present` entry.
    pub fn granted(present: Option<&Self>, granting: &Granting<'_>, now: UnixMillis) -> Change {
        let Granting { note, end, terms } = *granting;
        let end = Expiry::At(end);
        if present.is_some_and(|present| present.end == Expiry::Never) {
            return Change::Keep;
        }
        let mut owners = present.map(|present| present.owners(now)).unwrap_or_default();
        let own = owners.iter().position(|owner| owner.note.who == note.who);
        let own = own.map(|own| owners.remove(own));
        if terms == Terms::Later && own.as_ref().is_some_and(|own| own.end >= end) {
            return Change::Keep;
        }
        if terms == Terms::ForTokens {
            owners.retain(|owner| !owner.note.who.starts_with(TOKEN));
        }
        let note = note.clone().labelled_as(own.as_ref().map(|own| &own.note));
        owners.insert(0, NoteUntil { note, end });
        Self::owned_by(owners)
    }

    /// Decides about a renewal by an owner with a name that begins so.
    pub fn renewed(&self, who_prefix: &str, end: UnixMillis, now: UnixMillis) -> Change {
        let end = Expiry::At(end);
        let mut owners = self.owners(now);
        let own = owners.iter_mut().find(|owner| owner.note.who.starts_with(who_prefix));
        match own.filter(|own| own.end < end && self.end != Expiry::Never) {
            Some(own) => own.end = end,
            None => return Change::Keep,
        }
        Self::owned_by(owners)
    }

    /// Decides about the end of what `who` granted, at `until` at the latest if that is given.
    pub fn taken_back(&self, who: &str, until: Option<UnixMillis>, now: UnixMillis) -> Change {
        let mut owners = self.owners(now);
        let is_meant =
            |note: &GrantNote| note.who == who && until.is_none_or(|until| note.at <= until);
        match owners.iter().position(|owner| is_meant(&owner.note)) {
            Some(own) => drop(owners.remove(own)),
            None => return Change::Keep,
        }
        Self::owned_by(owners)
    }

    /// All owners of which the grant is not over, that of the entry's own end first.
    fn owners(&self, now: UnixMillis) -> Vec<NoteUntil> {
        let unknown = || GrantNote::new(UNKNOWN, None, now);
        let note = self.note().cloned().unwrap_or_else(unknown);
        let first = NoteUntil { note, end: self.end };
        let others = self.others().iter().filter(|other| !other.end.is_past(now));
        std::iter::once(first).chain(others.cloned()).collect()
    }

    /// The entry of these owners.
    fn owned_by(mut owners: Vec<NoteUntil>) -> Change {
        // Stable, so that of equal ends the newest is shown.
        owners.sort_by_key(|owner| std::cmp::Reverse(owner.end));
        owners.truncate(MOST_OWNERS);
        let mut owners = owners.into_iter();
        let Some(NoteUntil { note, end }) = owners.next() else { return Change::Remove };
        let others: Vec<NoteUntil> = owners.collect();
        let is_unknown = note.who == UNKNOWN && others.is_empty();
        let notes = (!is_unknown).then(|| Box::new(Notes { note, others }));
        Change::Write(Self { end, notes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

    const fn at(seconds: u64) -> UnixMillis {
        UnixMillis(NOW.0 + seconds * 1_000)
    }

    fn note(who: &str, label: Option<&str>) -> GrantNote {
        GrantNote::new(who, label, NOW)
    }

    /// An entry as text: its end in seconds, and its owners, the others with their ends.
    fn shown(held: Option<&Held>) -> String {
        let Some(held) = held else { return "none".to_owned() };
        let seconds = |end: Expiry| match end {
            Expiry::At(end) => format!("{}", end.saturating_since(NOW).as_secs()),
            Expiry::Never => "-".to_owned(),
        };
        let own = held.note().map_or("", |note| &note.who);
        let others = held.others().iter().map(|it| format!(" {}:{}", it.note.who, seconds(it.end)));
        format!("{} {own}{}", seconds(held.end), others.collect::<String>())
    }

    fn after(present: Option<Held>, change: Change) -> Option<Held> {
        match change {
            Change::Keep => present,
            Change::Write(held) => Some(held),
            Change::Remove => None,
        }
    }

    fn grant(present: Option<Held>, who: &str, seconds: u64, terms: Terms) -> Option<Held> {
        let granting = Granting { note: &note(who, None), end: at(seconds), terms };
        let change = Held::granted(present.as_ref(), &granting, NOW);
        after(present, change)
    }

    fn leave(present: Option<Held>, who: &str) -> Option<Held> {
        let change = present.as_ref().map_or(Change::Keep, |held| held.taken_back(who, None, NOW));
        after(present, change)
    }

    #[test]
    fn the_last_end_counts_and_each_owner_changes_its_own_alone() {
        let mut held = None;
        for (who, seconds, expected) in [
            ("token:a", 600, "600 token:a"),
            ("token:b", 60, "600 token:a token:b:60"),
            ("token:c", 900, "900 token:c token:a:600 token:b:60"),
            ("token:c", 100, "600 token:a token:c:100 token:b:60"),
            ("token:a", 10, "100 token:c token:b:60 token:a:10"),
            ("token:a", 100, "100 token:a token:c:100 token:b:60"),
        ] {
            held = grant(held, who, seconds, Terms::Anew);
            assert_eq!(shown(held.as_ref()), expected, "{who} for {seconds}");
        }
        for (who, expected) in [
            ("token:d", "100 token:a token:c:100 token:b:60"),
            ("token:c", "100 token:a token:b:60"),
            ("token:a", "60 token:b"),
            ("token:b", "none"),
            ("token:b", "none"),
        ] {
            held = leave(held, who);
            assert_eq!(shown(held.as_ref()), expected, "without {who}");
        }
    }

    #[test]
    fn only_what_was_granted_until_a_moment_is_taken_back() {
        let held = grant(None, "token:a", 600, Terms::Anew);
        let held = grant(held, "token:b", 60, Terms::Anew).unwrap();
        let taken = |who, until| held.taken_back(who, Some(until), NOW);
        assert_eq!(taken("token:a", UnixMillis(NOW.0 - 1)), Change::Keep, "it was granted later");
        assert_eq!(shown(after(None, taken("token:a", NOW)).as_ref()), "60 token:b");
        assert_eq!(shown(after(None, taken("token:b", NOW)).as_ref()), "600 token:a");
    }

    #[test]
    fn a_key_makes_its_own_end_later_only() {
        let mut held = grant(None, "key:1", 60, Terms::Later);
        held = grant(held, "token:a", 600, Terms::Anew);
        for (seconds, expected) in [
            (30, "600 token:a key:1:60"),
            (90, "600 token:a key:1:90"),
            (700, "700 key:1 token:a:600"),
        ] {
            held = grant(held, "key:1", seconds, Terms::Later);
            assert_eq!(shown(held.as_ref()), expected, "{seconds}");
        }
        let held = held.unwrap();
        assert_eq!(held.renewed("key:", at(700), NOW), Change::Keep);
        assert_eq!(held.renewed("operator:", at(900), NOW), Change::Keep);
        let renewed = after(None, held.renewed("key:", at(900), NOW));
        assert_eq!(shown(renewed.as_ref()), "900 key:1 token:a:600");
        let left = leave(Some(held), "key:1");
        assert_eq!(shown(left.as_ref()), "600 token:a");
    }

    #[test]
    fn a_grant_for_all_tokens_leaves_those_of_others() {
        let mut held = grant(None, "token:a", 600, Terms::Anew);
        held = grant(held, "key:1", 60, Terms::Later);
        held = grant(held, "operator:anna", 90, Terms::Later);
        held = grant(held, "token:b", 5, Terms::ForTokens);
        assert_eq!(shown(held.as_ref()), "90 operator:anna key:1:60 token:b:5");
    }

    #[test]
    fn an_endless_entry_and_one_of_another_program_stay_below_all_grants() {
        let endless = Held::new(Expiry::Never, Some(note("operator:anna", None)));
        let same = grant(Some(endless.clone()), "token:a", 600, Terms::Anew);
        assert_eq!(same, Some(endless.clone()));
        assert_eq!(endless.renewed("operator:", at(9), NOW), Change::Keep);
        let foreign = Held::new(Expiry::At(at(100)), None);
        let held = grant(Some(foreign.clone()), "token:a", 600, Terms::Anew);
        assert_eq!(shown(held.as_ref()), "600 token:a unknown:100");
        assert_eq!(leave(held, "token:a"), Some(foreign.clone()));
        let held = grant(Some(foreign), "token:a", 60, Terms::Anew);
        assert_eq!(shown(held.as_ref()), "100 unknown token:a:60");
        assert_eq!(shown(leave(held, "token:a").as_ref()), "100 ");
    }

    #[test]
    fn what_is_over_is_forgotten_and_so_is_one_too_many() {
        let mut held = grant(None, "token:a", 600, Terms::Anew);
        held = grant(held, "token:b", 60, Terms::Anew);
        let later = Held::granted(
            held.as_ref(),
            &Granting { note: &note("token:c", None), end: at(700), terms: Terms::Anew },
            at(60),
        );
        assert_eq!(shown(after(None, later).as_ref()), "700 token:c token:a:600");
        let mut held = None;
        for n in 1..=40 {
            held = grant(held, &format!("token:{n}"), n * 10, Terms::Anew);
        }
        let held = held.unwrap();
        assert_eq!(held.others().len(), MOST_OWNERS - 1);
        assert_eq!(held.others().last().unwrap().note.who, "token:9");
    }

    #[test]
    fn notes_are_read_back_within_their_bounds() {
        let mut held = None;
        for n in 0..40_u64 {
            let who = format!("{n:02}{}", "\\\"".repeat(31));
            let longest = note(&who, Some(&"\\".repeat(64)));
            let granting =
                Granting { note: &longest, end: UnixMillis(u64::MAX - n), terms: Terms::Anew };
            let change = Held::granted(held.as_ref(), &granting, NOW);
            held = after(held, change);
        }
        let held = held.unwrap();
        assert_eq!(held.others().len(), MOST_OWNERS - 1);
        assert_eq!(Held::parse(&held.json().unwrap()).as_ref(), Some(&held));
        assert_eq!(Notes::parse(&held.notes.as_ref().unwrap().json()), held.notes.map(|it| *it));
        let one = Held::new(Expiry::Never, Some(note("key:1", None)));
        assert_eq!(one.json().unwrap(), r#"{"who":"key:1","at_ms":1790000000000}"#);
        assert_eq!(Held::parse(&one.json().unwrap()), Some(one));
    }

    #[test]
    fn other_owners_that_are_none_make_no_note() {
        let with =
            |others: &str| format!(r#"{{"who":"a","at_ms":1,"end_ms":9,"others":{others}}}"#);
        let other = r#"{"who":"b","at_ms":1,"end_ms":9}"#;
        assert_eq!(Held::parse(&with(&format!("[{other}]"))).unwrap().others().len(), 1);
        for others in [
            "7",
            "[7]",
            r#"[{"who":"b","at_ms":1}]"#,
            r#"[{"who":"b","at_ms":1,"end_ms":10}]"#,
            r#"[{"who":"","at_ms":1,"end_ms":9}]"#,
            &format!("[{other}{}]", format!(",{other}").repeat(MOST_OWNERS - 1)),
        ] {
            assert_eq!(Held::parse(&with(others)), None, "{others}");
        }
    }

    #[test]
    fn a_label_stays_with_its_owner() {
        let labelled = note("token:a", Some("laptop"));
        let granting = Granting { note: &labelled, end: at(600), terms: Terms::Anew };
        let held = after(None, Held::granted(None, &granting, NOW));
        let held = grant(held, "token:b", 900, Terms::Anew);
        let held = grant(held, "token:a", 60, Terms::Anew).unwrap();
        assert_eq!(held.others()[0].note.label.as_deref(), Some("laptop"));
        assert_eq!(held.note().unwrap().label, None);
    }
}
