//! The file of tokens that may knock over HTTP: read, added to, and written anew without one.
//!
//! The same rule applies as to a key file: only its owner may read or change it. A user who can
//! change it can let in any address.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
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

/// Adds a line at the end; makes the file, readable by its owner alone, if there is none. The line
/// is on disk when this returns.
///
/// # Errors
/// [`TokensFileError`]
pub fn append(path: &Path, line: &str) -> Result<(), TokensFileError> {
    let failed = |error| TokensFileError::Unwritable(Name(path.to_owned()), error);
    let place = Place::find(path).map_err(failed)?;
    let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CREAT;
    let file = place.open(flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
    let mut file = locked(file).map_err(failed)?;
    let lines = if ends_in_a_line(&mut file).map_err(failed)? { "" } else { "\n" };
    let written = file.write_all(format!("{lines}{line}\n").as_bytes());
    written.and_then(|()| file.sync_all()).and_then(|()| place.sync()).map_err(failed)
}

/// Writes the file anew with the lines that `keep` chooses. A process that reads it has the old
/// content or the new one.
///
/// # Errors
/// [`TokensFileError`]
pub fn retain(path: &Path, keep: impl Fn(&str) -> bool) -> Result<(), TokensFileError> {
    let failed = |error| TokensFileError::Unwritable(Name(path.to_owned()), error);
    let place = Place::find(path).map_err(failed)?;
    let old = place.open(OFlag::O_RDWR, Mode::empty()).and_then(locked).map_err(failed)?;
    let mut content = String::new();
    (&*old).read_to_string(&mut content).map_err(failed)?;
    let kept: String = content.split_inclusive('\n').filter(|line| keep(line)).collect();
    replace(&place, &old, &kept).map_err(failed)
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

/// Waits until no other command changes the file.
fn locked(file: File) -> io::Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

fn ends_in_a_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PRIVATE: Access = Access { by_others: false, user: None };

    #[test]
    fn lines_are_added_and_taken_out_of_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        append(&path, "one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        fs::write(&path, "one\ntwo").unwrap();
        append(&path, "three").unwrap();
        assert_eq!(read(&path, PRIVATE).unwrap(), "one\ntwo\nthree\n");
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        retain(&path, |line| !line.starts_with("two")).unwrap();
        assert_eq!(read(&path, PRIVATE).unwrap(), "one\nthree\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o400);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_others_may_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        append(&path, "one").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o660)).unwrap();
        let error = read(&path, PRIVATE).unwrap_err().to_string();
        assert!(error.contains("--tokens") && error.contains("chmod 600"), "{error}");
        assert!(read(&path, Access { by_others: true, user: None }).is_ok());
        let error = read(&dir.path().join("none"), PRIVATE).unwrap_err().to_string();
        assert!(error.starts_with("cannot read --tokens"), "{error}");
    }
}
