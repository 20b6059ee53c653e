//! Key files on disk: their permissions, and the creation of new ones.
//!
//! `keys::file` interprets the content. The mode is checked on the open file, not on its name, and
//! a new file is never readable by others, not even for an instant.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use rand::TryRng;
use rand::rngs::SysRng;

pub use super::secret_file::{Access, Name, is_stdin};

use super::credentials::is_systemd_credential;
use super::secret_file::{OPEN_TO_OTHERS, rightful};
use crate::files::place::{FileId, Place, user_name};
use crate::files::read::{Kind, ReadError, all_of, foreign_owner, open};
use crate::keys::Key;
use crate::keys::file::{self, BadKey, LONGEST};
use crate::secret::Secret;

/// Cause of a key file that was not read or not written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is no such file.
    #[error(
        "there is no key file {0}; copy it from the other host, which has to have the same one; on the first host, 'knockpipe keygen {0}' makes it"
    )]
    Missing(Name),
    /// Opening or reading failed otherwise.
    #[error("cannot read key file {0}: {1}; check its path and who may read it")]
    Unreadable(Name, ReadError),
    /// A directory.
    #[error("key file {0} is a directory; give the file in it")]
    Directory(Name),
    /// A pipe, a socket or a device.
    #[error(
        "key file {0} is {1}, which might block for ever and could not be read again; give a file, or - for standard input"
    )]
    NoFile(Name, Kind),
    /// It belongs to a user who is neither root nor the one that the process runs as.
    #[error(
        "key file {name} belongs to {owner}, who could change it; run 'chown {to} {name}', or run this as {owner}"
    )]
    Foreign {
        /// The file.
        name: Name,
        /// Its owner.
        owner: String,
        /// The user that it should belong to.
        to: String,
    },
    /// Group or others can read or change it.
    #[error(
        "key file {name} is open to other users (mode {mode:04o}); run 'chmod 600 {name}', or accept it with --allow-readable-key"
    )]
    OpenToOthers {
        /// The file.
        name: Name,
        /// Its permission bits.
        mode: u32,
    },
    /// More than 1 MiB.
    #[error("key file {0} is larger than 1 MiB; that is hardly a key, give another file")]
    TooLong(Name),
    /// Its bytes are not a key.
    #[error("key file {0} {1}")]
    Bad(Name, BadKey),
    /// A new key would have replaced a file.
    #[error("{0} exists already and is never overwritten; give another name, or move it away")]
    Exists(Name),
    /// A new file cannot be made.
    #[error(
        "cannot create {0}: {1}; check that its directory exists, that no link of another user leads there, and that you may write there"
    )]
    Uncreatable(Name, io::Error),
    /// The new file was made but not written; it was removed again.
    #[error("cannot write {0}: {1}; make room and run it again")]
    Unwritable(Name, io::Error),
    /// The system has no random numbers.
    #[error("the operating system gave no random numbers: {0}; try again later")]
    NoRandomness(String),
}

/// Reads the key in the file at `path`; `-` is standard input, to its end.
///
/// # Errors
/// [`KeyFileError`]: missing, no file, another user's, accessible to others, too long, not a key.
pub fn read(path: &Path, access: Access) -> Result<Key, KeyFileError> {
    let name = Name(path.to_owned());
    let wrong = |error| refused(name.clone(), error);
    let file = if is_stdin(path) {
        // Not through `io::stdin()`: its buffer would keep the key.
        File::from(io::stdin().as_fd().try_clone_to_owned().map_err(|error| wrong(error.into()))?)
    } else {
        let (file, seen) = open(path).map_err(wrong)?;
        check(path, &seen, access, &name)?;
        file
    };
    let bytes = all_of(file, LONGEST).map_err(wrong)?;
    file::parse(&bytes).map_err(|bad| KeyFileError::Bad(name, bad))
}

/// Makes a new random key and writes it to a new file of mode 0600.
///
/// The key is on disk when this returns; after an error there is no file.
///
/// # Errors
/// [`KeyFileError`], also when something of that name exists.
pub fn create(path: &Path) -> Result<Key, KeyFileError> {
    let key = random_key()?;
    let name = || Name(path.to_owned());
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => KeyFileError::Exists(name()),
        _ => KeyFileError::Uncreatable(name(), error),
    };
    let place = Place::find(path).map_err(failed)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let mut file = place.open(flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
    let written = file.write_all(file::encode(&key).as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Nothing more can be done when this fails too; the first error is reported.
        let _ = file.metadata().and_then(|made| place.remove(FileId::from(&made)));
        return Err(KeyFileError::Unwritable(name(), error));
    }
    Ok(key)
}

