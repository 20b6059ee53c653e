//! Buffers that a connection borrows while bytes are moving and gives back when it idles.
//!
//! There are three sizes: two records, eight, and 32. A connection begins with the small one, takes
//! the next larger one while reads fill the space that they get (the large one only where its
//! reader keeps up), and holds none while it waits. Each thread keeps a few for the next borrower,
//! so that moving bytes takes no lock and no allocation.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use tokio::task::yield_now;

use crate::proto::Session;
use crate::proto::record::RecordGeometry;

/// Layout of the records that buffers hold.
pub(super) const RECORD: RecordGeometry = Session::GEOMETRY;

/// Records in a small buffer: enough for an answer of 16 KiB with its framing.
const SMALL_RECORDS: usize = 2;

/// Records in a medium buffer: 128 KiB.
const MEDIUM_RECORDS: usize = 8;

/// Records in a large buffer: 512 KiB. docs/BENCHMARKS.md has the cost of fewer.
pub(super) const LARGE_RECORDS: usize = 32;

/// Highest number of large buffers in use: 32 MiB. A stalled connection keeps its buffer, and where
/// many connections move much data at once, large buffers gain nothing.
const MOST_LARGE: usize = 64;

/// Number of each size that a thread keeps: 256 KiB of small ones, 256 KiB of medium
/// ones, 1 MiB of large ones.
const KEPT: [usize; 3] = [8, 2, 2];

thread_local! {
    static POOL: RefCell<[Vec<Box<[u8]>>; 3]> =
        const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

static LARGE_IN_USE: AtomicUsize = AtomicUsize::new(0);

/// A small buffer was used since a connection last yielded to those that use them.
static SMALL_USED: AtomicBool = AtomicBool::new(false);

/// Size of the buffer for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Size {
    /// [`SMALL_RECORDS`] records.
    Small,
    /// [`MEDIUM_RECORDS`] records.
    Medium,
    /// [`LARGE_RECORDS`] records.
    Large,
}

/// A borrowed buffer; dropping it gives it back.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    size: Size,
}

impl Size {
    /// Returns the size for the read after one that gave `got` bytes into `room`: larger once a
    /// read filled its space, small once it gave less than a record. Large only if the write before
    /// it had not `waited`: where the reader is slow, more space gains nothing.
    pub(super) fn after(self, got: usize, room: usize, waited: bool) -> Self {
        match self {
            Self::Small if got == room => Self::Medium,
            Self::Medium if got == room && !waited => Self::Large,
            _ if got < RECORD.max_record => Self::Small,
            same => same,
        }
    }

    /// Yields to other connections after each large buffer, so that small requests beside a bulk
    /// transfer wait no longer than one buffer takes. If there are such requests, the thread yields
    /// too: they also pass through the application, its peer and the far end, which may need this
    /// processor.
    pub(super) async fn yield_after_bulk(self) {
        if self > Self::Small {
            if SMALL_USED.swap(false, Ordering::Relaxed) {
                thread::yield_now();
            }
            yield_now().await;
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Small => SMALL_RECORDS * RECORD.max_record,
            Self::Medium => MEDIUM_RECORDS * RECORD.max_record,
            Self::Large => LARGE_RECORDS * RECORD.max_record,
        }
    }
}

impl Buffer {
    /// Takes a buffer with unspecified content: write before reading from it. It is smaller than
    /// requested when too many large ones are in use.
    pub(super) fn take(size: Size) -> Self {
        if size == Size::Small {
            SMALL_USED.store(true, Ordering::Relaxed);
        }
        let size = match size {
            Size::Large if LARGE_IN_USE.fetch_add(1, Ordering::Relaxed) >= MOST_LARGE => {
                LARGE_IN_USE.fetch_sub(1, Ordering::Relaxed);
                Size::Medium
            }
            size => size,
        };
        let kept = POOL.with_borrow_mut(|pool| pool[size as usize].pop());
        let bytes = kept.unwrap_or_else(|| vec![0; size.len()].into_boxed_slice());
        Self { bytes, size }
    }

    /// Returns a larger buffer with the same bytes at its front.
    pub(super) fn grown(&self, size: Size) -> Self {
        let mut larger = Self::take(size);
        larger[..self.len()].copy_from_slice(self);
        larger
    }

    /// Returns its size.
    pub(super) fn size(&self) -> Size {
        self.size
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if self.size == Size::Large {
            LARGE_IN_USE.fetch_sub(1, Ordering::Relaxed);
        }
        // At the end of a thread the pool may be gone; then the buffer is simply freed.
        let _ = POOL.try_with(|pool| {
            let pool = &mut pool.borrow_mut()[self.size as usize];
            if pool.len() < KEPT[self.size as usize] {
                pool.push(bytes);
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_serves_again_and_no_more_are_kept_than_allowed() {
        let mut first = Buffer::take(Size::Large);
        first[0] = 42;
        drop(first);
        assert_eq!(Buffer::take(Size::Large)[0], 42);
        let many: Vec<Buffer> = (0..10).map(|_| Buffer::take(Size::Large)).collect();
        drop(many);
        POOL.with_borrow(|pool| assert_eq!(pool[Size::Large as usize].len(), 2));
    }

    #[test]
    fn only_so_many_large_ones_are_lent_at_once() {
        let many: Vec<Buffer> = (0..2 * MOST_LARGE).map(|_| Buffer::take(Size::Large)).collect();
        let large = many.iter().filter(|buffer| buffer.size() == Size::Large).count();
        // Other tests of this process borrow some.
        assert!((MOST_LARGE - 16..=MOST_LARGE).contains(&large), "{large}");
        assert!(many.iter().all(|buffer| buffer.size() >= Size::Medium));
        drop(many);
        assert_eq!(Buffer::take(Size::Large).size(), Size::Large);
    }

    #[test]
    fn size_follows_the_reads() {
        let after = |size: Size, got, room| size.after(got, room, false);
        assert_eq!(after(Size::Small, 100, 100), Size::Medium);
        assert_eq!(after(Size::Medium, 100, 100), Size::Large);
        assert_eq!(after(Size::Large, 60_000, 100_000), Size::Large);
        assert_eq!(after(Size::Large, 10, 100_000), Size::Small);
        assert_eq!(after(Size::Small, 10, 16_000), Size::Small);
    }

    #[test]
    fn a_reader_that_is_waited_for_gets_no_large_buffer() {
        let filled = |size: Size| size.after(size.len(), size.len(), true);
        assert_eq!(filled(Size::Small), Size::Medium);
        assert_eq!(filled(Size::Medium), Size::Medium);
        assert_eq!(filled(Size::Large), Size::Large);
    }
}
