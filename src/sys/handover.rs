//! Hands listening sockets over to the process that replaces this one, so that a restart refuses no
//! client.
//!
//! ```text
//!   successor                  predecessor
//!     NEXT           ->
//!                    <-          a socket with its name, or END
//!     READY or HEIR  ->          goes on accepting meanwhile
//!                    <-          GO: accepts no more, or LATE: goes on
//!     accepts                    removes its files
//!     makes its own  <-          the end of the stream
//! ```
//!
//! The successor connects to a unix socket that only our own user may use. Both never accept at the
//! same time, so that one is in charge. If the successor gives up, nothing has changed for the
//! predecessor; if the predecessor ends, the successor accepts. Knows names and descriptors, but
//! not their purpose.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Uid;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::peer::check_peer;
use crate::files::connect::connect;

/// Asks for the next socket.
const NEXT: u8 = b'n';

/// Reports that the successor could accept.
const READY: u8 = b'r';

/// Reports the same from a process that also replaces this one for the service manager.
const HEIR: u8 = b'm';

/// Permits it to accept.
const GO: u8 = b'g';

/// Refuses it: the time is over.
const LATE: u8 = b'l';

/// Instead of a name: there is no further socket.
const END: &[u8] = b"\n";

/// Longest name of a socket.
const LONGEST_NAME: usize = 4096;

/// Time limit of one step.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest time of a predecessor for each step of its stop: it may be busy with a reload.
const RELIEF: Duration = Duration::from_secs(30);

/// Longest time of a successor until it could accept: it resolves names first.
const STARTING: Duration = Duration::from_secs(120);

/// A descriptor with a name that both processes know.
#[derive(Debug)]
pub struct Given {
    /// Its purpose.
    pub name: String,
    /// A socket, or another descriptor.
    pub socket: OwnedFd,
}

/// The process that this one replaces.
#[derive(Debug)]
pub struct Predecessor {
    path: PathBuf,
    stream: UnixStream,
}

/// The process that replaces this one. It makes no files, and sends nothing to a service manager,
/// before this is dropped.
#[derive(Debug)]
pub struct Successor {
    stream: UnixStream,
    heir: Option<i32>,
}

/// Cause of sockets that cannot be handed over.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot take sockets over at {path}: {cause}; start as root or the user of that process, end it, or give --handover another path",
    path = .path.display()
)]
pub struct HandoverError {
    path: PathBuf,
    cause: io::Error,
}

impl HandoverError {
    fn new(path: &Path, cause: io::Error) -> Self {
        Self { path: path.to_owned(), cause }
    }
}

/// Gives `sockets` to a successor, and waits until it could accept on them. Blocks.
///
/// # Errors
/// When the successor gave up, or takes too long. It will not accept then.
pub fn give(stream: UnixStream, sockets: &[Given]) -> io::Result<Successor> {
    give_within(STARTING, stream, sockets)
}

fn give_within(
    starting: Duration,
    mut stream: UnixStream,
    sockets: &[Given],
) -> io::Result<Successor> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    for Given { name, socket } in sockets {
        expect_byte(&mut stream, NEXT)?;
        send(&stream, name.as_bytes(), socket)?;
    }
    expect_byte(&mut stream, NEXT)?;
    stream.write_all(END)?;
    stream.set_read_timeout(Some(starting))?;
    let heir = match read_byte(&mut stream) {
        Ok(Some(READY)) => Ok(None),
        Ok(Some(HEIR)) => {
            getsockopt(&stream, PeerCredentials).map(|it| Some(it.pid())).map_err(Into::into)
        }
        Ok(Some(_)) => Err(io::ErrorKind::InvalidData.into()),
        Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Err(error),
    };
    match heir {
        Ok(heir) => Ok(Successor { stream, heir }),
        Err(error) => {
            // It may become ready at this very moment.
            let _ = stream.write_all(&[LATE]);
            Err(error)
        }
    }
}

impl Successor {
    /// Permits it to accept, so that this process may no longer.
    ///
    /// # Errors
    /// When it has given up; then this process continues.
    pub fn let_accept(mut self) -> io::Result<Self> {
        self.stream.write_all(&[GO])?;
        Ok(self)
    }

    /// Returns its process id, where it is the service's main process from now on.
    pub fn heir(&self) -> Option<i32> {
        self.heir
    }
}