fn refused(name: Name, error: ReadError) -> KeyFileError {
    match error {
        ReadError::System(error) if error.kind() == io::ErrorKind::NotFound => {
            KeyFileError::Missing(name)
        }
        ReadError::Kind(Kind::Directory) => KeyFileError::Directory(name),
        ReadError::Kind(kind) => KeyFileError::NoFile(name, kind),
        ReadError::TooLong(_) => KeyFileError::TooLong(name),
        error @ ReadError::System(_) => KeyFileError::Unreadable(name, error),
    }
}

fn check(
    path: &Path,
    seen: &fs::Metadata,
    access: Access,
    name: &Name,
) -> Result<(), KeyFileError> {
    let name = || name.clone();
    if let Some(owner) = foreign_owner(seen, access.user) {
        let owner = user_name(owner);
        let to = rightful(access.user);
        return Err(KeyFileError::Foreign { name: name(), owner, to });
    }
    let is_open = seen.mode() & OPEN_TO_OTHERS != 0;
    if is_open && !access.by_others && !is_systemd_credential(path, seen) {
        let mode = seen.mode() & 0o7777;
        return Err(KeyFileError::OpenToOthers { name: name(), mode });
    }
    Ok(())
}

fn random_key() -> Result<Key, KeyFileError> {
    let mut outcome = Ok(());
    let secret = Secret::filled_by(|bytes| outcome = SysRng.try_fill_bytes(bytes));
    outcome.map_err(|error| KeyFileError::NoRandomness(error.to_string()))?;
    Ok(Key::new(secret))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    const PRIVATE: Access = Access { by_others: false, user: None };
    const OPEN: Access = Access { by_others: true, user: None };

    fn file(dir: &TempDir, mode: u32, bytes: &[u8]) -> PathBuf {
        let path = dir.path().join("key");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_created_key_is_private_and_reads_back() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("key");
        let key = create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(read(&path, PRIVATE).unwrap().id(), key.id());
        let bytes = fs::read(&path).unwrap();
        assert!(matches!(create(&path).unwrap_err(), KeyFileError::Exists(_)));
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn two_created_keys_differ() {
        let dir = TempDir::new().unwrap();
        let ids = ["a", "b"].map(|name| create(&dir.path().join(name)).unwrap().id());
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn open_modes_are_refused_unless_accepted() {
        let dir = TempDir::new().unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602, 0o644] {
            let path = file(&dir, mode, &[7; 32]);
            let error = read(&path, PRIVATE).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
            assert!(error.contains(&format!("{mode:04o}")), "{error}");
            read(&path, OPEN).unwrap();
        }
        for mode in [0o600, 0o400, 0o700] {
            read(&file(&dir, mode, &[7; 32]), PRIVATE).unwrap();
        }
    }

    #[test]
    fn a_link_is_judged_by_the_file_behind_it() {
        let dir = TempDir::new().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(file(&dir, 0o600, &[7; 32]), &link).unwrap();
        read(&link, PRIVATE).unwrap();
    }

    #[test]
    fn size_is_capped() {
        let dir = TempDir::new().unwrap();
        read(&file(&dir, 0o600, &vec![1; LONGEST]), PRIVATE).unwrap();
        let error = read(&file(&dir, 0o600, &vec![1; LONGEST + 1]), PRIVATE);
        assert!(matches!(error.unwrap_err(), KeyFileError::TooLong(_)));
    }

    #[test]
    fn a_failed_creation_leaves_nothing() {
        let dir = TempDir::new().unwrap();
        let error = create(&dir.path().join("no/such/key")).unwrap_err();
        assert!(matches!(error, KeyFileError::Uncreatable(..)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn names_stay_on_one_line() {
        let error = read(Path::new("/nowhere/a\nb"), PRIVATE).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1);
        assert_eq!(Name(PathBuf::from("-")).to_string(), "on standard input");
    }
}
