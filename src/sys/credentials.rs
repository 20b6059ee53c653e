//! Files that hold a user and a password for another service.
//!
//! Held to the same rule as a key file: nobody but its owner may read or change
//! it, judged on the open file. What stands in it is the caller's business.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::keyfile::{Access, Name, OPEN_TO_OTHERS, rightful};
use crate::files::place::user_name;
use crate::files::read::{ReadError, all_of, foreign_owner, open};
use crate::files::text::{NotText, text};

/// The most bytes of such a file; more is another kind of file.
const LONGEST: usize = 4096;

/// Why a file with credentials was not read.
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
    /// Saved as some editors do by themselves.
    #[error("credentials file {0} is UTF-16 text; save it as UTF-8")]
    Utf16(Name),
}

/// Reads the text in the file at `path`, which only its owner may reach: root, the
/// user of this process, or the one that it becomes. `access` may say that others reach
/// it, too.
///
/// # Errors
/// [`CredentialsError`]; it repeats nothing of what stands in the file.
pub fn read(path: &Path, access: Access) -> Result<Zeroizing<String>, CredentialsError> {
    let name = Name(path.to_owned());
    let unreadable = |error| CredentialsError::Unreadable(name.clone(), error);
    let (file, seen) = open(path).map_err(unreadable)?;
    if let Some(owner) = foreign_owner(&seen, access.user) {
        let (owner, to) = (user_name(owner), rightful(access.user));
        return Err(CredentialsError::Foreign { name, owner, to });
    }
    let mode = seen.mode();
    if mode & OPEN_TO_OTHERS != 0 && !access.by_others {
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

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
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
}
