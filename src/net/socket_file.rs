//! The file of a unix socket that is listened on: made by us, removed by us.
//!
//! It gets the mode that the umask leaves. Connecting needs write permission, so
//! under the usual umask 022 only the same user can; a process that wants others
//! in says so with its umask or the directory. A socket that nobody listens on is
//! replaced; nothing else is ever removed.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockAddr, Socket, Type};

use super::listen::{BindError, blame};

/// How often a stale unix socket is removed before somebody else is assumed to
/// create it again and again.
const UNIX_ATTEMPTS: usize = 3;

/// Nobody but the owner connects.
const OWNER_ONLY: u32 = 0o600;

/// The file of our own unix socket, told from others' by its inode.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    is_ours: AtomicBool,
}

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Whom the umask leaves.
    Umask,
    /// The owner of the file alone, whatever the umask.
    Owner,
}

impl Access {
    /// Linux gives the file of a socket the mode that the socket has when it is
    /// bound, less the umask: so there is no moment at which others could connect.
    fn prepare(self, socket: Socket) -> io::Result<Socket> {
        if self == Self::Umask {
            return Ok(socket);
        }
        let file = fs::File::from(OwnedFd::from(socket));
        file.set_permissions(fs::Permissions::from_mode(OWNER_ONLY))?;
        Ok(OwnedFd::from(file).into())
    }

    /// A umask may have left the owner nothing.
    fn settle(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Umask => Ok(()),
            Self::Owner => fs::set_permissions(path, fs::Permissions::from_mode(OWNER_ONLY)),
        }
    }
}

impl SocketFile {
    /// Binds `path` and listens.
    ///
    /// # Errors
    /// [`BindError`], also when something else has the path, which is left alone.
    pub(super) fn bind(
        path: &Path,
        backlog: i32,
        access: Access,
    ) -> Result<(Socket, Self), BindError> {
        let wrong = |error| blame(path.display().to_string(), error);
        let address = SockAddr::unix(path).map_err(wrong)?;
        for _ in 0..UNIX_ATTEMPTS {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(wrong)?;
            let socket = access.prepare(socket).map_err(wrong)?;
            match socket.bind(&address) {
                Ok(()) => {
                    // Owned from here on, so that a failure to listen removes it.
                    let file = Self::at(path).map_err(wrong)?;
                    access.settle(path).map_err(wrong)?;
                    socket.listen(backlog).map_err(wrong)?;
                    return Ok((socket, file));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    remove_stale(path, &address)?;
                }
                Err(error) => return Err(wrong(error)),
            }
        }
        Err(BindError::InUse { address: path.display().to_string() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file at `path`, whose socket was handed to us.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        let (device, inode) = (found.dev(), found.ino());
        Ok(Self { path: path.to_owned(), device, inode, is_ours: AtomicBool::new(true) })
    }

    /// Says whether it is for us to remove it.
    pub(super) fn set_ours(&self, is_ours: bool) {
        self.is_ours.store(is_ours, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours.load(Ordering::Relaxed)
            && let Ok(found) = fs::symlink_metadata(&self.path)
            && (found.dev(), found.ino()) == (self.device, self.inode)
        {
            // It may be out of reach since privileges were dropped. The next
            // start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that nobody listens on; nothing else is ever removed.
fn remove_stale(path: &Path, address: &SockAddr) -> Result<(), BindError> {
    let wrong = |error| blame(path.display().to_string(), error);
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(wrong(error)),
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(wrong)?;
    // A living listener with a full backlog would make a blocking probe wait.
    probe.set_nonblocking(true).map_err(wrong)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(wrong(error)),
        // Accepted, backlog full, or a socket of another type: somebody is there.
        _ => return Err(BindError::InUse { address: path.display().to_string() }),
    }
    // Dropping removes it, unless somebody replaced it since it was probed.
    let (device, inode) = (found.dev(), found.ino());
    drop(SocketFile { path: path.to_owned(), device, inode, is_ours: AtomicBool::new(true) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn bound(path: &Path) -> Result<(Socket, SocketFile), BindError> {
        SocketFile::bind(path, 16, Access::Umask)
    }

    #[test]
    fn a_stale_unix_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        let _listener = bound(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_private_socket_is_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _listener = SocketFile::bind(&path, 16, Access::Owner).unwrap();
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_unix_socket_in_use_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _living = bound(&path).unwrap();
        let error = bound(&path).unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_listener_with_a_full_backlog_is_alive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let living = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        living.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        living.listen(0).unwrap();
        let _filler = UnixStream::connect(&path).unwrap();
        assert!(matches!(bound(&path).unwrap_err(), BindError::InUse { .. }));
        assert!(path.exists());
    }

    #[test]
    fn what_is_no_stream_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bound(&path).unwrap_err(), BindError::NotASocket(_)));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(bound(&path).unwrap_err(), BindError::NotASocket(_)));
        fs::remove_file(&path).unwrap();
        let _datagram = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        assert!(matches!(bound(&path).unwrap_err(), BindError::InUse { .. }));
        assert!(path.exists());
    }

    #[test]
    fn only_our_own_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let ours = bound(&path).unwrap();
        let aside = dir.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists(), "somebody else's by now");
    }
}
