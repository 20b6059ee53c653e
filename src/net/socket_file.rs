//! The file of a listening unix socket, which this process makes and removes.
//!
//! It gets the mode that the umask leaves. Connecting needs write permission, so under the usual
//! umask 022 only the same user can; a process that wants to admit others sets its umask or the
//! mode of the directory. A socket without a listener is replaced; nothing else is ever removed.
//!
//! Its directory is looked up once. Where root makes the file for another user, in a directory of
//! that user, it acts as that user: then the file is theirs from the first moment, and nothing that
//! such a user does there meanwhile can make root change another file.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::fcntl::AtFlags;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Gid, Uid, fchownat, geteuid, setfsgid, setfsuid};
use socket2::{Domain, SockAddr, Socket, Type};

use super::bind_error::{BindError, blame};
use crate::files::place::{FileId, Place, is, lasting_path};

/// Removals of a stale unix socket before another program is assumed to keep creating it.
const UNIX_ATTEMPTS: usize = 3;

/// Only the owner may connect.
const OWNER_ONLY: u32 = 0o600;

/// The file of our own unix socket, recognised by its inode.
#[derive(Debug)]
pub(super) struct SocketFile {
    place: Place,
    id: FileId,
    /// Held open, so that no other file can get its inode and be mistaken for it.
    node: OwnedFd,
    is_ours: AtomicBool,
}

/// Users that may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Those that the umask leaves.
    Umask,
    /// The owner of the file alone, whatever the umask.
    Owner,
}

/// The owner of a socket's file that is made for another user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heir {
    /// The user; `None` leaves it with the user of this process.
    pub uid: Option<Uid>,
    /// The group.
    pub gid: Gid,
}

impl Access {
    /// Sets the mode before the bind. Linux gives the file of a socket the mode that the socket has
    /// when it is bound, minus the umask: so there is no moment at which others could connect.
    fn prepare(self, socket: Socket) -> io::Result<Socket> {
        if self == Self::Umask {
            return Ok(socket);
        }
        let file = File::from(OwnedFd::from(socket));
        file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
        Ok(OwnedFd::from(file).into())
    }

    /// Sets the mode after the bind: a umask may have removed the owner's rights. In another user's
    /// directory the node could be another file by now.
    fn settle(self, node: &OwnedFd) -> io::Result<()> {
        let seen = fstat(node)?;
        if self == Self::Umask || seen.st_mode & 0o777 == OWNER_ONLY {
            return Ok(());
        }
        if !is(&seen, SFlag::S_IFSOCK) || seen.st_nlink != 1 {
            return Err(io::Error::other("another file took its place"));
        }
        std::fs::set_permissions(lasting_path(node.as_fd()), Permissions::from_mode(OWNER_ONLY))
    }
}

impl SocketFile {
    /// Binds `path` and listens. The file becomes the `heir`'s.
    ///
    /// # Errors
    /// [`BindError`], also when something else is at the path, which is left alone.
    pub(super) fn bind(
        path: &Path,
        backlog: i32,
        access: Access,
        heir: Option<Heir>,
    ) -> Result<(Socket, Self), BindError> {
        let wrong = |error: io::Error| match error.get_ref() {
            Some(cause) if cause.is::<NotTheirs>() => {
                BindError::Heir { path: path.to_owned(), cause: error }
            }
            _ => blame(path.display().to_string(), error),
        };
        // No client could connect to a longer one.
        SockAddr::unix(path).map_err(wrong)?;
        let place = Place::find(path).map_err(wrong)?;
        let address = SockAddr::unix(place.lasting_path()).map_err(wrong)?;
        for _ in 0..UNIX_ATTEMPTS {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(wrong)?;
            let socket = access.prepare(socket).map_err(wrong)?;
            let made = made_as(heir, &place, || {
                socket.bind(&address)?;
                // Owned from here on, so that a failure to go on removes it.
                let file = Self::of(place.clone())?;
                access.settle(&file.node).map(|()| file)
            });
            match made {
                Ok(file) => {
                    socket.listen(backlog).map_err(wrong)?;
                    return Ok((socket, file));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => remove_stale(&place)?,
                Err(gone) if gone.kind() == io::ErrorKind::NotFound && !has_proc() => {
                    return Err(wrong(io::Error::other("/proc is not mounted")));
                }
                Err(error) => return Err(wrong(error)),
            }
        }
        Err(BindError::InUse { address: path.display().to_string() })
    }

    pub(super) fn path(&self) -> &Path {
        self.place.path()
    }

    /// Records the file at `path` of a socket that was handed to this process.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        Self::of(Place::find(path)?)
    }

