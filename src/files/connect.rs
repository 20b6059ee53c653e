//! Connects to a unix socket within a deadline. Blocking.
//!
//! The kernel blocks a connect for as long as the listener's queue is full, which is for ever if
//! the listener never accepts. Without blocking it refuses at once and does not retry: so this
//! module retries.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

/// Pause before the next attempt at a full queue.
const AGAIN: Duration = Duration::from_millis(10);

/// Connects to the socket at `path` within `patience`.
///
/// # Errors
/// The system's; `TimedOut` when the listener's queue stays full.
pub fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let address = SockAddr::unix(path)?;
    let until = Instant::now() + patience;
    loop {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address) {
            Ok(()) => {
                socket.set_nonblocking(false)?;
                return Ok(socket.into());
            }
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if Instant::now() >= until {
            let cause = "the process there does not accept connections";
            return Err(io::Error::new(io::ErrorKind::TimedOut, cause));
        }
        sleep(AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_never_accepts_is_given_up_and_a_late_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        server.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        server.listen(0).unwrap();
        let _filler = connect(&path, Duration::ZERO).unwrap();
        let error = connect(&path, Duration::from_millis(30)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let late = std::thread::spawn(move || connect(&path, Duration::from_secs(60)));
        server.accept().unwrap();
        late.join().unwrap().unwrap();
    }
}
