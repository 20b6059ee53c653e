//! A list of claims that several processes append to and read: a process, and the one that replaces
//! it. Each must know what the others have claimed.
//!
//! A claim is appended first, and then everything that was appended before it is read. The system
//! puts appended claims in one order, so of two processes with the same claim exactly one finds it
//! before its own. There is no lock that a halted process could hold.
//!
//! The list has no name in the file system: it goes from process to process by
//! its descriptor, and is gone with the last. Knows nothing of what is claimed.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};
use nix::libc::off_t;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek};

/// Length of a claim in bytes.
pub const CLAIM_LEN: usize = 12;

/// A value that can be claimed.
pub type Claim = [u8; CLAIM_LEN];

/// A claim with the process that made it. Its length divides the size of a page, so that an entry
/// is never written half.
const ENTRY_LEN: usize = 16;

/// The first page holds the format's name and the time since which claims are recorded.
const HEADER_LEN: u64 = 4096;

const MAGIC: &[u8; 24] = b"knockpipe claims, v1\n\0\0\0";

/// Entries that are read at once.
const BATCH: usize = 256;

/// Bytes that may be appended before old claims are forgotten early.
const LONGEST: u64 = 32 << 20;

/// A process's hold on the list.
#[derive(Debug)]
pub struct Journal {
    file: File,
    /// Tells this process's claims from others'.
    claimant: [u8; ENTRY_LEN - CLAIM_LEN],
    /// Offset where reading goes on.
    read_to: u64,
    /// Offset where the claims of this period begin.
    period_at: u64,
    period_since_ms: i64,
}

impl Journal {
    /// Makes a list that begins at `since_ms`, a time since boot. `claimant` is a
    /// number that no other process has.
    ///
    /// # Errors
    /// When the system has no memory or descriptor for it.
    pub fn create(since_ms: i64, claimant: u32) -> io::Result<Self> {
        let mut file = File::from(memfd_create("first messages", MFdFlags::MFD_CLOEXEC)?);
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
        let mut header = vec![0; HEADER_LEN as usize];
        header[..MAGIC.len()].copy_from_slice(MAGIC);
        header[MAGIC.len()..][..8].copy_from_slice(&since_ms.to_le_bytes());
        file.write_all(&header)?;
        Ok(Self::of(file, since_ms, claimant))
    }

