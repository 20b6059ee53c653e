//! Files that hold a secret, of whatever kind: who may reach them, and how a message names them.
//!
//! What stands in one is the business of the module that reads it.

use std::fmt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};

use crate::files::place::user_name;
use crate::printable::printable;

/// Permission bits that let group or others read or change a file.
pub(super) const OPEN_TO_OTHERS: u32 = 0o066;

/// The reach of others to a file with a secret, a key or a password, that is put up with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Group and others may read or change it: the operator said so.
    pub by_others: bool,
    /// The user that this process becomes, which may own it.
    pub user: Option<Uid>,
}

/// Name of a file with a secret in a message; `-` reads as standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub(super) PathBuf);

/// Returns true if `path` stands for standard input.
pub fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Names the user that a file with a secret should belong to.
pub(super) fn rightful(user: Option<Uid>) -> String {
    user_name(user.unwrap_or_else(geteuid))
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_stdin(&self.0) {
            return f.write_str("on standard input");
        }
        // A line break in a name must not make two lines of one message.
        match self.0.to_string_lossy() {
            name if name.is_empty() => f.write_str("\"\""),
            name => f.write_str(&printable(&name)),
        }
    }
}
