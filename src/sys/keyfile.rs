//! Key files on disk: who may read them, and how a new one comes to be.
//!
//! What stands in them is `keys::file`'s business. The mode is checked on the
//! open file, not on its name, and a new file is never readable by others, not
//! even for an instant.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use crate::keys::Key;
use crate::keys::file::{self, BadKey};
use crate::secret::Secret;

/// The most bytes a key file may have: 1 MiB. More is a mistake, such as a
/// device that never ends.
const LONGEST: usize = 1 << 20;

/// Permission bits that let group or others read or change a file.
pub(super) const OPEN_TO_OTHERS: u32 = 0o066;

/// Whose reach of a key file is put up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only the owner may read or change it.
    OwnerOnly,
    /// Group and others may too: the user said so.
    Anyone,
}

/// Why a key file was not read or not written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// No such file.
    #[error("there is no key file {0}; make one with 'knockpipe keygen {0}', or copy it here")]
    Missing(Name),
    /// Opening or reading failed otherwise.
    #[error("cannot read key file {0}: {1}; check its path and who may read it")]
    Unreadable(Name, io::Error),
    /// A directory.
    #[error("key file {0} is a directory; give the file in it")]
    Directory(Name),
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
    #[error("cannot create {0}: {1}; check that its directory exists and that you may write there")]
    Uncreatable(Name, io::Error),
    /// The new file was made but not written; it was removed again.
    #[error("cannot write {0}: {1}; make room and run it again")]
    Unwritable(Name, io::Error),
    /// No random numbers.
    #[error("the operating system gave no random numbers: {0}; try again later")]
    NoRandomness(String),
}

/// A key file's name in a message; `-` reads as standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub(super) PathBuf);

/// Reads the key in the file at `path`; `-` is standard input, to its end.
///
/// # Errors
/// [`KeyFileError`]: missing, open to others, too long, not a key.
pub fn read(path: &Path, access: Access) -> Result<Key, KeyFileError> {
    let name = Name(path.to_owned());
    let unreadable = |error| KeyFileError::Unreadable(name.clone(), error);
    let file = if is_stdin(path) {
        // Not through `io::stdin()`: its buffer would keep the key.
        File::from(io::stdin().as_fd().try_clone_to_owned().map_err(unreadable)?)
    } else {
        let file = open(path)?;
        check(&file.metadata().map_err(unreadable)?, access, &name)?;
        file
    };
    let bytes = read_all(file).map_err(unreadable)?;
    if bytes.len() > LONGEST {
        return Err(KeyFileError::TooLong(name));
    }
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
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
            let name = Name(path.to_owned());
            match error.kind() {
                io::ErrorKind::AlreadyExists => KeyFileError::Exists(name),
                _ => KeyFileError::Uncreatable(name, error),
            }
        })?;
    let written = file.write_all(file::encode(&key).as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Nothing more can be done when this fails too; the first error is the one to tell.
        let _ = fs::remove_file(path);
        return Err(KeyFileError::Unwritable(Name(path.to_owned()), error));
    }
    Ok(key)
}

/// Whether `path` stands for standard input.
pub fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn open(path: &Path) -> Result<File, KeyFileError> {
    File::open(path).map_err(|error| {
        let name = Name(path.to_owned());
        match error.kind() {
            io::ErrorKind::NotFound => KeyFileError::Missing(name),
            _ => KeyFileError::Unreadable(name, error),
        }
    })
}

fn check(metadata: &fs::Metadata, access: Access, name: &Name) -> Result<(), KeyFileError> {
    if metadata.is_dir() {
        return Err(KeyFileError::Directory(name.clone()));
    }
    if access == Access::OwnerOnly && metadata.mode() & OPEN_TO_OTHERS != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(KeyFileError::OpenToOthers { name: name.clone(), mode });
    }
    Ok(())
}

/// At most one byte more than [`LONGEST`], so that too long shows.
fn read_all(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    // All the room at once (the system only backs what is used): a vector that
    // grows leaves copies of the key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST + 64));
    file.take(LONGEST as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn random_key() -> Result<Key, KeyFileError> {
    let mut outcome = Ok(());
    let secret = Secret::filled_by(|bytes| outcome = SysRng.try_fill_bytes(bytes));
    outcome.map_err(|error| KeyFileError::NoRandomness(error.to_string()))?;
    Ok(Key::new(secret))
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if is_stdin(&self.0) {
            return f.write_str("on standard input");
        }
        // A line break in a name must not make two lines of one message.
        let name = self.0.to_string_lossy();
        if name.is_empty() || name.contains(char::is_control) {
            return write!(f, "{:?}", self.0);
        }
        f.write_str(&name)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

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
        assert_eq!(read(&path, Access::OwnerOnly).unwrap().id(), key.id());
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
            let error = read(&path, Access::OwnerOnly).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
            assert!(error.contains(&format!("{mode:04o}")), "{error}");
            read(&path, Access::Anyone).unwrap();
        }
        for mode in [0o600, 0o400, 0o700] {
            read(&file(&dir, mode, &[7; 32]), Access::OwnerOnly).unwrap();
        }
    }

    #[test]
    fn a_link_is_judged_by_the_file_behind_it() {
        let dir = TempDir::new().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(file(&dir, 0o600, &[7; 32]), &link).unwrap();
        read(&link, Access::OwnerOnly).unwrap();
    }

    #[test]
    fn size_is_capped() {
        let dir = TempDir::new().unwrap();
        read(&file(&dir, 0o600, &vec![1; LONGEST]), Access::OwnerOnly).unwrap();
        let error = read(&file(&dir, 0o600, &vec![1; LONGEST + 1]), Access::OwnerOnly);
        assert!(matches!(error.unwrap_err(), KeyFileError::TooLong(_)));
        let endless = read(Path::new("/dev/zero"), Access::Anyone);
        assert!(matches!(endless.unwrap_err(), KeyFileError::TooLong(_)));
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
        let error = read(Path::new("/nowhere/a\nb"), Access::OwnerOnly).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1);
        assert_eq!(Name(PathBuf::from("-")).to_string(), "on standard input");
    }
}
