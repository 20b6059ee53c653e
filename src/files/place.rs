//! A name in a directory: the path is looked up once, and all later operations use the directory
//! that was found, with the last part of the path.
//!
//! Root works in directories of other users. Such a user may replace any part of the path by a link
//! at any moment: so the decision (who owns the directory) and the action (a file is made, given
//! away, renamed, removed) use one open descriptor. The last part is never followed when it is a
//! link. Root follows no link on the path that another user made, or could have put there: it would
//! act for that user in directories that are closed to them.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{AccessFlags, Uid, UnlinkatFlags, User, faccessat, geteuid, unlinkat};

/// Highest number of links that are followed, which is that of the kernel.
const MOST_LINKS: usize = 40;

/// Flags to open a directory as a base for other operations only.
const IN_IT: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// A name in an open directory.
#[derive(Clone, Debug)]
pub struct Place {
    directory: Arc<OwnedFd>,
    name: OsString,
    path: PathBuf,
}

/// Identity of a file, independent of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

/// A link that is not followed.
#[derive(Debug, thiserror::Error)]
#[error("{} is a symbolic link{}", .path.display(), .of.as_ref().map_or_else(String::new, |of| format!(" that {of} can change")))]
pub struct LinkError {
    path: PathBuf,
    /// The user for which root would act.
    of: Option<String>,
}

impl From<&FileStat> for FileId {
    fn from(seen: &FileStat) -> Self {
        Self { device: seen.st_dev, inode: seen.st_ino }
    }
}

impl From<&Metadata> for FileId {
    fn from(seen: &Metadata) -> Self {
        Self { device: seen.dev(), inode: seen.ino() }
    }
}

impl Place {
    /// Looks up the directory of `path`. The file need not exist.
    ///
    /// # Errors
    /// The system's; or an error with a [`LinkError`] inside.
    pub fn find(path: &Path) -> io::Result<Self> {
        let mut way = Way::of(path)?;
        let Some(name) = way.walk()? else {
            return Err(io::Error::from(Errno::EISDIR));
        };
        Ok(Self { directory: Arc::new(way.here), name, path: path.to_owned() })
    }

    /// Returns the path as it was written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns another name in the same directory.
    #[must_use]
    pub fn beside(&self, name: &OsStr) -> Self {
        let path = self.path.with_file_name(name);
        Self { directory: Arc::clone(&self.directory), name: name.to_owned(), path }
    }

    /// Returns the last part of the path.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Returns type, mode and owner of the directory.
    ///
    /// # Errors
    /// The system's.
    pub fn directory(&self) -> io::Result<FileStat> {
        Ok(fstat(&self.directory)?)
    }

    /// Returns the owner of a file there, if that is neither root, nor the user of this process,
    /// nor the directory's owner. Such a user could make it only because others may write in the
    /// directory, and still controls it.
    ///
    /// # Errors
    /// The system's.
    pub fn foreign_owner(&self, file: &Metadata) -> io::Result<Option<Uid>> {
        let owner = Uid::from_raw(file.uid());
        let is_ours = owner.is_root() || owner == geteuid();
        let is_ours = is_ours || owner.as_raw() == self.directory()?.st_uid;
        Ok((!is_ours).then_some(owner))
    }

    /// Opens the file with these `flags`, without waiting for another process, and with this `mode`
    /// where they make it.
    ///
    /// # Errors
    /// The system's; a [`LinkError`] inside of an error where it is a link.
    pub fn open(&self, flags: OFlag, mode: Mode) -> io::Result<File> {
        let always = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        match openat(&self.directory, self.name.as_os_str(), flags | always, mode) {
            Ok(file) => Ok(file.into()),
            Err(Errno::ELOOP) => Err(self.link()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Returns the node of that name itself, of any kind, with its metadata.
    ///
    /// # Errors
    /// The system's.
    pub fn node(&self) -> io::Result<(OwnedFd, FileStat)> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let node = openat(&self.directory, self.name.as_os_str(), flags, Mode::empty())?;
        let seen = fstat(&node)?;
        Ok((node, seen))
    }

    /// Reads the metadata of the name without following a link.
    ///
    /// # Errors
    /// The system's; a [`LinkError`] inside of an error where it is a link.
    pub fn look(&self) -> io::Result<FileStat> {
        let seen = self.look_at_any()?;
        if is(&seen, SFlag::S_IFLNK) { Err(self.link()) } else { Ok(seen) }
    }

    fn look_at_any(&self) -> io::Result<FileStat> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        Ok(fstatat(&self.directory, self.name.as_os_str(), flags)?)
    }

    /// Returns whether no file has the name now.
    pub fn is_free(&self) -> bool {
        self.look_at_any().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Returns whether that file has the name now.
    pub fn holds(&self, file: FileId) -> bool {
        self.look_at_any().is_ok_and(|seen| FileId::from(&seen) == file)
    }

    /// Removes the name if it belongs to that file.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self, file: FileId) -> io::Result<()> {
        if self.holds(file) { self.remove_any() } else { Ok(()) }
    }

    /// Removes the name unless it is a directory.
    ///
    /// # Errors
    /// The system's.
    pub fn remove_any(&self) -> io::Result<()> {
        let flag = UnlinkatFlags::NoRemoveDir;
        Ok(unlinkat(&self.directory, self.name.as_os_str(), flag)?)
    }

    /// Renames the file within the directory.
    ///
    /// # Errors
    /// The system's.
    pub fn rename(&self, to: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.directory, self.name.as_os_str(), &self.directory, to)?)
    }

    /// Returns whether this process may make and remove files there.
    pub fn is_writable(&self) -> bool {
        let access = AccessFlags::W_OK | AccessFlags::X_OK;
        faccessat(&self.directory, ".", access, AtFlags::empty()).is_ok()
    }

    /// Makes changes of names in the directory durable.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        File::from(openat(&self.directory, ".", flags, Mode::empty())?).sync_all()
    }

    /// Returns a path that always leads to this name in this directory, for calls that take only
    /// paths. Short enough for a socket.
    pub fn lasting_path(&self) -> PathBuf {
        lasting_path(self.directory.as_fd()).join(&self.name)
    }

    fn link(&self) -> io::Error {
        io::Error::other(LinkError { path: self.path.clone(), of: None })
    }
}

