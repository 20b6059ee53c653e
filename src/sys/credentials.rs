//! Files that hold a user and a password for another service.
//!
//! The same rule applies as to a key file: only its owner may read or change it, checked on the
//! open file. The caller interprets the content.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::secret_file::{Access, Name, OPEN_TO_OTHERS, rightful};
use crate::files::place::{FileId, user_name};
use crate::files::read::{ReadError, all_of, foreign_owner, open};
use crate::files::text::{NotText, text};

/// Longest such file in bytes; a longer one is another kind of file.
const LONGEST: usize = 4096;

/// The variable in which systemd names the directory of a service's credentials.
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Bits that an access list of systemd adds to the mode of a credential: it looks as if root's
/// group could read the file.
const ACCESS_LIST: u32 = 0o040;

/// Cause of a file with credentials that was not read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Opening or reading failed.
    #[error(
        "cannot read credentials file {0}: {1}; check its path and who may read it, and that it is a regular file"
    )]
    Unreadable(Name, ReadError),
    /// It belongs to a user who is neither root nor the one that the process runs as.
    #[error(
        "credentials file {name} belongs to {owner}, who could change it; run 'chown {to} {name}', or run this as {owner}"
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
        "credentials file {name} is open to other users (mode {mode:04o}); run 'chmod 600 {name}', or accept it with --allow-readable-key"
    )]
    OpenToOthers {
        /// The file.
        name: Name,
        /// Its permission bits.
        mode: u32,
    },
    /// Too long, or not UTF-8.
    #[error("credentials file {0} is no short text; write USER:PASSWORD or PASSWORD into it")]
    NoText(Name),
    /// UTF-16, which some editors write by default.
    #[error("credentials file {0} is UTF-16 text; save it as UTF-8")]
    Utf16(Name),
}

/// Reads the text in the file at `path`, which only its owner may access: root, the user of this
/// process, or the one that it becomes. `access` may tolerate others.
///
/// # Errors
/// [`CredentialsError`]; it repeats nothing of the file's content.
pub fn read(path: &Path, access: Access) -> Result<Zeroizing<String>, CredentialsError> {
    let name = Name(path.to_owned());
    let unreadable = |error| CredentialsError::Unreadable(name.clone(), error);
    let (file, seen) = open(path).map_err(unreadable)?;
    if let Some(owner) = foreign_owner(&seen, access.user) {
        let owner = user_name(owner);
        let to = rightful(access.user);
        return Err(CredentialsError::Foreign { name, owner, to });
    }
    let mode = seen.mode();
    let is_open = mode & OPEN_TO_OTHERS != 0;
    if is_open && !access.by_others && !is_systemd_credential(path, &seen) {
        return Err(CredentialsError::OpenToOthers { name, mode: mode & 0o7777 });
    }
    let bytes = match all_of(file, LONGEST) {
        Ok(bytes) => bytes,
        Err(ReadError::TooLong(_)) => return Err(CredentialsError::NoText(name)),
        Err(error) => return Err(unreadable(error)),
    };
    let text = text(&bytes).map_err(|not| match not {
        NotText::Utf16 => CredentialsError::Utf16(name),
        NotText::Other => CredentialsError::NoText(name),
    });
    Ok(Zeroizing::new(text?.to_owned()))
}

/// Returns true if the file at `path`, with the metadata `seen` on the open file, is a credential
/// of systemd for this service, which may have an access list: a regular file and no link, in the
/// directory from the environment, with root's group. Everything else has to be private by its
/// mode.
pub(super) fn is_systemd_credential(path: &Path, seen: &Metadata) -> bool {
    env::var_os(DIRECTORY).is_some_and(|directory| is_credential_in(&directory, path, seen))
}

fn is_credential_in(directory: &OsStr, path: &Path, seen: &Metadata) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|found| FileId::from(&found)).ok();
    let is_there =
        path.parent().and_then(id).is_some_and(|parent| Some(parent) == id(directory.as_ref()));
    let itself = fs::symlink_metadata(path).map(|found| FileId::from(&found)).ok();
    let is_itself = itself == Some(FileId::from(seen));
    let is_listed = seen.mode() & OPEN_TO_OTHERS & !ACCESS_LIST == 0 && seen.gid() == 0;
    is_there && is_itself && is_listed
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_short_private_text_is_read() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("redis.pass");
        let attempt_as = |mode, bytes: &[u8], by_others| {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let access = Access { by_others, user: None };
            read(&path, access).map(|text| text.to_string()).map_err(|error| error.to_string())
        };
        let attempt = |mode, bytes: &[u8]| attempt_as(mode, bytes, false);
        assert_eq!(attempt(0o600, b"knock:geheim\n").unwrap(), "knock:geheim\n");
        for mode in [0o640, 0o604, 0o620, 0o644] {
            let error = attempt(mode, b"geheim").unwrap_err();
            assert!(error.contains("chmod 600") && !error.contains("geheim"), "{error}");
            assert!(error.contains("--allow-readable-key"), "{error}");
            assert_eq!(attempt_as(mode, b"geheim", true).unwrap(), "geheim");
        }
        for bytes in [&b"gehe\xefm"[..], &[b'x'; LONGEST + 1]] {
            assert!(attempt(0o600, bytes).unwrap_err().contains("no short text"));
        }
        let error = attempt(0o600, b"\xff\xfeg\0").unwrap_err();
        assert!(error.contains("UTF-16 text; save it as UTF-8"), "{error}");
        assert_eq!(attempt(0o600, b"\xef\xbb\xbfgeheim\r\n").unwrap(), "geheim\r\n");
        let error = read(Path::new("/no/where"), Access::default()).unwrap_err();
        assert!(matches!(error, CredentialsError::Unreadable(..)));
    }

    #[test]
    fn only_a_file_in_the_directory_of_credentials_may_look_open_and_only_to_its_group() {
        let dir = tempfile::TempDir::new().unwrap();
        let other = tempfile::TempDir::new().unwrap();
        let is_one = |directory: &Path, path: &Path, mode| {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            is_credential_in(directory.as_os_str(), path, &fs::metadata(path).unwrap())
        };
        let file = |dir: &tempfile::TempDir| {
            let path = dir.path().join("key");
            fs::write(&path, "geheim").unwrap();
            path
        };
        let ours = file(&dir);
        let theirs = file(&other);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&theirs, &link).unwrap();
        let below = dir.path().join("below");
        fs::create_dir(&below).unwrap();
        fs::copy(&ours, below.join("key")).unwrap();
        // With another group, that group could read it.
        let is_roots = fs::metadata(&ours).unwrap().gid() == 0;
        assert_eq!(is_one(dir.path(), &ours, 0o440), is_roots);
        for mode in [0o444, 0o404, 0o460, 0o420, 0o640 | 0o002] {
            assert!(!is_one(dir.path(), &ours, mode), "{mode:o}");
        }
        for elsewhere in [&theirs, &link, &below.join("key")] {
            assert!(!is_one(dir.path(), elsewhere, 0o440), "{elsewhere:?}");
        }
        assert!(!is_one(Path::new(""), &ours, 0o440));
        if is_roots && nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&ours, None, Some(65534)).unwrap();
            assert!(!is_one(dir.path(), &ours, 0o440), "a group of its own");
        }
    }
}
