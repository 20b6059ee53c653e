//! Notes of entries, as the commands make and show them.
//!
//! The text of a note comes from a store that others write: it is shown with everything invisible
//! escaped, so that no label looks like another line or column.

use std::env;

use nix::unistd::{Uid, User};
use serde_json::{Map, Value, json};

use super::super::output::date;
use crate::gate::grant::NoteUntil;
use crate::gate::owners::Notes;
use crate::gate::{Expiry, GrantNote, UnixMillis, grant};
use crate::net::clock;
use crate::printable::printable;
use crate::proto::knock::Label;

/// The name of the user that runs this command; with sudo that of the user who did. Made before the
/// command gives up the rights of root.
pub(super) struct Operator {
    who: String,
}

impl Operator {
    pub(super) fn of_process() -> Self {
        let uid = Uid::current();
        let by_sudo = uid.is_root().then(|| env::var("SUDO_USER").ok()).flatten();
        let name = by_sudo.filter(|name| !name.is_empty());
        let name = name.or_else(|| User::from_uid(uid).ok().flatten().map(|user| user.name));
        let name = name.unwrap_or_else(|| uid.to_string());
        Self { who: format!("{}{name}", grant::OPERATOR) }
    }

    /// The note of an entry that this command adds.
    pub(super) fn note(&self, label: Option<&Label>) -> GrantNote {
        GrantNote::new(&self.who, label.map(Label::as_str), clock::now())
    }
}

/// Describes a note, for people: ` by WHO at TIME (LABEL)`.
pub(super) fn text(note: Option<&GrantNote>) -> String {
    let Some(GrantNote { who, label, at }) = note else { return String::new() };
    let label = label.as_deref().map(|label| format!(" ({})", printable(label)));
    format!("by {} at {}{}", printable(who), date(at.as_secs()), label.unwrap_or_default())
}

/// Describes the notes of an entry, for people: that of the owner that ends last, then the others.
pub(super) fn all(notes: Option<&Notes>) -> String {
    let Some(Notes { note, others }) = notes else { return String::new() };
    let other = |other: &NoteUntil| {
        let end = other.end.moment().map_or(0, UnixMillis::as_secs);
        format!(", also by {} until {}", printable(&other.note.who), date(end))
    };
    text(Some(note)) + &others.iter().map(other).collect::<String>()
}

/// Adds the notes of an entry to its object.
pub(super) fn add_all(notes: &Notes, object: &mut Map<String, Value>) {
    add(&notes.note, object);
    if notes.others.is_empty() {
        return;
    }
    let other = |NoteUntil { note, end }: &NoteUntil| {
        let mut other = Map::new();
        add(note, &mut other);
        other.insert("expires_ms".to_owned(), json!(end.as_millis()));
        Value::Object(other)
    };
    object.insert("others".to_owned(), notes.others.iter().map(other).collect());
}

/// Adds a note to an object.
fn add(note: &GrantNote, object: &mut Map<String, Value>) {
    let GrantNote { who, label, at } = note;
    object.insert("who".to_owned(), json!(who));
    object.insert("label".to_owned(), json!(label));
    object.insert("granted_ms".to_owned(), json!(at.0));
}

/// Reads the notes of an object that [`add_all`] made; `None` if it has none.
///
/// # Errors
/// The reason why they are none, in one line.
pub(super) fn read_all(object: &Value) -> Result<Option<Notes>, String> {
    const NO_OTHERS: &str = "\"others\" is no list of notes, each with its \"expires_ms\"";
    let note = read(object)?;
    let others = match &object["others"] {
        Value::Null => &[][..],
        Value::Array(others) if others.len() < grant::MOST_OWNERS && note.is_some() => others,
        _ => return Err(NO_OTHERS.to_owned()),
    };
    let other = |other: &Value| {
        let end = other["expires_ms"].as_u64().ok_or(NO_OTHERS)?;
        let note = read(other)?.ok_or(NO_OTHERS)?;
        Ok(NoteUntil { note, end: Expiry::At(UnixMillis(end)) })
    };
    let others = others.iter().map(other).collect::<Result<_, String>>()?;
    Ok(note.map(|note| Notes { note, others }))
}

/// Reads the note of an object; `None` if it has none.
fn read(object: &Value) -> Result<Option<GrantNote>, String> {
    let text = |name: &str, most: usize| match &object[name] {
        Value::Null => Ok(None),
        Value::String(text) if (1..=most).contains(&text.len()) => Ok(Some(text.clone())),
        _ => Err(format!("\"{name}\" is not text of 1 to {most} bytes")),
    };
    let who = text("who", grant::MOST_WHO)?;
    let label = text("label", grant::MOST_LABEL)?;
    let at = match &object["granted_ms"] {
        Value::Null => None,
        at => Some(at.as_u64().ok_or("\"granted_ms\" is not a unix time in milliseconds")?),
    };
    match (who, at) {
        (Some(who), Some(at)) => Ok(Some(GrantNote::new(&who, label.as_deref(), UnixMillis(at)))),
        (None, None) if label.is_none() => Ok(None),
        _ => Err("\"who\" and \"granted_ms\" go together, and a \"label\" with them".to_owned()),
    }
}
