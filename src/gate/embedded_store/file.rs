//! The embedded store's file: read to its end, appended to under a lock, and
//! written anew when most of it is past.
//!
//! An edit is acknowledged after `fdatasync`. A writer that was killed leaves at
//! most a torn end, which readers pass over and the next writer cuts off under
//! the lock. A file that is damaged anywhere else is refused, never repaired.
//!
//! Several edits that belong together are not appended, since a killed writer could
//! leave half of them: they make a new file, which takes the place of the old one.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::fcntl::OFlag;

use super::super::file_record::{HEADER, LONGEST_LINE, Record, Subject};
use super::super::file_state::State;
use super::super::store::{Edit, StoreError};
use super::lock::{Locked, OWN, cause_at, error_at, id, open};
use super::permissions;
use crate::files::place::{FileId, Place};
use crate::net::clock;
use crate::unix_time::UnixMillis;

/// A smaller file is not worth writing anew.
const WORTH_COMPACTING: u64 = 64 * 1024;
/// About the length of one entry, and the multiple of all entries that the file may reach.
const ENTRY: u64 = 80;
const SLACK: u64 = 4;
/// One append has no more bytes: 100,000 notes for the history, each a line.
const LONGEST_APPEND: u64 = 32 << 20;
/// Changes that are kept for a follower; more become a full read.
const MOST_CHANGES: usize = 50_000;

/// The content of the file, and the offset up to which it was read.
#[derive(Debug)]
pub(super) struct LogReader {
    path: PathBuf,
    state: State,
    /// The file that was read. Held open, or else another file could get its
    /// inode and pass for it.
    held: Option<File>,
    offset: u64,
    /// The length at which it is time to see how much of it is past.
    compact_check: u64,
    changes: PendingChanges,
}

/// The changes that a follower has not seen yet.
#[derive(Debug, Default)]
pub(super) struct PendingChanges {
    /// The file is another one, or there was too much.
    pub(super) everything: bool,
    pub(super) subjects: Vec<Subject>,
}

// === impl LogReader ===

