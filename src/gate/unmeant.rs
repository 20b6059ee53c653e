//! Entries that a full read finds with an end so far away that nobody meant it:
//! milliseconds where seconds are expected. Counted, so that the log tells it once and not
//! at every read; what such an entry allows is the store's word, and not changed here.

use std::sync::{Mutex, PoisonError};

use tracing::warn;

use super::member::{Item, Member};
use super::store::{Event, is_unmeant};

/// Listens to full reads, and tells the log.
#[derive(Debug, Default)]
pub(super) struct Unmeant(Mutex<Found>);

/// Such entries of the full read that is under way, or was the last.
#[derive(Debug, Default)]
struct Found {
    found: u64,
    example: Option<Member>,
    was_told: bool,
}

impl Unmeant {
    /// The store says something.
    pub(super) fn hear(&self, event: &Event) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Begin => found.begin(),
            Event::Items(items) => found.note(items),
            Event::End { .. } => {
                if let Some((entries, example)) = found.end() {
                    warn!(entries, %example, "scores of the allow-set look like milliseconds");
                }
            }
            _ => {}
        }
    }
}

impl Found {
    /// A full read begins.
    fn begin(&mut self) {
        (self.found, self.example) = (0, None);
    }

    /// A part of it.
    fn note(&mut self, items: &[Item]) {
        for item in items {
            if let Item::Allowed(member, end) = item
                && is_unmeant(*end)
            {
                self.found += 1;
                self.example.get_or_insert(*member);
            }
        }
    }

    /// It is complete: how many there are, and one of them, where that is news.
    fn end(&mut self) -> Option<(u64, Member)> {
        let was_told = std::mem::replace(&mut self.was_told, self.example.is_some());
        self.example.filter(|_| !was_told).map(|example| (self.found, example))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_until_it_was_put_right() {
        let member: Member = "203.0.113.7".parse().unwrap();
        let millis = Item::Allowed(member, Some(1_790_000_000_000_000));
        let seconds = Item::Allowed(member, Some(1_790_000_000_000));
        let mut unmeant = Found::default();
        let mut read = |items: &[Item]| {
            unmeant.begin();
            unmeant.note(items);
            unmeant.end()
        };
        assert_eq!(read(&[seconds]), None);
        assert_eq!(read(&[seconds, millis, millis]), Some((2, member)));
        assert_eq!(read(&[millis]), None, "told already");
        assert_eq!(read(&[seconds]), None);
        assert_eq!(read(&[millis]), Some((1, member)));
    }
}
