//! Entries of a full read that end implausibly late: milliseconds were written where seconds
//! are expected. Counted, so that they are reported once and not at every read; such an
//! entry counts as the store has it, and is not changed here.

use crate::member::{Item, Member};
use crate::store::{Event, is_implausible};

/// Such entries of the full read that is under way, or was the last.
#[derive(Debug, Default)]
pub struct ImplausibleExpiries {
    entries: u64,
    example: Option<Member>,
    was_told: bool,
}

/// The entries that a full read found, to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Implausible {
    /// The number of such entries.
    pub entries: u64,
    /// One of them.
    pub example: Member,
}

impl ImplausibleExpiries {
    /// Takes a report of the store. Returns the entries that its full read found, at the end
    /// of the first read that has some.
    pub fn take(&mut self, event: &Event) -> Option<Implausible> {
        match event {
            Event::Begin => self.begin(),
            Event::Items(items) => self.note(items),
            Event::End { .. } => return self.end(),
            _ => {}
        }
        None
    }

    /// A full read begins.
    fn begin(&mut self) {
        (self.entries, self.example) = (0, None);
    }

    /// A part of it.
    fn note(&mut self, items: &[Item]) {
        for item in items {
            if let Item::Allowed(member, end) = item
                && is_implausible(*end)
            {
                self.entries += 1;
                self.example.get_or_insert(*member);
            }
        }
    }

    /// The read is complete. Returns such entries if the read before had none.
    fn end(&mut self) -> Option<Implausible> {
        let was_told = std::mem::replace(&mut self.was_told, self.example.is_some());
        let example = self.example.filter(|_| !was_told)?;
        Some(Implausible { entries: self.entries, example })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knockpipe_base::unix_time::{Expiry, UnixMillis};

    #[test]
    fn it_is_reported_once_until_it_is_corrected() {
        let member: Member = "203.0.113.7".parse().unwrap();
        let at = |millis| Expiry::At(UnixMillis(millis));
        let millis = Item::Allowed(member, at(1_790_000_000_000_000));
        let seconds = Item::Allowed(member, at(1_790_000_000_000));
        let mut expiries = ImplausibleExpiries::default();
        let mut read = |items: &[Item]| {
            assert_eq!(expiries.take(&Event::Begin), None);
            assert_eq!(expiries.take(&Event::Items(items.to_vec())), None);
            expiries.take(&Event::End { garbage: 0 }).map(|found| (found.entries, found.example))
        };
        assert_eq!(read(&[seconds]), None);
        assert_eq!(read(&[seconds, millis, millis]), Some((2, member)));
        assert_eq!(read(&[millis]), None, "told already");
        assert_eq!(read(&[seconds]), None);
        assert_eq!(read(&[millis]), Some((1, member)));
    }
}