    fn of(place: Place) -> io::Result<Self> {
        let (node, seen) = place.node()?;
        let id = FileId::from(&seen);
        Ok(Self { place, id, node, is_ours: AtomicBool::new(true) })
    }

    /// Sets whether this process removes the file.
    pub(super) fn set_ours(&self, is_ours: bool) {
        self.is_ours.store(is_ours, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours.load(Ordering::Relaxed) {
            // It may be unreachable since privileges were dropped. The next start replaces it.
            let _ = self.place.remove(self.id);
        }
    }
}

/// Calls `make`, as the `heir` where the directory is the heir's. In a directory of root's, root
/// makes the socket and gives it away: no other user can exchange it there. In one of a third
/// user's nothing is given away.
fn made_as(
    heir: Option<Heir>,
    place: &Place,
    make: impl FnOnce() -> io::Result<SocketFile> + Send,
) -> io::Result<SocketFile> {
    let Some(Heir { uid, gid }) = heir.filter(|_| geteuid().is_root()) else { return make() };
    let root = Uid::from_raw(0);
    let directory = Uid::from_raw(place.directory()?.st_uid);
    let uid = uid.unwrap_or(root);
    if directory == uid && uid != root {
        return apart(|| become_them(uid, gid).and_then(|()| make()));
    }
    if directory != root && uid != root {
        return Err(io::Error::other(NotTheirs));
    }
    let file = make()?;
    let node = &file.node;
    let seen = fstat(&file.node)?;
    if !is(&seen, SFlag::S_IFSOCK) || seen.st_uid != 0 || seen.st_nlink != 1 {
        return Err(io::Error::other(NotTheirs));
    }
    fchownat(node, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
    Ok(file)
}

/// Makes this thread access files as that user, without any privilege of root.
fn become_them(uid: Uid, gid: Gid) -> io::Result<()> {
    setfsgid(gid);
    setfsuid(uid);
    // The call does not report success; with an invalid user it returns the current one.
    let no_user = Uid::from_raw(u32::MAX);
    if setfsuid(no_user) == uid { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// Runs `work` in a separate thread.
fn apart<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let working = thread::Builder::new().spawn_scoped(scope, work)?;
        working.join().unwrap_or_else(|_| Err(io::Error::other("the work on it panicked")))
    })
}

/// Returns whether /proc is there, by which a socket is bound in an open directory.
fn has_proc() -> bool {
    Path::new("/proc/self/fd").exists()
}

/// Reason why the file of a socket is not given to another user.
#[derive(Debug, thiserror::Error)]
#[error("its directory belongs to neither root nor that user")]
struct NotTheirs;

/// Removes a socket without a listener; nothing else is ever removed.
fn remove_stale(place: &Place) -> Result<(), BindError> {
    let path = place.path();
    let wrong = |error| blame(path.display().to_string(), error);
    let (node, seen) = match place.node() {
        Ok(found) => found,
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(wrong(error)),
    };
    if !is(&seen, SFlag::S_IFSOCK) {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(wrong)?;
    // A live listener with a full backlog would make a blocking probe wait.
    probe.set_nonblocking(true).map_err(wrong)?;
    let address = SockAddr::unix(lasting_path(node.as_fd())).map_err(wrong)?;
    match probe.connect(&address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(wrong(error)),
        // Accepted, backlog full, or a socket of another type: a program is there.
        _ => return Err(BindError::InUse { address: path.display().to_string() }),
    }
    // Unless it was replaced since it was probed.
    let _ = place.remove(FileId::from(&seen));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn bound(path: &Path) -> Result<(Socket, SocketFile), BindError> {
        SocketFile::bind(path, 16, Access::Umask, None)
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
        let _listener = SocketFile::bind(&path, 16, Access::Owner, None).unwrap();
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
        assert!(path.exists(), "another process replaced it");
    }
}