impl LogReader {
    pub(super) fn new(path: PathBuf) -> Self {
        let changes = PendingChanges { everything: true, subjects: vec![] };
        Self {
            path,
            state: State::default(),
            held: None,
            offset: 0,
            compact_check: WORTH_COMPACTING,
            changes,
        }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Makes the next changes everything: a new follower knows nothing.
    pub(super) fn expect_everything(&mut self) {
        self.changes = PendingChanges { everything: true, subjects: vec![] };
    }

    pub(super) fn take_changes(&mut self) -> PendingChanges {
        std::mem::take(&mut self.changes)
    }

    /// Returns true if the file differs from what was read, by its identity and length.
    pub(super) fn is_behind(&self) -> Result<bool, StoreError> {
        let place = self.place()?;
        let seen = place.look().map_err(|error| self.error(&error))?;
        let length = u64::try_from(seen.st_size).unwrap_or_default();
        Ok(self.held() != Some(FileId::from(&seen)) || self.offset != length)
    }

    /// Reads what was appended; a torn end is left for the next writer.
    pub(super) fn catch_up(&mut self) -> Result<(), StoreError> {
        let file = open(&self.place()?, OFlag::O_RDONLY)?;
        self.read(&file)?;
        let length = file.metadata().map_err(|error| self.error(&error))?.len();
        let bad_at = self.offset;
        if length > bad_at
            && let Some(damage) = self.damage(&file)?
        {
            // Unless the line was only half written a moment ago.
            self.read(&file)?;
            if self.offset == bad_at {
                return Err(self.damaged(damage));
            }
        }
        Ok(())
    }

    /// Appends the records that `decide` returns for the present content. Returns the
    /// appended records.
    pub(super) fn edit(
        &mut self,
        Locked { file, place }: &Locked,
        decide: impl FnOnce(&State) -> Vec<Record>,
        now: UnixMillis,
    ) -> Result<Vec<Record>, StoreError> {
        self.read(file)?;
        self.mend(file, place)?;
        let records = decide(&self.state);
        let began = self.offset;
        let lines: String = records.iter().map(|record| record.line(began)).collect();
        if lines.len() as u64 > LONGEST_APPEND {
            return Err(self.cause("takes no more than 32 MiB at once; make several changes of it"));
        }
        if let Some(excess) = records.iter().find_map(|it| self.state.excess(it, || now)) {
            return Err(self.cause(excess.to_string()));
        }
        // Also when nothing is to be written: the content may not be on disk yet, if its
        // writer was killed before it could ensure that.
        self.append(file, lines.as_bytes())?;
        for record in &records {
            self.note(record);
        }
        if self.is_worth_compacting(now) {
            // The edit is safe; a failure here is tried again after the next.
            let _ = self.compact(place, now);
        }
        Ok(records)
    }

    /// Makes all of `edits`, each on the result of those before it, or none, also if
    /// the process is killed in between. Returns the records of each.
    pub(super) fn edit_all(
        &mut self,
        locked: &Locked,
        edits: &[Edit],
        now: UnixMillis,
    ) -> Result<Vec<Vec<Record>>, StoreError> {
        self.read(&locked.file)?;
        self.mend(&locked.file, &locked.place)?;
        let made = self.make_all(locked, edits, now);
        if made.is_err() {
            // Memory and file differ.
            self.forget();
        }
        made
    }

    fn make_all(
        &mut self,
        Locked { file, place }: &Locked,
        edits: &[Edit],
        now: UnixMillis,
    ) -> Result<Vec<Vec<Record>>, StoreError> {
        let mut made = Vec::with_capacity(edits.len());
        for edit in edits {
            let records = self.state.records_for(edit, now);
            for record in &records {
                if let Some(excess) = self.state.excess(record, || now) {
                    return Err(self.cause(excess.to_string()));
                }
                self.state.apply(record);
            }
            made.push(records);
        }
        let mut records = made.iter().flatten();
        match (records.next(), records.next()) {
            (None, _) => self.append(file, &[])?,
            (Some(one), None) => self.append(file, one.line(self.offset).as_bytes())?,
            (Some(_), Some(_)) => {
                let owner = self.new_owner(place).map_err(|error| self.error(&error))?;
                let owner = owner.ok_or_else(|| self.cause(permissions::refusal(&self.path)))?;
                self.replace(place, owner, now).map_err(|error| self.error(&error))?;
            }
        }
        self.expect_everything();
        Ok(made)
    }

    /// Forgets the content.
    fn forget(&mut self) {
        (self.held, self.offset) = (None, 0);
        self.state = State::default();
        self.expect_everything();
    }

    fn read(&mut self, file: &File) -> Result<(), StoreError> {
        let seen = file.metadata().map_err(|error| self.error(&error))?;
        self.check(&seen)?;
        // Entries are removed by records; a file without its header was lost.
        if self.offset > 0 && seen.len() < HEADER.len() as u64 {
            return Err(self.cause("was emptied since it was read; restore it".to_owned()));
        }
        if self.held() != Some(id(&seen)) || seen.len() < self.offset {
            self.forget();
            self.held = Some(file.try_clone().map_err(|error| self.error(&error))?);
        }
        let done = self.read_on(file);
        let cause = done.map_err(|error| self.error(&error))?;
        cause.map_or(Ok(()), |cause| Err(self.cause(cause)))
    }

    /// The file that was read.
    fn held(&self) -> Option<FileId> {
        let held = self.held.as_ref().and_then(|file| file.metadata().ok());
        held.map(|held| id(&held))
    }

    /// The present place of the file: its directory may be another one than before.
    fn place(&self) -> Result<Place, StoreError> {
        Place::find(&self.path).map_err(|error| self.error(&error))
    }

    fn check(&self, seen: &fs::Metadata) -> Result<(), StoreError> {
        if !seen.is_file() {
            return Err(self.cause("is no regular file; name another"));
        }
        let mode = seen.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(self.cause(format!(
                "group or others may use it (mode {mode:04o}); run: chmod 600 {}",
                self.path.display()
            )));
        }
        Ok(())
    }

