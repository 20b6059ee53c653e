//! Entries whose end a full read finds implausibly far away: milliseconds were written where
//! seconds are expected. Counted, so that they are logged once and not at every read; such an
//! entry counts as the store has it, and is not changed here.

use std::sync::{Mutex, PoisonError};

use tracing::warn;

use super::member::{Item, Member};
use super::store::{Event, is_implausible};

/// Watches full reads, and logs such entries.
#[derive(Debug, Default)]
pub(super) struct ImplausibleExpiries(Mutex<Found>);

/// Such entries of the full read that is under way, or was the last.
#[derive(Debug, Default)]
struct Found {
    found: u64,
    example: Option<Member>,
    was_told: bool,
}

impl ImplausibleExpiries {
    /// Takes a report of the store.
    pub(super) fn hear(&self, event: &Event) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Begin => found.begin(),
            Event::Items(items) => found.note(items),
            Event::End { .. } => {
                if let Some((entries, example)) = found.end() {
                    warn!(entries, %example, "allow-set scores look like milliseconds");
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
                && is_implausible(*end)
            {
                self.found += 1;
                self.example.get_or_insert(*member);
            }
        }
    }

    /// The read is complete. Returns the number of such entries, and one of them, if the
    /// read before had none.
    fn end(&mut self) -> Option<(u64, Member)> {
        let was_told = std::mem::replace(&mut self.was_told, self.example.is_some());
        self.example.filter(|_| !was_told).map(|example| (self.found, example))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unix_time::{Expiry, UnixMillis};

    #[test]
    fn it_is_told_once_until_it_was_put_right() {
        let member: Member = "203.0.113.7".parse().unwrap();
        let at = |millis| Expiry::At(UnixMillis(millis));
        let millis = Item::Allowed(member, at(1_790_000_000_000_000));
        let seconds = Item::Allowed(member, at(1_790_000_000_000));
        let mut found = Found::default();
        let mut read = |items: &[Item]| {
            found.begin();
            found.note(items);
            found.end()
        };
        assert_eq!(read(&[seconds]), None);
        assert_eq!(read(&[seconds, millis, millis]), Some((2, member)));
        assert_eq!(read(&[millis]), None, "told already");
        assert_eq!(read(&[seconds]), None);
        assert_eq!(read(&[millis]), Some((1, member)));
    }
}
