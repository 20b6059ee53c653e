//! Limit and number of open files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard limit and returns the limit in force, in
/// descriptors; `u64::MAX` is no limit.
///
/// # Errors
/// When the system does not tell the limit. A limit that cannot be raised is
/// not an error: the one in force is returned.
pub fn raise() -> std::io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Ok(hard);
    }
    Ok(soft)
}

/// Returns the number of descriptors that the process has open; `None` when the system does not
/// tell, as where /proc is out of reach.
pub fn used() -> Option<u64> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is the directory itself.
    u64::try_from(open).ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let raised = raise().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!((raised, soft), (hard, hard));
    }

    #[test]
    fn open_descriptors_are_counted() {
        // Other tests open and close files meanwhile.
        assert!((3..10_000).contains(&used().unwrap()));
    }
}
