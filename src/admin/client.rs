//! The other end of the admin socket: one question, one answer. Blocking, for
//! the command line.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{MAX_REPLY, Reply, Request};

/// How long a process may take to answer: longer than an order may take there.
const PATIENCE: Duration = Duration::from_secs(150);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error(
        "no knockpipe answers at {path}: {cause}; start it with --admin PATH, and give the same path here or in KNOCKPIPE_ADMIN"
    )]
    Nobody {
        /// Where.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// It is somebody else's.
    #[error("no permission to ask at {0}; only root and the user of that process may, use sudo")]
    NoPermission(PathBuf),
    /// It hung up, or took too long.
    #[error("knockpipe at {path} does not answer: {cause}; try again, and look at its log")]
    NoAnswer {
        /// Where.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// It answers what nobody understands.
    #[error(
        "what answers at {path} is no knockpipe of this version: {cause}; use the program that runs there"
    )]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        cause: serde_json::Error,
    },
    /// It says no, with cause and remedy.
    #[error("{0}")]
    Refused(String),
}

/// Asks the process whose admin socket is at `path`.
///
/// # Errors
/// [`AskError`], also when the process answers that it cannot.
pub fn ask(path: &Path, request: &Request) -> Result<Reply, AskError> {
    let stream = UnixStream::connect(path).map_err(|cause| match cause.kind() {
        io::ErrorKind::PermissionDenied => AskError::NoPermission(path.to_owned()),
        _ => AskError::Nobody { path: path.to_owned(), cause },
    })?;
    let line = exchange(stream, request)
        .map_err(|cause| AskError::NoAnswer { path: path.to_owned(), cause })?;
    match serde_json::from_slice(&line) {
        Ok(Reply::Error(why)) => Err(AskError::Refused(why)),
        Ok(reply) => Ok(reply),
        Err(cause) => Err(AskError::Unreadable { path: path.to_owned(), cause }),
    }
}

fn exchange(mut stream: UnixStream, request: &Request) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    // Whoever is turned away is told without being read.
    let written = stream.write_all(&line);
    let mut reply = vec![];
    BufReader::new(stream.take(MAX_REPLY)).read_until(b'\n', &mut reply)?;
    if reply.is_empty() {
        written?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(reply)
}
