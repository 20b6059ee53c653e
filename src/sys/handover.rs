//! Handing listening sockets over to the process that takes our place, so that a
//! restart refuses nobody.
//!
//! The successor connects to a unix socket that only our own user may use, asks
//! for one socket after the other, and says when it accepts on them. If it
//! never does, nothing has changed for us. Knows names and descriptors, and not
//! what they are for.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Uid;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::peer::is_trusted;

/// Asks for the next socket.
const NEXT: u8 = b'n';

/// Says that the successor accepts.
const READY: u8 = b'r';

/// In the place of a name: there is no further socket.
const END: &[u8] = b"\n";

/// The longest name of a socket.
const LONGEST_NAME: usize = 4096;

/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a predecessor may take to stop.
const RELIEF: Duration = Duration::from_secs(30);

/// How long a successor may take until it accepts: it resolves names first.
const STARTING: Duration = Duration::from_secs(120);

/// A socket with a name that both processes know.
#[derive(Debug)]
pub struct Given {
    /// What it is for.
    pub name: String,
    /// The socket.
    pub socket: OwnedFd,
}

/// The process whose place we take.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

/// Why sockets cannot be handed over.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot take sockets over at {path}: {cause}; end that process, or give --handover another path",
    path = .path.display()
)]
pub struct HandoverError {
    path: PathBuf,
    cause: io::Error,
}

/// Gives `sockets` to a successor, and waits until it accepts on them. Blocks.
/// The stream that it gives back is to be dropped once we accept no more.
///
/// # Errors
/// When the successor gave up.
pub fn give(mut stream: UnixStream, sockets: &[Given]) -> io::Result<UnixStream> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    for Given { name, socket } in sockets {
        hear(&mut stream, NEXT)?;
        send(&stream, name.as_bytes(), socket)?;
    }
    hear(&mut stream, NEXT)?;
    stream.write_all(END)?;
    stream.set_read_timeout(Some(STARTING))?;
    hear(&mut stream, READY)?;
    Ok(stream)
}

/// Asks whoever listens at `path` for its sockets; `None` when nobody does. Blocks.
/// It may be of the `user` whom we become later.
///
/// # Errors
/// When it answers something else, or is of another user.
pub fn ask(
    path: &Path,
    user: Option<Uid>,
) -> Result<Option<(Vec<Given>, Predecessor)>, HandoverError> {
    let fail = |cause| HandoverError { path: path.to_owned(), cause };
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    if !is_trusted(&stream, user) {
        return Err(fail(io::Error::other("another user's process listens there")));
    }
    let taken = take(&mut stream).map_err(|cause| match cause.kind() {
        io::ErrorKind::WouldBlock => fail(io::Error::other("the process there does not answer")),
        _ => fail(cause),
    })?;
    Ok(Some((taken, Predecessor(stream))))
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn take(stream: &mut UnixStream) -> io::Result<Vec<Given>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut taken = vec![];
    loop {
        stream.write_all(&[NEXT])?;
        let Some(given) = receive(stream)? else { return Ok(taken) };
        taken.push(given);
    }
}

impl Predecessor {
    /// Tells it that we accept now, and waits until it does no more. Blocks.
    ///
    /// # Errors
    /// When it is gone.
    pub fn relieve(mut self) -> io::Result<()> {
        // It may be busy with a reload.
        self.0.set_read_timeout(Some(RELIEF))?;
        self.0.write_all(&[READY])?;
        // The end of the stream is its answer.
        self.0.read_to_end(&mut vec![]).map(drop)
    }
}

fn hear(stream: &mut UnixStream, expected: u8) -> io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    if byte == [expected] { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn send(stream: &UnixStream, name: &[u8], socket: &OwnedFd) -> io::Result<()> {
    let sockets = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let sent = sendmsg(stream, &[IoSlice::new(name)], &mut control, SendFlags::empty())?;
    if sent == name.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// One socket with its name; `None` at the end.
fn receive(stream: &UnixStream) -> io::Result<Option<Given>> {
    let mut name = vec![0; LONGEST_NAME];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut data = [IoSliceMut::new(&mut name)];
    let got = recvmsg(stream, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    if name[..got] == *END {
        return Ok(None);
    }
    let mut sockets = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    let socket = sockets.next().and_then(|mut sockets| sockets.next());
    let name = String::from_utf8(name[..got].to_vec()).ok();
    match (name, socket) {
        (Some(name), Some(socket)) => Ok(Some(Given { name, socket })),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover");
        (dir, path)
    }

    #[test]
    fn sockets_change_hands_and_go_on_listening() {
        let (_dir, path) = place();
        assert!(ask(&path, None).unwrap().is_none());
        let offer = UnixListener::bind(&path).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heir = thread::spawn(move || {
            let (mut taken, predecessor) = ask(&path, None).unwrap().unwrap();
            predecessor.relieve().unwrap();
            taken.remove(0)
        });
        let (stream, _) = offer.accept().unwrap();
        assert!(is_trusted(&stream, None));
        let socket = listener.as_fd().try_clone_to_owned().unwrap();
        let stream = give(stream, &[Given { name: "a\tb".to_owned(), socket }]).unwrap();
        drop(listener);
        drop(stream);
        let taken = heir.join().unwrap();
        assert_eq!(taken.name, "a\tb");
        let _client = TcpStream::connect(address).unwrap();
        TcpListener::from(taken.socket).accept().unwrap();
    }

    #[test]
    fn a_successor_that_gives_up_is_an_error() {
        let (_dir, path) = place();
        let offer = UnixListener::bind(&path).unwrap();
        let heir = thread::spawn(move || drop(ask(&path, None).unwrap().unwrap()));
        let (stream, _) = offer.accept().unwrap();
        assert!(give(stream, &[]).is_err());
        heir.join().unwrap();
    }
}
