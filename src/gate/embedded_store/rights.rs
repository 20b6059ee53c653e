//! Who may use the file, and what helps whoever may not.
//!
//! A tunnel end opens it after it became `-u USER`, and goes on writing it:
//! history, strikes, bans, and now and then a new file in its place. So that
//! user needs the file and its directory, whoever made them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Uid, User, access, geteuid};

/// What keeps this process from the file, and the command that helps.
pub(super) fn refusal(path: &Path) -> String {
    let me = name(geteuid());
    let Ok(seen) = fs::metadata(path) else { return closed(&directory(path)) };
    let owner = Uid::from_raw(seen.uid());
    let path = path.display();
    if owner == geteuid() {
        let mode = seen.mode() & 0o777;
        return format!("{me} may not read and write it (mode {mode:04o}); run: chmod 600 {path}");
    }
    let owner = name(owner);
    format!("belongs to {owner}, and this process runs as {me}; run: chown {me} {path}")
}

/// Why no new file could be put in place of the old: without that it would grow
/// for ever.
pub(super) fn check_directory(path: &Path) -> Result<(), String> {
    let directory = directory(path);
    match access(&directory, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Ok(()),
        Err(_) => Err(closed(&directory)),
    }
}

/// A file that root makes in another user's directory is made for that user.
pub(super) fn give_away(file: &File, path: &Path) -> io::Result<()> {
    let owner = fs::metadata(directory(path))?.uid();
    if geteuid().is_root() { hand_over(file, owner) } else { Ok(()) }
}

/// Makes `owner` the owner. The group stays: it may do nothing with the file.
pub(super) fn hand_over(file: &File, owner: u32) -> io::Result<()> {
    if file.metadata()?.uid() == owner { Ok(()) } else { fchown(file, Some(owner), None) }
}

/// Where the file is.
pub(super) fn directory(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or_else(|| Path::new(".")).to_owned()
}

fn closed(directory: &Path) -> String {
    let (me, directory) = (name(geteuid()), directory.display());
    format!(
        "its directory is not for {me}, as whom this process runs and has to write there; \
         run: chown {me} {directory}"
    )
}

/// By name, or by number where there is no account.
fn name(uid: Uid) -> String {
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |account| account.name)
}