/// Asks the process that listens at `path` for its sockets; `None` when there is none. Blocks. It
/// may run as the `user` that this process becomes later.
///
/// # Errors
/// When it answers something else, or runs as another user.
pub fn ask(
    path: &Path,
    user: Option<Uid>,
) -> Result<Option<(Vec<Given>, Predecessor)>, HandoverError> {
    let fail = |cause| HandoverError::new(path, cause);
    let mut stream = match connect(path, PATIENCE) {
        Ok(stream) => stream,
        Err(error) if has_no_listener(&error) => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    if let Err(other) = check_peer(&stream, user) {
        return Err(fail(io::Error::other(format!(
            "another user's process listens there: {other}"
        ))));
    }
    let taken = take(&mut stream).map_err(|cause| match is_silence(&cause) {
        true => fail(io::Error::other("the process there does not answer")),
        false => fail(cause),
    })?;
    Ok(Some((taken, Predecessor { path: path.to_owned(), stream })))
}

fn has_no_listener(error: &io::Error) -> bool {
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
    /// Tells it that this process could accept, and whether as its `heir` for the service manager,
    /// and waits for its permission. Blocks. `None` when it is gone, so that no other process
    /// accepts.
    ///
    /// # Errors
    /// When it refuses. It continues to serve, so this process must not.
    pub fn give_way(mut self, heir: bool) -> Result<Option<Self>, HandoverError> {
        match self.answer(if heir { HEIR } else { READY }) {
            Ok(Some(GO)) => Ok(Some(self)),
            Ok(None) => Ok(None),
            Ok(Some(LATE)) => Err(self.fail("it waited no longer, and goes on to serve")),
            Ok(Some(_)) => Err(self.fail("the answer of the process there is not understood")),
            Err(error) if is_silence(&error) => Err(self.fail("the process there does not answer")),
            Err(error) => Err(HandoverError::new(&self.path, error)),
        }
    }

    /// Reads its answer to READY or HEIR; `None` when it is gone.
    fn answer(&mut self, ready: u8) -> io::Result<Option<u8>> {
        self.stream.set_read_timeout(Some(RELIEF))?;
        // If it no longer reads, it has sent its answer before.
        let _ = self.stream.write_all(&[ready]);
        let answer = read_byte(&mut self.stream);
        if !answer.as_ref().is_err_and(is_silence) {
            return answer;
        }
        // From here on it cannot permit any more; it may have done so at this very moment.
        self.stream.shutdown(Shutdown::Read)?;
        let last = read_byte(&mut self.stream)?;
        last.map_or(answer, |answer| Ok(Some(answer)))
    }

    /// Waits until its files are gone. Blocks.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn leave(mut self) -> io::Result<()> {
        self.stream.read_to_end(&mut vec![]).map(drop)
    }

    fn fail(&self, cause: &str) -> HandoverError {
        HandoverError::new(&self.path, io::Error::other(cause))
    }
}

fn is_silence(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Reads the next byte; `None` at the end, clean or not.
fn read_byte(stream: &mut UnixStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(byte[0])),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(error),
    }
}

fn expect_byte(stream: &mut UnixStream, expected: u8) -> io::Result<()> {
    match read_byte(stream)? {
        Some(byte) if byte == expected => Ok(()),
        Some(_) => Err(io::ErrorKind::InvalidData.into()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
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

/// Receives one socket with its name; `None` at the end.
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
    use std::sync::mpsc::{Sender, channel};
    use std::thread::{self, JoinHandle};

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover");
        (dir, path)
    }

    /// A successor that is ready once it is told to continue, and the answer that it gets.
    fn slow_heir(path: PathBuf) -> (JoinHandle<Answer>, Sender<()>) {
        let (go_on, slow) = channel();
        let heir = thread::spawn(move || {
            let (_, predecessor) = ask(&path, None).unwrap().unwrap();
            slow.recv().unwrap();
            predecessor.give_way(false)
        });
        (heir, go_on)
    }

    type Answer = Result<Option<Predecessor>, HandoverError>;

    #[test]
    fn sockets_change_hands_and_go_on_listening() {
        let (_dir, path) = place();
        assert!(ask(&path, None).unwrap().is_none());
        let offer = UnixListener::bind(&path).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heir = thread::spawn(move || {
            let (mut taken, predecessor) = ask(&path, None).unwrap().unwrap();
            predecessor.give_way(true).unwrap().expect("it is there").leave().unwrap();
            taken.remove(0)
        });
        let (stream, _) = offer.accept().unwrap();
        assert!(check_peer(&stream, None).is_ok());
        let socket = listener.as_fd().try_clone_to_owned().unwrap();
        let heir_to_be = give(stream, &[Given { name: "a\tb".to_owned(), socket }]).unwrap();
        assert_eq!(heir_to_be.heir(), Some(std::process::id().cast_signed()));
        let successor = heir_to_be.let_accept().unwrap();
        drop(listener);
        drop(successor);
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

    /// A process that gave up waiting continues to serve, so that its successor must not.
    #[test]
    fn a_successor_that_is_too_late_does_not_accept() {
        let (_dir, path) = place();
        let offer = UnixListener::bind(&path).unwrap();
        let (heir, go_on) = slow_heir(path);
        let (stream, _) = offer.accept().unwrap();
        assert!(give_within(Duration::from_millis(1), stream, &[]).is_err());
        go_on.send(()).unwrap();
        let error = heir.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("waited no longer") && error.lines().count() == 1, "{error}");
    }

    #[test]
    fn a_successor_of_one_that_died_meanwhile_accepts() {
        let (_dir, path) = place();
        let offer = UnixListener::bind(&path).unwrap();
        let (heir, go_on) = slow_heir(path);
        let (mut stream, _) = offer.accept().unwrap();
        expect_byte(&mut stream, NEXT).unwrap();
        stream.write_all(END).unwrap();
        drop(stream);
        go_on.send(()).unwrap();
        assert!(heir.join().unwrap().unwrap().is_none());
    }

    /// A successor that gives up while it gets permission: either it accepts, or we continue.
    #[test]
    fn a_successor_that_gave_up_is_not_let_in() {
        let (_dir, path) = place();
        let offer = UnixListener::bind(&path).unwrap();
        let heir = thread::spawn(move || {
            let (_, mut predecessor) = ask(&path, None).unwrap().unwrap();
            predecessor.stream.write_all(&[READY]).unwrap();
        });
        let (stream, _) = offer.accept().unwrap();
        let successor = give(stream, &[]).unwrap();
        heir.join().unwrap();
        assert!(successor.let_accept().is_err());
    }
}
