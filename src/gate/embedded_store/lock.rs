//! The file of an embedded store, opened and held against other writers.
//!
//! Permissions are checked here, on the opened file, and the reasons why it cannot be used are
//! put into words. Its content is left to `file`.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::Mode;

use super::super::store::StoreError;
use super::permissions;
use crate::files::place::{FileId, Place, is_link};

/// The longest that another writer may hold the lock.
const LOCK: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(2);
/// For the owner alone.
pub(super) const OWN: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// The file, held against other writers, and its directory.
pub(super) struct Locked {
    pub(super) file: Flock<File>,
    pub(super) place: Place,
}

// === impl Locked ===

impl Locked {
    /// Opens and locks the file that has the path now; makes it when there is none.
    pub(super) fn make(path: &Path) -> Result<Self, StoreError> {
        Self::hold(path, Self::open_or_make)
    }

    /// Opens and locks the file that has the path now. One that is gone is a store
    /// that is unavailable: an empty one in its place would say that no address is allowed.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        Self::hold(path, |place| open(place, OFlag::O_RDWR | OFlag::O_APPEND))
    }

    /// The place of the file.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    fn hold(path: &Path, open: fn(&Place) -> Result<File, StoreError>) -> Result<Self, StoreError> {
        let failed = |error: &io::Error| error_at(path, error);
        let place = Place::find(path).map_err(|error| failed(&error))?;
        let until = Instant::now() + LOCK;
        loop {
            let locked = Self::wait(open(&place)?, until).map_err(|errno| match errno {
                Errno::EWOULDBLOCK => {
                    cause_at(path, "another process holds its lock for 10 s; see which: fuser FILE")
                }
                errno => failed(&errno.into()),
            })?;
            // Another writer may have put a new file in its place meanwhile.
            let here = locked.metadata().map_err(|error| failed(&error))?;
            if place.holds(id(&here)) {
                return Ok(Self { file: locked, place });
            }
        }
    }

    fn open_or_make(place: &Place) -> Result<File, StoreError> {
        let flags = OFlag::O_RDWR | OFlag::O_APPEND;
        let failed = |error: &io::Error| error_at(place.path(), error);
        loop {
            // Only what was made just now may be given away.
            match place.open(flags | OFlag::O_CREAT | OFlag::O_EXCL, OWN) {
                Ok(file) => {
                    let given = permissions::give_away(&file, place);
                    return given.map(|()| file).map_err(|error| failed(&error));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(&error)),
            }
            match open(place, flags) {
                Err(StoreError::File { .. }) if place.is_free() => {}
                opened => return opened,
            }
        }
    }

    fn wait(mut file: File, until: Instant) -> Result<Flock<File>, Errno> {
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(locked),
                Err((back, Errno::EWOULDBLOCK)) if Instant::now() < until => file = back,
                Err((_, errno)) => return Err(errno),
            }
            std::thread::sleep(LOCK_POLL);
        }
    }
}

/// Opens the file that has the name now, if it can be used.
pub(super) fn open(place: &Place, flags: OFlag) -> Result<File, StoreError> {
    let path = place.path();
    let file = place.open(flags, Mode::empty()).map_err(|error| error_at(path, &error))?;
    let seen = file.metadata().map_err(|error| error_at(path, &error))?;
    permissions::check_file(&seen, place).map_err(|cause| cause_at(path, cause))?;
    Ok(file)
}

pub(super) fn error_at(path: &Path, error: &io::Error) -> StoreError {
    if is_link(error) {
        let remedy = "no link of another user is followed, and none in the place of the file";
        return cause_at(path, format!("{error}; {remedy}: give the path that it leads to"));
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        return cause_at(path, permissions::refusal(path));
    }
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "make its directory, or name another file",
        io::ErrorKind::StorageFull => "free space on its disk",
        _ => "see whether the disk is well",
    };
    cause_at(path, format!("{error}; {remedy}"))
}

pub(super) fn cause_at(path: &Path, cause: impl Into<String>) -> StoreError {
    StoreError::File { path: path.display().to_string(), cause: cause.into() }
}

pub(super) fn id(seen: &fs::Metadata) -> FileId {
    FileId::from(seen)
}
