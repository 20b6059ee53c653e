//! The time on this host's clock, for back ends: the pure parts get it as an argument.

use std::time::SystemTime;

use knockpipe_base::unix_time::UnixMillis;

/// Returns the time.
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
