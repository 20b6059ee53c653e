//! Limits a walk through a set, or through the keys of servers, so that it has an end whatever
//! the servers answer.

use super::connection::Connection;
use super::error::RedisFailure;

/// The most members and keys of a gate in one walk.
pub(super) const MOST_ENTRIES: usize = 2_000_000;

/// The most pages of one walk, most of which may be empty: a server with two thousand
/// million other keys.
const MOST_PAGES: usize = 1_000_000;

/// The progress of a walk.
#[derive(Debug, Default)]
pub(super) struct ScanLimit {
    pages: usize,
    found: usize,
    /// Members and keys that were reported one by one since it began.
    singly: usize,
}

impl ScanLimit {
    /// Counts a page with this many members or keys.
    ///
    /// # Errors
    /// [`RedisFailure`] when the walk is longer than any can be.
    pub(super) fn page(
        &mut self,
        connection: &Connection,
        found: usize,
    ) -> Result<(), RedisFailure> {
        (self.pages, self.found) = (self.pages + 1, self.found + found);
        self.excess().map_or(Ok(()), |cause| Err(connection.too_much(cause)))
    }

    /// Counts an entry that was reported by itself, and that the walk may not have found.
    ///
    /// # Errors
    /// [`RedisFailure`] when there are too many between two walks.
    pub(super) fn single(&mut self, connection: &Connection) -> Result<(), RedisFailure> {
        self.singly += 1;
        self.excess().map_or(Ok(()), |cause| Err(connection.too_much(cause)))
    }

    fn excess(&self) -> Option<String> {
        if self.found > MOST_ENTRIES || self.singly > MOST_ENTRIES {
            Some(format!("has more than {MOST_ENTRIES} entries for the gate, which are the most"))
        } else if self.pages > MOST_PAGES {
            Some(format!("does not end a scan within {MOST_PAGES} pages"))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_limited() {
        let walk = |pages, found, singly| ScanLimit { pages, found, singly }.excess().is_none();
        assert!(walk(MOST_PAGES, MOST_ENTRIES, MOST_ENTRIES));
        assert!(!walk(MOST_PAGES + 1, 0, 0));
        assert!(!walk(1, MOST_ENTRIES + 1, 0) && !walk(1, 0, MOST_ENTRIES + 1));
    }
}
