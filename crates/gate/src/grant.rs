//! The note of a grant: the one who made an entry of the allow-set, its label, and the moment.
//!
//! It stands beside the entry, for people: no decision about a connection is made by it. Its text
//! comes from a store that others may write, so its length is bounded, and what is no note of
//! this form is none. It is not escaped here: that is for the place where it is shown.

use serde::{Deserialize, Serialize};

use knockpipe_base::unix_time::{Expiry, UnixMillis};

/// The most bytes of the name of who granted it.
pub const MOST_WHO: usize = 64;
/// The most owners of one entry; of more, the one that ends first is forgotten.
pub const MOST_OWNERS: usize = 32;
/// The most bytes of a label.
pub const MOST_LABEL: usize = 64;
/// The most bytes of a note as text, with those of the other owners of its entry; a longer text was
/// not written by this program.
pub const LONGEST_NOTE: usize = MOST_OWNERS * 384;
/// The beginning of the name of a key that knocked, before its id.
pub const KEY: &str = "key:";
/// The beginning of the name of a token that knocked over HTTP, before its name.
pub const TOKEN: &str = "token:";
/// The beginning of the name of an operator, before a user.
pub const OPERATOR: &str = "operator:";

/// The note beside an entry of the allow-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantNote {
    /// The name of who granted it: `key:ID` for a knock, `token:NAME` for one over HTTP,
    /// `operator:USER` for a command.
    pub who: String,
    /// The label that was given with it.
    pub label: Option<String>,
    /// The moment at which it was granted.
    pub at: UnixMillis,
}

/// A note, with the end of what its owner granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteUntil {
    /// The note.
    pub note: GrantNote,
    /// The end of its entry.
    pub end: Expiry,
}

/// The text form of notes: of one, and of the others beside the same entry.
#[derive(Deserialize, Serialize)]
pub(crate) struct Text {
    who: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) others: Vec<Self>,
}

// === impl GrantNote ===

impl GrantNote {
    /// Makes a note, with texts cut to their bounds and without control characters.
    pub fn new(who: &str, label: Option<&str>, at: UnixMillis) -> Self {
        let label = label.map(|label| cut(label, MOST_LABEL)).filter(|label| !label.is_empty());
        Self { who: cut(who, MOST_WHO), label, at }
    }

    /// Reads a note; `None` for a text that is none.
    pub fn parse(text: &str) -> Option<Self> {
        Text::parse(text)?.note().map(|read| read.note)
    }

    /// The note as one line of JSON.
    pub fn json(&self) -> String {
        Text::of(self, None).json()
    }

    /// Returns this note of a new grant, with the label of the `present` one where this has none and
    /// both are of the same holder: not each program with a key gives it a label.
    pub fn labelled_as(mut self, present: Option<&Self>) -> Self {
        let same = present.filter(|present| present.who == self.who);
        self.label = self.label.or_else(|| same.and_then(|present| present.label.clone()));
        self
    }

    /// Returns true if `new` gives an entry that stays as it is another label than `present`.
    pub fn relabels(new: Option<&Self>, present: Option<&Self>) -> bool {
        let label = |note: &Self| note.label.clone();
        let wanted = new.and_then(label);
        wanted.is_some() && wanted != present.and_then(label)
    }
}

// === impl Text ===

impl Text {
    /// The text form of a note, with the end of its entry where that is to be in it.
    pub(crate) fn of(note: &GrantNote, end_ms: Option<u64>) -> Self {
        let GrantNote { who, label, at } = note.clone();
        Self { who, label, at_ms: at.0, end_ms, others: vec![] }
    }

