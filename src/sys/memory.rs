//! Locks keys in memory, so that the system cannot write them to its swap space.
//!
//! The pages of long-lived keys are locked one by one. Locking all memory would need an
//! `RLIMIT_MEMLOCK` for the largest size of the process, or make a later allocation fail. A page
//! stays locked until the end, even when its key is gone: it may contain another key. A key that
//! lives for one session is not locked.

use std::io;

use crate::keys::{Key, KeyRing};
use crate::secret::Secret;

/// Keeps every key of `rings` out of the swap space, as far as that is possible.
///
/// # Errors
/// The error of the first key that the system refuses, as with `RLIMIT_MEMLOCK` of 0; all others
/// are tried, and the keys work all the same.
pub fn lock<'a>(rings: impl Iterator<Item = &'a KeyRing>) -> io::Result<()> {
    try_all(rings.flat_map(KeyRing::iter).flat_map(Key::secrets).map(lock_one))
}

fn lock_one(secret: &Secret<32>) -> io::Result<()> {
    let bytes = secret.expose();
    let guard = region::lock(bytes.as_ptr(), bytes.len()).map_err(region::Error::into_io_error)?;
    std::mem::forget(guard);
    Ok(())
}

/// Makes all `attempts`, even if some fail. Returns the first error.
fn try_all(attempts: impl Iterator<Item = io::Result<()>>) -> io::Result<()> {
    attempts.fold(Ok(()), io::Result::and)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_fails_does_not_keep_others_from_being_tried() {
        let mut tried = vec![];
        let attempts = ["a", "b", "c"].into_iter().map(|name| {
            tried.push(name);
            if name == "a" { Ok(()) } else { Err(io::Error::other(name)) }
        });
        assert_eq!(try_all(attempts).unwrap_err().to_string(), "b", "the first is told");
        assert_eq!(tried, ["a", "b", "c"]);
    }
}
