//! The file of tokens that may knock over HTTP: read, added to, and written anew without one.
//!
//! The same rule applies as to a key file: only its owner may read or change it. A user who can
//! change it can let in any address.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::Mode;

use super::secret_file::{Access, Name};
use super::tls_key::{self, TlsKeyError};
use crate::files::place::Place;
use crate::files::text::text;

/// Flag that names the file.
const FLAG: &str = "--tokens";

/// Cause of a tokens file that was not read or not written.
#[derive(Debug, thiserror::Error)]
pub enum TokensFileError {
    /// Reading failed, or others may read or change it.
    #[error(transparent)]
    Read(#[from] TlsKeyError),
    /// It is no UTF-8.
    #[error("{FLAG} {0} is no UTF-8 text; save it as UTF-8")]
    NoText(Name),
    /// Writing failed.
    #[error("cannot write {FLAG} {0}: {1}; check its directory, and that you may write there")]
    Unwritable(Name, io::Error),
}

/// Reads the text of the file.
///
/// # Errors
/// [`TokensFileError`]; it repeats nothing of the content.
pub fn read(path: &Path, access: Access) -> Result<String, TokensFileError> {
    let bytes = tls_key::read(FLAG, path, access)?;
    let text = text(&bytes).map_err(|_| TokensFileError::NoText(Name(path.to_owned())))?;
    Ok(text.to_owned())
}

/// Returns true if there is such a file.
pub fn exists(path: &Path) -> bool {
    fs::metadata(path).is_ok()
}

/// Adds the line that `make` returns for the present content; makes the file, readable by its owner
/// alone, if there is none. The line is on disk when this returns. No other command changes the file
/// meanwhile.
///
/// # Errors
/// [`TokensFileError`], or that of `make`; then nothing is added.
pub fn append<E: From<TokensFileError>>(
    path: &Path,
    make: impl FnOnce(&str) -> Result<String, E>,
) -> Result<(), E> {
    let failed = |error| TokensFileError::Unwritable(Name(path.to_owned()), error);
    let place = Place::find(path).map_err(failed)?;
    let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CREAT;
    let (mut file, content) = opened(&place, path, flags).map_err(failed)?;
    let line = make(&content)?;
    let before = if content.is_empty() || content.ends_with('\n') { "" } else { "\n" };
    let written = file.write_all(format!("{before}{line}\n").as_bytes());
    let written = written.and_then(|()| file.sync_all()).and_then(|()| place.sync());
    Ok(written.map_err(failed)?)
}

/// Writes the file anew, with what `edit` makes of each line. A process that reads it has the old
/// content or the new one.
///
/// # Errors
/// [`TokensFileError`]
pub fn rewrite(path: &Path, edit: impl FnMut(&str) -> String) -> Result<(), TokensFileError> {
    let failed = |error| TokensFileError::Unwritable(Name(path.to_owned()), error);
    let place = Place::find(path).map_err(failed)?;
    let (old, content) = opened(&place, path, OFlag::O_RDONLY).map_err(failed)?;
    let edited: String = content.split_inclusive('\n').map(edit).collect();
    replace(&place, &old, &edited).map_err(failed)
}

/// Puts a file with this content in the place of `old`, with its owner and mode.
fn replace(place: &Place, old: &File, content: &str) -> io::Result<()> {
    let seen = old.metadata()?;
    let mut name = place.name().to_owned();
    name.push(".new");
    let new = place.beside(&name);
    // One that a process left when it was killed.
    let _ = new.remove_any();
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let mut file = new.open(flags, Mode::from_bits_truncate(seen.mode() & 0o600))?;
    let is_made = file
        .write_all(content.as_bytes())
        .and_then(|()| fchown(&file, Some(seen.uid()), Some(seen.gid())))
        .and_then(|()| file.set_permissions(seen.permissions()))
        .and_then(|()| file.sync_all())
        .and_then(|()| new.rename(place.name()));
    if let Err(error) = is_made {
        let _ = new.remove_any();
        return Err(error);
    }
    place.sync()
}

/// Opens the file once no other command changes it, and reads it.
fn opened(place: &Place, path: &Path, flags: OFlag) -> io::Result<(Flock<File>, String)> {
    loop {
        let file = place.open(flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let file = Flock::lock(file, FlockArg::LockExclusive);
        let file = file.map_err(|(_, errno)| io::Error::from(errno))?;
        let id = |seen: &fs::Metadata| (seen.dev(), seen.ino());
        let locked = id(&file.metadata()?);
        // While this one waited, another file may have taken its place.
        if fs::metadata(path).is_ok_and(|there| id(&there) == locked) {
            let mut content = String::new();
            (&*file).read_to_string(&mut content)?;
            return Ok((file, content));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn add(path: &Path, line: &str) {
        append(path, |_| Ok::<_, TokensFileError>(line.to_owned())).unwrap();
    }

    fn without(path: &Path, taken: &str) {
        let edit = |line: &str| if line == taken { String::new() } else { line.to_owned() };
        rewrite(path, edit).unwrap();
    }

    /// Each waits for the lock of a file that the one before replaces.
    #[test]
    fn changes_at_once_lose_none_and_bring_none_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        (0..40).for_each(|number| add(&path, &format!("old{number}")));
        std::thread::scope(|scope| {
            for number in 0..40 {
                let path = &path;
                scope.spawn(move || without(path, &format!("old{number}\n")));
                scope.spawn(move || add(path, &format!("new{number}")));
            }
        });
        let mut left: Vec<String> =
            read(&path, PRIVATE).unwrap().lines().map(str::to_owned).collect();
        left.sort();
        let mut expected: Vec<String> = (0..40).map(|number| format!("new{number}")).collect();
        expected.sort();
        assert_eq!(left, expected);
    }

    const PRIVATE: Access = Access { by_others: false, user: None };

    #[test]
    fn lines_are_added_and_taken_out_of_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        add(&path, "one");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        fs::write(&path, "one\ntwo").unwrap();
        add(&path, "three");
        assert_eq!(read(&path, PRIVATE).unwrap(), "one\ntwo\nthree\n");
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        without(&path, "two\n");
        assert_eq!(read(&path, PRIVATE).unwrap(), "one\nthree\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o400);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_others_may_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        add(&path, "one");
        fs::set_permissions(&path, Permissions::from_mode(0o660)).unwrap();
        let error = read(&path, PRIVATE).unwrap_err().to_string();
        assert!(error.contains("--tokens") && error.contains("chmod 600"), "{error}");
        assert!(read(&path, Access { by_others: true, user: None }).is_ok());
        let error = read(&dir.path().join("none"), PRIVATE).unwrap_err().to_string();
        assert!(error.starts_with("cannot read --tokens"), "{error}");
    }
}
