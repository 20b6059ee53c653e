//! Keys that the system must not write to its swap space.
//!
//! The pages of long-lived keys are locked one by one. Locking all memory would
//! take as much of `RLIMIT_MEMLOCK` as the process may ever have, or make a later
//! allocation fail. A page stays locked until the end, also when its key is gone:
//! another key may lie in it. What lives for one session is not locked.

use std::io;

use crate::keys::KeyRing;

/// Keeps every key of `ring` out of the swap space.
///
/// # Errors
/// When the system refuses, as with `RLIMIT_MEMLOCK` of 0; the keys work all the same.
pub fn lock(ring: &KeyRing) -> io::Result<()> {
    for key in ring.iter() {
        let bytes = key.secret().expose();
        let guard = region::lock(bytes.as_ptr(), bytes.len());
        std::mem::forget(guard.map_err(region::Error::into_io_error)?);
    }
    Ok(())
}