/// Returns a path that leads to the file of the descriptor.
pub fn lasting_path(file: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Returns whether it is a file of that kind.
pub fn is(seen: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(seen.st_mode & SFlag::S_IFMT.bits()) == kind
}

/// Returns whether an error is a [`LinkError`].
pub fn is_link(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<LinkError>())
}

/// Returns a user by name, or by number where there is no account.
pub fn user_name(uid: Uid) -> String {
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |account| account.name)
}

/// State of a look-up.
struct Way {
    here: OwnedFd,
    /// The path so far, for an error.
    path: PathBuf,
    rest: VecDeque<OsString>,
    links: usize,
}

impl Way {
    fn of(path: &Path) -> io::Result<Self> {
        let start = if path.is_absolute() { "/" } else { "." };
        let here = nix::fcntl::open(start, IN_IT, Mode::empty())?;
        let mut way = Self { here, path: start.into(), rest: VecDeque::new(), links: MOST_LINKS };
        way.turn(path);
        Ok(way)
    }

    /// Follows `path` before the rest.
    fn turn(&mut self, path: &Path) {
        let parts = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        });
        let parts: Vec<OsString> = parts.collect();
        parts.into_iter().rev().for_each(|part| self.rest.push_front(part));
    }

    /// Walks to the directory of the last part, and returns that part; `None` where the path ends
    /// in a directory by its spelling.
    fn walk(&mut self) -> io::Result<Option<OsString>> {
        while let Some(part) = self.rest.pop_front() {
            if self.rest.is_empty() {
                return Ok((part != "..").then_some(part));
            }
            self.enter(&part)?;
        }
        Ok(None)
    }

    fn enter(&mut self, part: &OsStr) -> io::Result<()> {
        match openat(&self.here, part, IN_IT | OFlag::O_NOFOLLOW, Mode::empty()) {
            Ok(directory) => {
                self.here = directory;
                self.path.push(part);
                Ok(())
            }
            // The error for a link, as for any file.
            Err(Errno::ENOTDIR | Errno::ELOOP) => self.follow(part),
            Err(errno) => Err(errno.into()),
        }
    }

    fn follow(&mut self, part: &OsStr) -> io::Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let node = openat(&self.here, part, flags, Mode::empty())?;
        let seen = fstat(&node)?;
        if !is(&seen, SFlag::S_IFLNK) {
            return Err(Errno::ENOTDIR.into());
        }
        self.check(&seen, part)?;
        self.links = self.links.checked_sub(1).ok_or(Errno::ELOOP)?;
        let target = PathBuf::from(readlinkat(&node, "")?);
        if target.is_absolute() {
            self.here = nix::fcntl::open("/", IN_IT, Mode::empty())?;
            self.path = "/".into();
        }
        self.turn(&target);
        Ok(())
    }

    /// Refuses links for root that another user can have made.
    fn check(&self, link: &FileStat, part: &OsStr) -> io::Result<()> {
        if !geteuid().is_root() {
            return Ok(());
        }
        // In a user namespace, system files may belong to another number than root's.
        let systems = nix::sys::stat::stat("/")?.st_uid;
        let directory = fstat(&self.here)?;
        let others = [link.st_uid, directory.st_uid];
        let other = others.into_iter().find(|uid| *uid != 0 && *uid != systems);
        let of = match other.map(|uid| user_name(Uid::from_raw(uid))) {
            // They can replace it by another link of root's.
            None if is_open_to_others(directory.st_mode) => {
                "any user with write access beside it".to_owned()
            }
            None => return Ok(()),
            Some(user) => user,
        };
        Err(io::Error::other(LinkError { path: self.path.join(part), of: Some(of) }))
    }
}

/// Returns whether users other than its owner can rename files in a directory.
fn is_open_to_others(mode: u32) -> bool {
    let theirs = Mode::S_IWGRP | Mode::S_IWOTH;
    let sticky = Mode::S_ISVTX;
    mode & theirs.bits() != 0 && mode & sticky.bits() == 0
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
