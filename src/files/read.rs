//! Reads a file that a user named: a key, a password, certificates, a configuration.
//!
//! Only regular files are read. A pipe or a device would delay the start, or a reload, for as long
//! as it has no writer; and it can be read only once, so that a reload would fail.

use std::fmt;
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::{Uid, geteuid};
use zeroize::Zeroizing;

/// Reason why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system's error.
    #[error("{0}")]
    System(#[from] io::Error),
    /// It is not a regular file.
    #[error("it is {0} and no regular file")]
    Kind(Kind),
    /// It is larger than permitted.
    #[error("it is larger than {0}")]
    TooLong(Size),
}

/// Kind of a file that is not a regular one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A pipe, also one of the shell's `<(...)`.
    Pipe,
    /// A unix socket.
    Socket,
    /// A device.
    Device,
}

/// A number of bytes, in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(usize);

/// Opens a regular file for reading. Never waits for another process.
///
/// # Errors
/// [`ReadError`]
pub fn open(path: &Path) -> Result<(File, Metadata), ReadError> {
    // Checked first: opening some devices has effects.
    regular(&std::fs::metadata(path)?)?;
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let seen = file.metadata()?;
    // Checked again on the open file, which counts.
    regular(&seen)?;
    Ok((file, seen))
}

/// Returns all of an open file, up to `longest` bytes.
///
/// # Errors
/// [`ReadError`] of the system, or when it is longer.
pub fn all_of(file: File, longest: usize) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    // Allocated at once (the system only backs the used part): a vector that grows leaves copies of
    // a secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(longest + 64));
    file.take(longest as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > longest { Err(ReadError::TooLong(Size(longest))) } else { Ok(bytes) }
}

/// Returns the bytes of the regular file at `path`, up to `longest`.
///
/// # Errors
/// [`ReadError`]
pub fn read(path: &Path, longest: usize) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    all_of(open(path)?.0, longest)
}

/// Returns the owner of a file, if that is neither root, nor the user of this process, nor the
/// `user` that it becomes later: that owner could change such a file.
pub fn foreign_owner(seen: &Metadata, user: Option<Uid>) -> Option<Uid> {
    let owner = Uid::from_raw(seen.uid());
    let ours = owner.is_root() || owner == geteuid() || Some(owner) == user;
    (!ours).then_some(owner)
}

fn regular(seen: &Metadata) -> Result<(), ReadError> {
    let found = seen.file_type();
    if found.is_file() { Ok(()) } else { Err(ReadError::Kind(Kind::of(found))) }
}

impl Kind {
    fn of(found: FileType) -> Self {
        if found.is_dir() {
            Self::Directory
        } else if found.is_fifo() {
            Self::Pipe
        } else if found.is_socket() {
            Self::Socket
        } else {
            Self::Device
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "a directory",
            Self::Pipe => "a pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: usize = 1 << 20;
        match self.0 {
            whole if whole >= MIB && whole.is_multiple_of(MIB) => write!(f, "{} MiB", whole / MIB),
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read(&path(name), 4).unwrap().as_slice(), b"text");
        }
        assert_eq!(read(&path("file"), 3).unwrap_err().to_string(), "it is larger than 3 bytes");
        mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        for (name, kind) in [
            (dir.path().to_owned(), Kind::Directory),
            (path("pipe"), Kind::Pipe),
            (path("socket"), Kind::Socket),
            ("/dev/zero".into(), Kind::Device),
            ("/dev/null".into(), Kind::Device),
        ] {
            let error = read(&name, 100).unwrap_err();
            assert!(matches!(error, ReadError::Kind(found) if found == kind), "{error}");
        }
        assert!(matches!(read(&path("none"), 1).unwrap_err(), ReadError::System(_)));
        assert_eq!(Size(1 << 20).to_string(), "1 MiB");
    }
}