    /// Reads a line of JSON; `None` for one that is too long, or something else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST_NOTE { None } else { serde_json::from_str(text).ok() }
    }

    /// The note, without the others; `None` for a text that is out of bounds.
    pub(crate) fn note(&self) -> Option<NoteUntil> {
        let Self { who, label, at_ms, end_ms, .. } = self;
        let is_long = label.as_ref().is_some_and(|label| label.len() > MOST_LABEL);
        if who.is_empty() || who.len() > MOST_WHO || is_long {
            return None;
        }
        let note = GrantNote { who: who.clone(), label: label.clone(), at: UnixMillis(*at_ms) };
        Some(NoteUntil { note, end: (*end_ms).into() })
    }

    /// One line of JSON.
    pub(crate) fn json(&self) -> String {
        // A struct of texts and numbers always has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The first `most` bytes of `text`, or fewer, without control characters.
fn cut(text: &str, most: usize) -> String {
    let mut kept = String::with_capacity(text.len().min(most));
    for c in text.chars().filter(|c| !c.is_control()) {
        if kept.len() + c.len_utf8() > most {
            break;
        }
        kept.push(c);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(label: Option<&str>) -> GrantNote {
        GrantNote::new("key:1a2b3c4d", label, UnixMillis(1_790_000_000_000))
    }

    #[test]
    fn a_note_is_read_back() {
        for note in [note(None), note(Some("Anna's \"laptop\" \\ 世界"))] {
            assert_eq!(GrantNote::parse(&note.json()), Some(note));
        }
        let text = r#"{"who":"key:1a2b3c4d","label":"laptop","at_ms":1790000000000}"#;
        assert_eq!(GrantNote::parse(text), Some(note(Some("laptop"))));
        let more = r#"{"until":"later","who":"key:1a2b3c4d","label":null,"at_ms":1790000000000}"#;
        assert_eq!(GrantNote::parse(more), Some(note(None)), "unknown fields are passed over");
    }

    #[test]
    fn garbage_is_no_note() {
        let long = "x".repeat(65);
        for text in [
            String::new(),
            "1".to_owned(),
            "null".to_owned(),
            "[]".to_owned(),
            r#"{"who":"","at_ms":1}"#.to_owned(),
            r#"{"who":"a"}"#.to_owned(),
            r#"{"who":"a","at_ms":-1}"#.to_owned(),
            r#"{"who":7,"at_ms":1}"#.to_owned(),
            r#"{"who":"a","label":["b"],"at_ms":1}"#.to_owned(),
            format!(r#"{{"who":"{long}","at_ms":1}}"#),
            format!(r#"{{"who":"a","label":"{long}","at_ms":1}}"#),
            format!(r#"{{"who":"a","at_ms":1,"x":"{}"}}"#, "x".repeat(LONGEST_NOTE)),
            r#"{"who":"a","at_ms":1} and more"#.to_owned(),
        ] {
            assert_eq!(GrantNote::parse(&text), None, "{text}");
        }
    }

    #[test]
    fn what_is_made_here_is_within_its_bounds() {
        let made = GrantNote::new(&"é".repeat(99), Some(&"a\n\x1b".repeat(99)), UnixMillis(0));
        assert_eq!((made.who.len(), made.label.as_deref()), (64, Some(&*"a".repeat(64))));
        assert_eq!(GrantNote::new("a", Some("\n"), UnixMillis(0)).label, None);
        let worst = "\u{7f}\"\\".repeat(99);
        let worst = GrantNote::new(&worst, Some(&worst), UnixMillis(u64::MAX));
        assert_eq!(GrantNote::parse(&worst.json()), Some(worst));
        // As another program may write it: of control characters only.
        let worst = GrantNote { who: "\0".repeat(64), label: Some("\0".repeat(64)), ..note(None) };
        assert!(worst.json().len() <= LONGEST_NOTE);
    }

    #[test]
    fn a_note_without_a_label_takes_that_of_the_same_holder() {
        let (plain, one, two) = (note(None), note(Some("1")), note(Some("2")));
        let other = GrantNote { who: "key:5e6f7081".to_owned(), ..one.clone() };
        for (new, present, label) in [
            (&plain, Some(&one), Some("1")),
            (&two, Some(&one), Some("2")),
            (&plain, Some(&other), None),
            (&plain, Some(&plain), None),
            (&plain, None, None),
            (&one, None, Some("1")),
        ] {
            let made = new.clone().labelled_as(present);
            assert_eq!(made.label.as_deref(), label, "{new:?} on {present:?}");
        }
    }

    #[test]
    fn only_another_label_changes_the_note_of_an_entry_that_stays() {
        let (plain, one, two) = (note(None), note(Some("1")), note(Some("2")));
        for (new, present, relabels) in [
            (None, Some(&one), false),
            (Some(&plain), Some(&one), false),
            (Some(&one), Some(&one), false),
            (Some(&one), Some(&two), true),
            (Some(&one), None, true),
            (Some(&one), Some(&plain), true),
        ] {
            assert_eq!(GrantNote::relabels(new, present), relabels, "{new:?} on {present:?}");
        }
    }
}
