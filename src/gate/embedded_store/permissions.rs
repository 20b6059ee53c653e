//! The permissions that the file needs, and the command that gives them.
//!
//! A tunnel end opens it after it became `-u USER`, and goes on writing it:
//! history, strikes, bans, and now and then a new file in its place. So that
//! user needs the file and its directory, also if another user made them.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};

use crate::files::place::{Place, user_name};

/// The reason why this process may not use the file, and the command that helps.
pub(super) fn refusal(path: &Path) -> String {
    let me = user_name(geteuid());
    let Ok(seen) = fs::symlink_metadata(path) else { return closed(&directory(path)) };
    let owner = Uid::from_raw(seen.uid());
    let path = path.display();
    if owner == geteuid() {
        let mode = seen.mode() & 0o777;
        return format!("{me} may not read and write it (mode {mode:04o}); run: chmod 600 {path}");
    }
    let owner = user_name(owner);
    format!("belongs to {owner}, and this process runs as {me}; run: chown {me} {path}")
}

/// The reason why no new file could be put in place of the old: otherwise it would grow
/// without end.
pub(super) fn check_directory(place: &Place) -> Result<(), String> {
    if place.is_writable() { Ok(()) } else { Err(closed(&directory(place.path()))) }
}

/// The reason why this file is not for this process: another user may have put it there.
pub(super) fn check_file(seen: &Metadata, place: &Place) -> Result<(), String> {
    if !seen.is_file() {
        return Ok(());
    }
    if let Some(owner) = place.foreign_owner(seen).map_err(|error| error.to_string())? {
        let owner = user_name(owner);
        return Err(format!(
            "belongs to {owner}, and its directory does not; move it to a directory of {owner}'s"
        ));
    }
    if geteuid().is_root() && seen.nlink() > 1 {
        return Err("has another name as well (a hard link); put a copy in its place".to_owned());
    }
    Ok(())
}

/// A file that root makes in another user's directory is made for that user.
pub(super) fn give_away(file: &File, place: &Place) -> io::Result<()> {
    let owner = place.directory()?.st_uid;
    if geteuid().is_root() { hand_over(file, owner) } else { Ok(()) }
}

/// Returns true if a file made there may become this user's: root gives nothing to others
/// than the owner of the directory.
pub(super) fn may_own(owner: u32, place: &Place) -> bool {
    let is_ours = owner == geteuid().as_raw();
    is_ours || place.directory().is_ok_and(|directory| directory.st_uid == owner)
}

/// Makes `owner` the owner. The group stays: it may do nothing with the file.
pub(super) fn hand_over(file: &File, owner: u32) -> io::Result<()> {
    if file.metadata()?.uid() == owner { Ok(()) } else { fchown(file, Some(owner), None) }
}

/// The directory of the file.
fn directory(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or_else(|| Path::new(".")).to_owned()
}

fn closed(directory: &Path) -> String {
    let (me, directory) = (user_name(geteuid()), directory.display());
    format!(
        "its directory is not for {me}, the user of this process, which has to write there; \
         run: chown {me} {directory}"
    )
}
