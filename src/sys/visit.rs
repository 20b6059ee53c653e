//! Requests to the running process at its handover socket, before or instead of taking its sockets:
//! to name its program, and to read its files again.
//!
//! ```text
//!   visitor            process that runs
//!     WHO      ->
//!              <-      its program, and what its service manager told it
//!     RELOAD   ->
//!              <-      DONE or FAILED, and what came of it
//! ```
//!
//! Each request has its own connection. A replaced program is recognised by its file and not by its
//! version, so that a second build of the same version counts as another one. Nothing here takes a
//! socket over: `handover` does that.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Uid;
use rustix::net::{RecvFlags, recv};

use super::notify;
use super::peer::check_peer;
use crate::files::connect::connect;
use crate::printable::printable;

/// Asks which program runs.
const WHO: u8 = b'w';

/// Asks for a reload.
const RELOAD: u8 = b'h';

/// Begins the answer about a successful reload.
const DONE: u8 = b'+';

/// Begins the answer about one that was not.
const FAILED: u8 = b'-';

/// The time that one step may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time that a reload may take: it resolves names, and reads the stores of gates.
const RELOADING: Duration = Duration::from_secs(120);

/// The most bytes of an answer.
const LONGEST: u64 = 64 << 10;

/// The name of the program's line in a [`ProcessInfo`].
const PROGRAM: &str = "PROGRAM";

/// The program of a process, and what its service manager told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    program: String,
    /// Variables of the environment, for a process that takes its place.
    pub manager: Vec<(String, String)>,
}

/// The wish of a visitor.
#[derive(Debug)]
pub enum Visit {
    /// Nothing more.
    Answered,
    /// To know what comes of a reload.
    Reload(UnixStream),
    /// The sockets; it has asked for the first already.
    Successor(UnixStream),
}

/// The reason why a process cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// No such socket, or no process that listens.
    #[error(
        "no process listens at {path}; one that was started without --handover, or by an older version, needs a restart, otherwise start it", path = .0.display()
    )]
    NoListener(PathBuf),
    /// It cannot be talked to.
    #[error("cannot ask the process at {path}: {cause}; restart it, or do this as root or its user", path = .path.display())]
    Failed {
        /// Its socket.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
}

impl ProcessInfo {
    /// Makes this process's own.
    pub fn own() -> Self {
        Self { program: own_program(), manager: notify::settings() }
    }

    /// Returns true if both run one program.
    pub fn is_same_program(&self, other: &Self) -> bool {
        self.program == other.program
    }

    fn encode(&self) -> String {
        let line = |name: &str, value: &str| format!("{name}={value}\n");
        let manager = self.manager.iter().map(|(name, value)| line(name, value));
        [line(PROGRAM, &self.program)].into_iter().chain(manager).collect()
    }

    fn decode(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(|line| line.split_once('='));
        let (PROGRAM, program) = lines.next()?? else { return None };
        let own = |(name, value): (&str, &str)| {
            notify::is_setting(name).then(|| (name.to_owned(), value.to_owned()))
        };
        let manager = lines.map(|line| line.and_then(own)).collect::<Option<_>>()?;
        Some(Self { program: program.to_owned(), manager })
    }
}

/// Names the file that this process runs, also after another file replaced it.
fn own_program() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match fs::metadata("/proc/self/exe") {
        Ok(file) => {
            let device = file.dev();
            let inode = file.ino();
            format!("{version} {device}:{inode} {}.{}", file.mtime(), file.mtime_nsec())
        }
        // Equal to no other, not even to one without a file name.
        Err(_) => format!("{version} {}", std::process::id()),
    }
}

/// Reads the request of a visitor, and answers it if it only asks for the program. Blocks.
///
/// # Errors
/// When it sends nothing, or something unknown.
pub fn receive(mut stream: UnixStream, info: &ProcessInfo) -> io::Result<Visit> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut first = [0];
    // A successor's first byte stays unread, for the code that hands the sockets over.
    if recv(&stream, &mut first, RecvFlags::PEEK)?.1 == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let question = first[0];
    if question == WHO || question == RELOAD {
        // Closing with unread bytes would destroy the answer.
        stream.read_exact(&mut first)?;
    }
    match question {
        WHO => stream.write_all(info.encode().as_bytes()).map(|()| Visit::Answered),
        RELOAD => Ok(Visit::Reload(stream)),
        _ => Ok(Visit::Successor(stream)),
    }
}

/// Sends the result of a reload. Blocks.
///
/// # Errors
/// When the visitor is gone.
pub fn answer(mut stream: UnixStream, result: &Result<String, String>) -> io::Result<()> {
    let (first, text) = match result {
        Ok(text) => (DONE, text),
        Err(text) => (FAILED, text),
    };
    stream.write_all(&[&[first], text.as_bytes()].concat())
}

