//! One end of a connection, TCP or unix.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::address::Addr;
use crate::wait::NEVER;

/// A connected stream.
#[derive(Debug)]
pub enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Way in which a stream ended for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// End of file: the other end closed its direction.
    Clean,
    /// The connection was reset.
    Reset,
    /// Nothing more arrived, and it did not end.
    Silent,
}

impl Wire {
    pub fn connect(to: &Addr) -> io::Result<Self> {
        match to {
            Addr::Tcp(addr) => TcpStream::connect(addr).map(Self::Tcp),
            Addr::Unix(path) => UnixStream::connect(path).map(Self::Unix),
        }
        .map(Self::bounded)
    }

    /// Connects from another address of this machine.
    pub fn connect_from(from: IpAddr, to: &Addr) -> io::Result<Self> {
        let to = to.tcp();
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect(&to.into())?;
        Ok(Self::Tcp(socket.into()).bounded())
    }

    /// Returns the address at the other end; panics for a unix socket.
    pub fn peer(&self) -> SocketAddr {
        let addr = self.socket().peer_addr().expect("a connected socket has a peer");
        addr.as_socket().expect("it is an IP socket")
    }

    /// Sets timeouts, so that no test hangs for ever in a read or a write.
    fn bounded(self) -> Self {
        self.read_limit(NEVER * 2);
        self.socket().set_write_timeout(Some(NEVER * 2)).expect("a socket takes a timeout");
        self
    }

    pub fn try_clone(&self) -> Self {
        match self {
            Self::Tcp(s) => Self::Tcp(s.try_clone().expect("a descriptor is free")),
            Self::Unix(s) => Self::Unix(s.try_clone().expect("a descriptor is free")),
        }
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.shutdown(how),
            Self::Unix(s) => s.shutdown(how),
        }
    }

    /// Ends the direction of writing; the other direction continues.
    pub fn finish(&self) {
        // Fails only when the peer is already gone, which the reader will notice.
        let _ = self.shutdown(Shutdown::Write);
    }

    /// Closes with a TCP reset instead of a clean end.
    pub fn reset(self) {
        let _ = self.socket().set_linger(Some(Duration::ZERO));
    }

    pub fn socket(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(s) => SockRef::from(s),
            Self::Unix(s) => SockRef::from(s),
        }
    }

    /// Makes reads fail with `WouldBlock` after `limit`.
    pub fn read_limit(&self, limit: Duration) {
        self.socket().set_read_timeout(Some(limit)).expect("a socket takes a timeout");
    }

    /// Reads exactly `len` bytes; panics when they do not arrive.
    #[track_caller]
    pub fn expect_bytes(&mut self, len: usize) -> Vec<u8> {
        self.read_limit(NEVER);
        let mut bytes = vec![0; len];
        self.read_exact(&mut bytes).unwrap_or_else(|e| panic!("{len} bytes did not come: {e}"));
        bytes
    }

    /// Sends `bytes`; returns `Err` when the connection has been reset. A reset is reported once:
    /// after a write that failed by it, a read looks like a clean end.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        self.write_all(bytes).map_err(|_| Ending::Reset)
    }

    /// Sends `bytes` and panics unless the same bytes come back.
    #[track_caller]
    pub fn expect_echo(&mut self, bytes: &[u8]) {
        self.write_all(bytes).unwrap_or_else(|e| panic!("cannot send: {e}"));
        assert!(self.expect_bytes(bytes.len()) == bytes, "the echo is not what was sent");
    }

    /// Returns true if `bytes` come back within `limit`.
    pub fn echoes(&mut self, bytes: &[u8], limit: Duration) -> bool {
        self.read_limit(limit);
        let mut back = vec![0; bytes.len()];
        self.write_all(bytes).is_ok() && self.read_exact(&mut back).is_ok() && back == bytes
    }

    /// Reads until the stream ends, or until nothing arrived for `limit`.
    pub fn read_to_ending(&mut self, limit: Duration) -> (Vec<u8>, Ending) {
        self.read_limit(limit);
        let mut all = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return (all, Ending::Clean),
                Ok(n) => all.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return (all, Ending::Silent);
                }
                Err(_) => return (all, Ending::Reset),
            }
        }
    }

    /// Returns the way in which the stream ends; panics when it does not, or when bytes arrive
    /// first.
    #[track_caller]
    pub fn expect_ending(&mut self) -> Ending {
        let (bytes, ending) = self.read_to_ending(NEVER);
        assert!(bytes.is_empty(), "{} bytes came before the end", bytes.len());
        assert_ne!(ending, Ending::Silent, "the connection does not end");
        ending
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read(into),
            Self::Unix(s) => s.read(into),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.write(from),
            Self::Unix(s) => s.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A listening socket with a backlog that holds a burst of thousands.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub fn bind(at: &Addr) -> io::Result<Self> {
        match at {
            Addr::Unix(path) => UnixListener::bind(path).map(Self::Unix),
            Addr::Tcp(addr) => {
                let socket = Socket::new(Domain::for_address(*addr), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                socket.bind(&(*addr).into())?;
                socket.listen(4096)?;
                Ok(Self::Tcp(socket.into()))
            }
        }
    }

    pub fn addr(&self) -> Addr {
        match self {
            Self::Tcp(l) => Addr::Tcp(l.local_addr().expect("a listener has an address")),
            Self::Unix(l) => {
                let addr = l.local_addr().expect("a listener has an address");
                Addr::Unix(addr.as_pathname().expect("it was bound to a path").to_owned())
            }
        }
    }

    /// Limits how long `accept` waits for a connection.
    pub(crate) fn accept_limit(&self, limit: Duration) {
        let socket = match self {
            Self::Tcp(l) => SockRef::from(l),
            Self::Unix(l) => SockRef::from(l),
        };
        socket.set_read_timeout(Some(limit)).expect("a socket takes a timeout");
    }

    pub fn accept(&self) -> io::Result<Wire> {
        match self {
            Self::Tcp(l) => l.accept().map(|(s, _)| Wire::Tcp(s)),
            Self::Unix(l) => l.accept().map(|(s, _)| Wire::Unix(s)),
        }
        .map(Wire::bounded)
    }
}
