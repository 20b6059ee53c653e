//! Addresses as the command line spells them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// A TCP address or the path of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addr {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Addr {
    /// Parses an address as the log shows it: a path, or `ip:port`.
    pub fn parse(text: &str) -> Option<Self> {
        if text.starts_with('/') {
            return Some(Self::Unix(PathBuf::from(text)));
        }
        text.parse().ok().map(Self::Tcp)
    }

    /// Returns the TCP address; panics for a unix socket.
    pub fn tcp(&self) -> SocketAddr {
        match self {
            Self::Tcp(addr) => *addr,
            Self::Unix(path) => panic!("{} is not a TCP address", path.display()),
        }
    }

    /// Returns the path; panics for TCP.
    pub fn path(&self) -> &Path {
        match self {
            Self::Unix(path) => path,
            Self::Tcp(addr) => panic!("{addr} is not a unix socket"),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The three kinds of stream socket that every end can listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp4,
    Tcp6,
    Unix,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Tcp4, Self::Tcp6, Self::Unix];

    /// Returns an address to listen on: port 0 on loopback, or `dir/name`.
    pub fn fresh(self, dir: &Path, name: &str) -> Addr {
        match self {
            Self::Tcp4 => Addr::Tcp((Ipv4Addr::LOCALHOST, 0).into()),
            Self::Tcp6 => Addr::Tcp((Ipv6Addr::LOCALHOST, 0).into()),
            Self::Unix => Addr::Unix(dir.join(name)),
        }
    }
}

/// Returns the address of a free port on loopback, to listen on.
pub fn any() -> Addr {
    Kind::Tcp4.fresh(Path::new("/"), "")
}

/// Returns a TCP port without a listener.
///
/// Only for programs that do not accept port 0 (Redis, MariaDB): another process may take it in
/// between, so their start is retried on failure.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Makes an address that refuses connections, for as long as the returned socket is held.
pub fn refusing() -> (Addr, Socket) {
    refusing_at(Ipv4Addr::LOCALHOST)
}

/// Does the same at another address of loopback. If no other test uses that address, the port also
/// stays free while it is released and bound again.
pub fn refusing_at(ip: Ipv4Addr) -> (Addr, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
    let any = SocketAddr::new(IpAddr::V4(ip), 0);
    socket.bind(&any.into()).expect("loopback has free ports");
    let bound = socket.local_addr().expect("a bound socket has an address");
    (Addr::Tcp(bound.as_socket().expect("it is an IP socket")), socket)
}

/// Makes an address that answers no connection attempt, for as long as the returned sockets are
/// held: the backlog of its listener is full.
pub fn deaf() -> (Addr, Vec<Socket>) {
    let (addr, socket) = refusing();
    (addr, deafen(socket))
}

/// Turns a refusing address into one that answers no attempt, for as long as the returned sockets
/// are held.
pub fn deafen(refusing: Socket) -> Vec<Socket> {
    const NO_ANSWER: Duration = Duration::from_millis(300);
    refusing.listen(0).expect("a bound socket can listen");
    let address = refusing.local_addr().expect("a bound socket has an address");
    let mut held = vec![refusing];
    loop {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
        let connected = filler.connect_timeout(&address, NO_ANSWER);
        held.push(filler);
        match connected {
            Ok(()) => assert!(held.len() < 64, "a backlog of 0 never fills"),
            Err(_) => return held,
        }
    }
}