    /// Continues the list of another process, and returns the time since which it lasts.
    ///
    /// # Errors
    /// When it is not such a list.
    pub fn adopt(descriptor: OwnedFd, claimant: u32) -> io::Result<(Self, i64)> {
        let file = File::from(descriptor);
        let mut header = [0; MAGIC.len() + 8];
        file.read_exact_at(&mut header, 0)?;
        let (magic, since) = header.split_at(MAGIC.len());
        let is_append = OFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFL)?);
        if magic != MAGIC || !is_append.contains(OFlag::O_APPEND) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no list of claims"));
        }
        let since_ms = i64::from_le_bytes(since.try_into().unwrap_or_default());
        let mut journal = Self::of(file, since_ms, claimant);
        journal.skip_forgotten()?;
        Ok((journal, since_ms))
    }

    fn of(file: File, period_since_ms: i64, claimant: u32) -> Self {
        let claimant = claimant.to_le_bytes();
        Self { file, claimant, read_to: HEADER_LEN, period_at: HEADER_LEN, period_since_ms }
    }

    /// Skips to the first claim that was not forgotten: the forgotten part may be long.
    fn skip_forgotten(&mut self) -> io::Result<()> {
        let from = off_t::try_from(HEADER_LEN).map_err(io::Error::other)?;
        // No process uses the file position: writes append, and reads name their offset.
        self.read_to = match lseek(&self.file, from, Whence::SeekData) {
            Ok(at) => u64::try_from(at).map_err(io::Error::other)?,
            Err(Errno::ENXIO) => self.file.metadata()?.len(),
            Err(error) => return Err(error.into()),
        };
        self.period_at = self.read_to;
        Ok(())
    }

    /// Duplicates the list's descriptor for another process.
    ///
    /// # Errors
    /// When there is no descriptor for it.
    pub fn share(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Makes a claim, and passes to `others` the claims that other processes made before.
    ///
    /// # Errors
    /// When the list cannot be written or read. The claim may be in it all the same.
    pub fn claim(&mut self, claim: Claim, mut others: impl FnMut(Claim)) -> io::Result<()> {
        let mut entry = [0; ENTRY_LEN];
        entry[..CLAIM_LEN].copy_from_slice(&claim);
        entry[CLAIM_LEN..].copy_from_slice(&self.claimant);
        self.file.write_all(&entry)?;
        while let Some((there, is_ours)) = self.next()? {
            if !is_ours {
                others(there);
            } else if there == claim {
                return Ok(());
            }
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a claim that was written is not there"))
    }

    /// Passes all claims of the list to `others`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&mut self, mut others: impl FnMut(Claim)) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        while self.read_to < len {
            let mut batch = [0; ENTRY_LEN * BATCH];
            let got = self.file.read_at(&mut batch, self.read_to)?;
            let (entries, _) = batch[..got].as_chunks::<ENTRY_LEN>();
            if entries.is_empty() {
                break;
            }
            // Forgotten claims read as zeros, which are no claim.
            entries.iter().filter(|entry| **entry != [0; ENTRY_LEN]).for_each(|entry| {
                others(entry.first_chunk().copied().unwrap_or_default());
            });
            self.read_to += (entries.len() * ENTRY_LEN) as u64;
        }
        Ok(())
    }

    /// Reads the next entry, and whether it is ours; `None` at the end.
    fn next(&mut self) -> io::Result<Option<(Claim, bool)>> {
        let mut entry = [0; ENTRY_LEN];
        if self.file.read_at(&mut entry, self.read_to)? < ENTRY_LEN {
            return Ok(None);
        }
        self.read_to += ENTRY_LEN as u64;
        let claim = entry.first_chunk().copied().unwrap_or_default();
        Ok(Some((claim, entry[CLAIM_LEN..] == self.claimant)))
    }

    /// Frees the space of claims that are more than `period_ms` old, now and then.
    pub fn forget(&mut self, now_ms: i64, period_ms: i64) {
        let is_over = now_ms >= self.period_since_ms.saturating_add(period_ms);
        if !is_over && self.read_to < self.period_at + LONGEST {
            return;
        }
        if let (Ok(from), Ok(len)) =
            (off_t::try_from(HEADER_LEN), off_t::try_from(self.period_at - HEADER_LEN))
            && len > 0
        {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // A failure costs memory and nothing else.
            let _ = fallocate(&self.file, hole, from, len);
        }
        (self.period_at, self.period_since_ms) = (self.read_to, now_ms);
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::fs::MetadataExt;
    use std::thread;

    use super::*;

    fn claim(number: u32) -> Claim {
        let mut claim = [7; CLAIM_LEN];
        claim[..4].copy_from_slice(&number.to_le_bytes());
        claim
    }

    /// Returns whether it was claimed for the first time.
    fn is_first(journal: &mut Journal, number: u32) -> bool {
        let mut is_first = true;
        journal.claim(claim(number), |there| is_first &= there != claim(number)).unwrap();
        is_first
    }

    #[test]
    fn what_one_has_claimed_another_finds() {
        let mut old = Journal::create(42, 1).unwrap();
        assert!(is_first(&mut old, 5));
        let (mut new, since_ms) = Journal::adopt(old.share().unwrap(), 2).unwrap();
        assert_eq!(since_ms, 42);
        let mut there = vec![];
        new.read(|claim| there.push(claim)).unwrap();
        assert_eq!(there, [claim(5)]);
        assert!(is_first(&mut new, 6) && !is_first(&mut old, 6) && is_first(&mut old, 7));
        assert!(!is_first(&mut new, 7));
    }

    #[test]
    fn of_two_with_the_same_claim_at_once_one_is_first() {
        const CLAIMS: u32 = 2_000;
        let mut one = Journal::create(0, 1).unwrap();
        let (mut two, _) = Journal::adopt(one.share().unwrap(), 2).unwrap();
        let claims = |journal: &mut Journal| -> Vec<bool> {
            let mut others = std::collections::HashSet::new();
            let mut first = |number| {
                journal
                    .claim(claim(number), |there| {
                        others.insert(there);
                    })
                    .unwrap();
                !others.contains(&claim(number))
            };
            (0..CLAIMS).map(&mut first).collect()
        };
        let other = thread::spawn(move || claims(&mut two));
        let ours = claims(&mut one);
        let theirs = other.join().unwrap();
        assert!(ours.iter().zip(&theirs).all(|(ours, theirs)| ours != theirs));
    }

    #[test]
    fn what_is_old_takes_no_room_and_hides_nothing_new() {
        let mut journal = Journal::create(0, 1).unwrap();
        let blocks = |journal: &Journal| journal.file.metadata().unwrap().st_blocks();
        let empty = blocks(&journal);
        for now_ms in 0..100 {
            for number in 0..1_000 {
                assert!(is_first(&mut journal, number));
            }
            journal.forget(now_ms * 10, 10);
        }
        assert!(blocks(&journal) - empty < 200, "{}", blocks(&journal));
        let (mut new, _) = Journal::adopt(journal.share().unwrap(), 2).unwrap();
        let mut there = vec![];
        new.read(|claim| there.push(claim)).unwrap();
        assert!(there.contains(&claim(999)) && !there.contains(&[0; CLAIM_LEN]), "{there:?}");
    }

    #[test]
    fn something_else_is_no_list() {
        let file = tempfile::tempfile().unwrap();
        assert!(Journal::adopt(file.into(), 1).is_err());
    }
}
