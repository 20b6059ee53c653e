//! Buffers that a connection borrows while bytes are moving and gives back when it idles.
//!
//! There are two sizes: one record, and eight. A connection begins with the
//! small one, takes the large one while reads fill what they are given, and
//! holds none while it waits. Each thread keeps a few for the next borrower, so
//! that moving bytes takes no lock and no allocation.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use crate::proto::record::MAX_RECORD;

/// Records in a large buffer: 128 KiB, so that a stalled connection, which may
/// hold one in each direction, stays below 256 KiB beyond the kernel's own.
pub(super) const LARGE_RECORDS: usize = 8;

/// How many of each size a thread keeps: 256 KiB of small ones, 256 KiB of large ones.
const KEPT: [usize; 2] = [16, 2];

thread_local! {
    static POOL: RefCell<[Vec<Box<[u8]>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// How much room the next read gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Size {
    /// One record.
    Small,
    /// [`LARGE_RECORDS`] records.
    Large,
}

/// A borrowed buffer; dropping it gives it back.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    size: Size,
}

impl Size {
    /// The size for the read after one that gave `got` bytes out of `room`:
    /// large once a read filled what it was given, small once it came with
    /// less than a record.
    pub(super) fn after(self, got: usize, room: usize) -> Self {
        if got == room {
            Self::Large
        } else if got < MAX_RECORD {
            Self::Small
        } else {
            self
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Small => MAX_RECORD,
            Self::Large => LARGE_RECORDS * MAX_RECORD,
        }
    }
}

impl Buffer {
    /// A buffer with unspecified content: what is read from it must be written first.
    pub(super) fn take(size: Size) -> Self {
        let kept = POOL.with_borrow_mut(|pool| pool[size as usize].pop());
        let bytes = kept.unwrap_or_else(|| vec![0; size.len()].into_boxed_slice());
        Self { bytes, size }
    }

    /// The size that was asked for.
    pub(super) fn size(&self) -> Size {
        self.size
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // At the end of a thread the pool may be gone; then the buffer just goes too.
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
    fn size_follows_the_reads() {
        assert_eq!(Size::Small.after(100, 100), Size::Large);
        assert_eq!(Size::Large.after(60_000, 100_000), Size::Large);
        assert_eq!(Size::Large.after(10, 100_000), Size::Small);
        assert_eq!(Size::Small.after(10, 16_000), Size::Small);
    }
}