/// Asks the process that listens at `path` for its program; it must belong to root, to the user of
/// this process or to `user`. Blocks.
///
/// # Errors
/// [`VisitError`]
pub fn who(path: &Path, user: Option<Uid>) -> Result<ProcessInfo, VisitError> {
    let said = ask(path, user, WHO, PATIENCE)?;
    let info = str::from_utf8(&said).ok().and_then(ProcessInfo::decode);
    info.ok_or_else(|| failed(path, "it is of another version, which does not say who it is"))
}

/// Makes the process that listens at `path` read its files again. Returns the result. Blocks.
///
/// # Errors
/// [`VisitError`] where the result is not known.
pub fn reload(path: &Path, user: Option<Uid>) -> Result<Result<String, String>, VisitError> {
    let said = ask(path, user, RELOAD, RELOADING)?;
    let text = |rest| printable(&String::from_utf8_lossy(rest)).to_string();
    match said.split_first() {
        Some((&DONE, rest)) => Ok(Ok(text(rest))),
        Some((&FAILED, rest)) => Ok(Err(text(rest))),
        _ => Err(failed(path, "it did not tell what came of the reload")),
    }
}

fn ask(
    path: &Path,
    user: Option<Uid>,
    question: u8,
    patience: Duration,
) -> Result<Vec<u8>, VisitError> {
    let fail = |cause: io::Error| match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            VisitError::NoListener(path.to_owned())
        }
        io::ErrorKind::WouldBlock => failed(path, "it does not answer"),
        _ => VisitError::Failed { path: path.to_owned(), cause },
    };
    let mut stream = connect(path, PATIENCE).map_err(fail)?;
    if let Err(other) = check_peer(&stream, user) {
        return Err(failed(path, &format!("it is another user's: {other}")));
    }
    let said = || {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&[question])?;
        let mut said = vec![];
        stream.take(LONGEST).read_to_end(&mut said)?;
        Ok(said)
    };
    said().map_err(fail)
}

fn failed(path: &Path, cause: &str) -> VisitError {
    VisitError::Failed { path: path.to_owned(), cause: io::Error::other(cause.to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    fn info(program: &str) -> ProcessInfo {
        let manager = [("NOTIFY_SOCKET", "/run/notify"), ("WATCHDOG_USEC", "30000000")];
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        ProcessInfo { program: program.to_owned(), manager: manager.map(own).into() }
    }

    #[test]
    fn a_card_arrives_as_it_was_and_nothing_else_passes_for_one() {
        let sent = info("1.2.3 1:2 3.4");
        assert_eq!(ProcessInfo::decode(&sent.encode()), Some(sent));
        assert_eq!(
            ProcessInfo::decode("PROGRAM=a b\n"),
            Some(ProcessInfo { manager: vec![], ..info("a b") })
        );
        for other in ["", "n", "PROGRAM", "NOTIFY_SOCKET=/a\n", "PROGRAM=a\nLD_PRELOAD=/x.so\n"] {
            assert_eq!(ProcessInfo::decode(other), None, "{other}");
        }
        assert!(ProcessInfo::own().is_same_program(&ProcessInfo::own()));
        assert!(!info("a").is_same_program(&info("b")));
    }

    #[test]
    fn each_question_gets_its_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover");
        assert!(matches!(who(&path, None).unwrap_err(), VisitError::NoListener(_)));
        let offer = UnixListener::bind(&path).unwrap();
        let next = || receive(offer.accept().unwrap().0, &info("a")).unwrap();
        let asking = || path.clone();
        let a = asking();
        let b = asking();
        let c = asking();
        let visitor = thread::spawn(move || (who(&a, None), reload(&b, None), reload(&c, None)));
        assert!(matches!(next(), Visit::Answered));
        for result in [Ok("1 added".to_owned()), Err("line 1".to_owned())] {
            let Visit::Reload(stream) = next() else { panic!("it asks for a reload") };
            answer(stream, &result).unwrap();
        }
        let (who, done, failed) = visitor.join().unwrap();
        assert_eq!(who.unwrap(), info("a"));
        assert_eq!(done.unwrap(), Ok("1 added".to_owned()));
        assert_eq!(failed.unwrap(), Err("line 1".to_owned()));
    }

    /// A version without these requests closes, as after an invalid request for a socket.
    #[test]
    fn a_version_without_these_requests_is_distinguished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover");
        let offer = UnixListener::bind(&path).unwrap();
        let older = thread::spawn(move || {
            let (mut stream, _) = offer.accept().unwrap();
            stream.read_exact(&mut [0]).unwrap();
        });
        let error = who(&path, None).unwrap_err().to_string();
        assert!(error.contains("another version") && error.contains("; restart it"), "{error}");
        older.join().unwrap();
    }
}
