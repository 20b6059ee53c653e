//! The private key of a TLS certificate.
//!
//! The same rule applies as to a key file: only its owner may read or change it, checked on the
//! open file, unless the operator permits others.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::credentials::is_systemd_credential;
use super::secret_file::{Access, Name, OPEN_TO_OTHERS, rightful};
use crate::files::place::user_name;
use crate::files::read::{ReadError, all_of, foreign_owner, open};

/// Longest such file in bytes: 1 MiB.
const LONGEST: usize = 1 << 20;

/// Reason why a private key was not read.
#[derive(Debug, thiserror::Error)]
pub enum TlsKeyError {
    /// Opening or reading failed.
    #[error(
        "cannot read {0} {1}: {2}; check its path and who may read it, and that it is a regular file"
    )]
    Unreadable(&'static str, Name, ReadError),
    /// It belongs to a user who is neither root nor the one that the process runs as.
    #[error(
        "{flag} {name} belongs to {owner}, who could change it; run 'chown {to} {name}', or run this as {owner}"
    )]
    Foreign {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        name: Name,
        /// Its owner.
        owner: String,
        /// The user that it should belong to.
        to: String,
    },
    /// Group or others can read or change it.
    #[error(
        "{flag} {name} is open to other users (mode {mode:04o}); run 'chmod 600 {name}', or accept it with --allow-readable-key"
    )]
    OpenToOthers {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        name: Name,
        /// Its permission bits.
        mode: u32,
    },
}

/// Reads the bytes of the file at `path`, which `flag` names.
///
/// # Errors
/// [`TlsKeyError`]; it repeats nothing of the file's content.
pub fn read(
    flag: &'static str,
    path: &Path,
    access: Access,
) -> Result<Zeroizing<Vec<u8>>, TlsKeyError> {
    let name = || Name(path.to_owned());
    let unreadable = |error| TlsKeyError::Unreadable(flag, name(), error);
    let (file, seen) = open(path).map_err(unreadable)?;
    if let Some(owner) = foreign_owner(&seen, access.user) {
        let owner = user_name(owner);
        let to = rightful(access.user);
        return Err(TlsKeyError::Foreign { flag, name: name(), owner, to });
    }
    let mode = seen.mode() & 0o7777;
    let is_open = mode & OPEN_TO_OTHERS != 0;
    if is_open && !access.by_others && !is_systemd_credential(path, &seen) {
        return Err(TlsKeyError::OpenToOthers { flag, name: name(), mode });
    }
    all_of(file, LONGEST).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_private_file_is_read_unless_others_are_put_up_with() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("client.key");
        fs::write(&path, "geheim").unwrap();
        let attempt = |mode, by_others| {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            read("--gate-key", &path, Access { by_others, user: None })
                .map(|bytes| bytes.to_vec())
                .map_err(|error| error.to_string())
        };
        assert_eq!(attempt(0o600, false).unwrap(), b"geheim");
        for mode in [0o640, 0o604, 0o620, 0o644] {
            let error = attempt(mode, false).unwrap_err();
            let has = |part| error.contains(part);
            assert!(has("chmod 600") && has("--allow-readable-key") && !has("geheim"), "{error}");
            assert_eq!(attempt(mode, true).unwrap(), b"geheim");
        }
        let error = read("--gate-key", Path::new("/no/where"), Access::default()).unwrap_err();
        assert!(matches!(error, TlsKeyError::Unreadable(..)));
    }
}
