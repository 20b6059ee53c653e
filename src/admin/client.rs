//! Client of the admin socket: one request, one answer. Blocking, for the command line.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Uid;

use super::protocol::{MAX_REPLY, Reply, Request};
use crate::files::connect::connect;
use crate::files::place::Place;
use crate::sys::peer::{Peer, Stranger, check_peer};

/// Longest wait until a process accepts a connection.
const CONNECTING: Duration = Duration::from_secs(5);

/// Longest wait for an answer that a process only has to look up.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same for a command: longer than its time limit there.
const ORDER: Duration = Duration::from_secs(150);

/// Cause of a missing answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No process listens there.
    #[error(
        "no knockpipe answers at {path}: {cause}; start it with --admin PATH, and give the same path here or in KNOCKPIPE_ADMIN"
    )]
    NoListener {
        /// The path.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// The socket is another user's.
    #[error("no permission to ask at {0}; only root and the user of that process may, use sudo")]
    NoPermission(PathBuf),
    /// Another user's process listens there, which could answer anything.
    #[error(
        "a process of another user ({user}) listens at {path}, and it could say anything; where that user runs knockpipe, add --user {user}"
    )]
    Foreign {
        /// The path.
        path: PathBuf,
        /// The user's name.
        user: Stranger,
    },
    /// The process hung up, or took too long.
    #[error("knockpipe at {path} does not answer: {cause}; try again, and look at its log")]
    NoAnswer {
        /// The path.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// Its answer is invalid.
    #[error(
        "what answers at {path} is not a knockpipe of this version: {cause}; use the program that runs there"
    )]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// The fault of the answer.
        cause: serde_json::Error,
    },
    /// It refuses, with cause and remedy.
    #[error("{0}")]
    Refused(String),
}

/// An answer, with the user of the process that sent it.
#[derive(Debug)]
pub struct PeerReply {
    /// Its text.
    pub reply: Reply,
    /// The user that is responsible for it.
    pub by: Peer,
}

/// Asks the process that listens on the admin socket at `path`. The socket must belong to root, to
/// the user of this process or to `user`; where no user is named, also to the user that root gave
/// its directory in `/run` to.
///
/// # Errors
/// [`AskError`], also when the process answers that it cannot.
pub fn ask(path: &Path, user: Option<Uid>, request: &Request) -> Result<Reply, AskError> {
    ask_with_peer(path, user, request).map(|told| told.reply)
}

/// Does the same as [`ask`], for a caller that acts on the answer with more rights than its sender
/// has.
///
/// # Errors
/// [`AskError`]
pub fn ask_with_peer(
    path: &Path,
    user: Option<Uid>,
    request: &Request,
) -> Result<PeerReply, AskError> {
    let place = || path.to_owned();
    let stream = connect(path, CONNECTING).map_err(|cause| match cause.kind() {
        io::ErrorKind::PermissionDenied => AskError::NoPermission(place()),
        io::ErrorKind::TimedOut => AskError::NoAnswer { path: place(), cause },
        _ => AskError::NoListener { path: place(), cause },
    })?;
    let peer = check_peer(&stream, user.or_else(|| given_by_root(path)))
        .map_err(|user| AskError::Foreign { path: place(), user })?;
    let patience = match request {
        Request::Reload {} | Request::Drain {} => ORDER,
        Request::Status {}
        | Request::Who { .. }
        | Request::Kick { .. }
        | Request::Gates { .. }
        | Request::Why { .. }
        | Request::Entries { .. }
        | Request::Change { .. } => PATIENCE,
    };
    let unanswered = |cause| AskError::NoAnswer { path: place(), cause };
    let by = answering_user(path, peer).map_err(unanswered)?;
    let line = exchange(stream, request, Instant::now() + patience).map_err(unanswered)?;
    match serde_json::from_slice(&line) {
        Ok(Reply::Error(why)) => Err(AskError::Refused(why)),
        Ok(reply) => Ok(PeerReply { reply, by }),
        Err(cause) => Err(AskError::Unreadable { path: place(), cause }),
    }
}

/// Returns the owner of the socket's directory in `/run`. Only root makes directories there, as
/// systemd does for a service with a dynamic user, which has no fixed name.
fn given_by_root(path: &Path) -> Option<Uid> {
    let directory = path.parent()?;
    let run = directory.parent().filter(|parent| *parent == Path::new("/run"))?;
    let run = fs::symlink_metadata(run).ok()?;
    let given = fs::symlink_metadata(directory).ok()?;
    let is_roots = run.uid() == 0 && run.mode() & 0o022 == 0;
    (is_roots && given.is_dir()).then(|| Uid::from_raw(given.uid()))
}

/// Returns the user that controls the answers at `path`. The system reports the user that began to
/// listen, which is root even if the process became another user afterwards: that user owns the
/// socket's file, or its directory.
fn answering_user(path: &Path, peer: Peer) -> io::Result<Peer> {
    if !peer.uid.is_root() {
        return Ok(peer);
    }
    let place = Place::find(path)?;
    let (_, node) = place.node()?;
    let owners = [node.st_uid, place.directory()?.st_uid].map(Uid::from_raw);
    let other = owners.into_iter().find(|owner| !owner.is_root());
    Ok(other.map_or(peer, |uid| Peer { uid, gid: None }))
}

fn exchange(mut stream: UnixStream, request: &Request, until: Instant) -> io::Result<Vec<u8>> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    // A client that is rejected gets its answer without being read.
    let written = stream.write_all(&line);
    let reply = reply(&mut stream, until)?;
    if reply.is_empty() {
        written?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(reply)
}

/// Reads one line, as far as it arrives before `until`.
fn reply(stream: &mut UnixStream, until: Instant) -> io::Result<Vec<u8>> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "it says nothing for too long");
    let mut reply = vec![];
    let mut piece = vec![0; 1 << 16];
    while !reply.ends_with(b"\n") && reply.len() < MAX_REPLY {
        let left = until.saturating_duration_since(Instant::now());
        // Zero would mean no limit.
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => reply.extend_from_slice(&piece[..read]),
            Err(again) if again.kind() == io::ErrorKind::Interrupted => {}
            Err(silent) if silent.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        }
        if left.is_zero() {
            return Err(late());
        }
    }
    Ok(reply)
}