    /// Reads whole lines from the offset on. Returns the reason if the file cannot be used.
    fn read_on(&mut self, file: &File) -> io::Result<Option<String>> {
        let mut reader = BufReader::with_capacity(1 << 18, file);
        if self.offset == 0 {
            let mut header = Vec::with_capacity(HEADER.len());
            reader.rewind()?;
            (&mut reader).take(HEADER.len() as u64).read_to_end(&mut header)?;
            if !HEADER.starts_with(&header) {
                let newer = header.starts_with(b"knockpipe-gate-");
                let cause = if newer {
                    "was written by a newer knockpipe; use that one"
                } else {
                    "is no gate file of knockpipe; name another"
                };
                return Ok(Some(cause.to_owned()));
            }
            if header.len() < HEADER.len() {
                return Ok(None);
            }
            self.offset = HEADER.len() as u64;
        }
        reader.seek(SeekFrom::Start(self.offset))?;
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = (&mut reader).take(LONGEST_LINE as u64).read_until(b'\n', &mut line)?;
            let record = line.strip_suffix(b"\n").and_then(Record::parse);
            let Some((_, record)) = record else { return Ok(None) };
            if let Some(excess) = self.state.excess(&record, clock::now) {
                return Ok(Some(excess.to_string()));
            }
            self.offset += length as u64;
            self.note(&record);
        }
    }

    fn note(&mut self, record: &Record) {
        self.state.apply(record);
        if let Some(subject) = record.subject() {
            if self.changes.subjects.len() < MOST_CHANGES && !self.changes.everything {
                self.changes.subjects.push(subject);
            } else {
                self.expect_everything();
            }
        }
    }

    /// Under the lock: writes the header of a new file, or cuts a torn end off.
    fn mend(&mut self, file: &File, place: &Place) -> Result<(), StoreError> {
        let length = file.metadata().map_err(|error| self.error(&error))?.len();
        if length > self.offset
            && self.offset > 0
            && let Some(damage) = self.damage(file)?
        {
            return Err(self.damaged(damage));
        }
        if length > self.offset {
            file.set_len(self.offset).map_err(|error| self.error(&error))?;
        }
        if self.offset == 0 {
            self.append(file, HEADER)?;
            place.sync().map_err(|error| self.error(&error))?;
        }
        Ok(())
    }

    /// The reason why the bytes after the offset are no torn end: they are longer than one, or
    /// a line in them belongs to a later append, so that the bad one before was good once.
    fn damage(&self, file: &File) -> Result<Option<&'static str>, StoreError> {
        let look = || -> io::Result<Option<&'static str>> {
            if file.metadata()?.len().saturating_sub(self.offset) > LONGEST_APPEND {
                return Ok(Some("with more after it than one change writes"));
            }
            let mut reader = BufReader::new(file);
            reader.seek(SeekFrom::Start(self.offset))?;
            // It may grow meanwhile.
            let mut reader = reader.take(LONGEST_APPEND);
            let mut line = Vec::new();
            loop {
                line.clear();
                let mut start = (&mut reader).take(LONGEST_LINE as u64);
                if start.read_until(b'\n', &mut line)? == 0 {
                    return Ok(None);
                }
                if !line.ends_with(b"\n") {
                    reader.skip_until(b'\n')?;
                }
                let record = line.strip_suffix(b"\n").and_then(Record::parse);
                if record.is_some_and(|(began, _)| began > self.offset) {
                    return Ok(Some("before good lines"));
                }
            }
        };
        look().map_err(|error| self.error(&error))
    }

    fn append(&mut self, mut file: &File, bytes: &[u8]) -> Result<(), StoreError> {
        let written = file.write_all(bytes).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // A part of it must not be read as an edit that was made.
            let _ = file.set_len(self.offset);
            return Err(self.error(&error));
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn is_worth_compacting(&mut self, now: UnixMillis) -> bool {
        if self.offset < self.compact_check {
            return false;
        }
        let live = self.state.records(now).count() as u64 * ENTRY;
        self.compact_check = WORTH_COMPACTING.max(self.offset + self.offset / 4);
        self.offset > live * SLACK
    }

    /// Writes what still holds to a new file, if a new one may take the place of the old.
    fn compact(&mut self, place: &Place, now: UnixMillis) -> io::Result<()> {
        match self.new_owner(place)? {
            Some(owner) => self.replace(place, owner, now),
            // This is left to its owner.
            None => Ok(()),
        }
    }

    /// The owner of a new file; `None` where this process may make none for it.
    fn new_owner(&self, place: &Place) -> io::Result<Option<u32>> {
        let old = self.held.as_ref().map(File::metadata).transpose()?;
        Ok(old.map(|old| old.uid()).filter(|uid| permissions::may_own(*uid, place)))
    }

    /// Writes what still holds to a new file and puts that in place of the old.
    fn replace(&mut self, place: &Place, owner: u32, now: UnixMillis) -> io::Result<()> {
        let mut name = place.name().to_owned();
        name.push(".new");
        let new = place.beside(&name);
        let _ = new.remove_any();
        let file = new.open(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL, OWN)?;
        let made = id(&file.metadata()?);
        self.state.drop_past(now);
        // When root writes it anew, it stays usable for the tunnel's user.
        let written = self.write_all(&file).and_then(|()| permissions::hand_over(&file, owner));
        let written = written.and_then(|()| file.metadata());
        // From the rename on, others append to it.
        let renamed = written.and_then(|seen| new.rename(place.name()).map(|()| seen));
        let seen = match renamed {
            Ok(seen) => seen,
            Err(error) => {
                new.remove(made)?;
                return Err(error);
            }
        };
        // The same content in another file: no change for a follower here.
        self.held = Some(file);
        self.offset = seen.len();
        self.compact_check = WORTH_COMPACTING.max(self.offset * SLACK);
        place.sync()
    }

    fn write_all(&self, file: &File) -> io::Result<()> {
        let mut writer = io::BufWriter::new(file);
        writer.write_all(HEADER)?;
        for record in self.state.records(UnixMillis(0)) {
            // All one append, as far as a torn end is concerned.
            writer.write_all(record.line(HEADER.len() as u64).as_bytes())?;
        }
        writer.flush()?;
        drop(writer);
        file.sync_all()
    }

    fn damaged(&self, damage: &str) -> StoreError {
        let offset = self.offset;
        self.cause(format!("is damaged at byte {offset}, {damage}; restore it from a copy"))
    }

    fn error(&self, error: &io::Error) -> StoreError {
        error_at(&self.path, error)
    }

    fn cause(&self, cause: impl Into<String>) -> StoreError {
        cause_at(&self.path, cause)
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
