//! Listening: bind first, accept later, never give up.
//!
//! [`Listener::bind`] is blocking and needs no runtime, because binding happens before the process
//! goes to the background and gives up its privileges. [`AsyncListener`] accepts;
//! [`super::backoff`] decides about failures.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::task::{Context, Poll, ready};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::bind_error::{BindError, blame_ip};
use super::datagram_listener::Place;
use super::resolve::look_up;
use super::socket_file::{Access, Heir, SocketFile};
use super::stream::{SocketOptions, Stream};
use super::zone;
use crate::addr::{Address, ClientAddr, Source};
use crate::tasks::{Undone, blocking};

/// Attempts to get one port from the system that suits a set of sockets.
const COMMON_PORT_ATTEMPTS: usize = 16;

/// A bound and listening socket that no runtime knows yet.
#[derive(Debug)]
pub struct Listener {
    // Dropped first; see `AsyncListener`.
    local: Local,
    socket: Socket,
}

/// A listening socket that can accept.
#[derive(Debug)]
pub struct AsyncListener {
    // Dropped first: the file of a unix socket is removed before the socket closes, so that a
    // successor that finds no listener cannot lose its own file.
    local: Local,
    socket: AsyncSocket,
}

#[derive(Debug)]
enum Local {
    Tcp(SocketAddr),
    Unix(SocketFile),
    /// A unix socket that another process made; its file is not ours to remove.
    OthersUnix(String),
}

#[derive(Debug)]
enum AsyncSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

// === impl Listener ===

impl Listener {
    /// Binds and listens on every address that `address` stands for; returns at least one listener.
    /// Addresses that this machine lacks (`::1` of `localhost` without IPv6) are skipped as long as
    /// another one remains. With port 0 all share the port that the system picks. `backlog` is
    /// capped by the kernel. Blocks while a name is looked up. `others` are all sources of this
    /// process: next to an IPv4 address of the same port, `[::]` means IPv6 only.
    ///
    /// # Errors
    /// [`BindError`] when none could be bound, or one is in use.
    pub fn bind(
        address: &Address,
        others: &[Source],
        backlog: i32,
    ) -> Result<Vec<Self>, BindError> {
        match address {
            Address::Unix(path) => {
                let (socket, file) = SocketFile::bind(path, backlog, Access::Umask, None)?;
                Ok(vec![Self { socket, local: Local::Unix(file) }])
            }
            Address::Tcp { .. } => listen_at(&places(address, others)?, backlog),
        }
    }

    /// Does the same as [`Self::bind`] without blocking the task while a name is looked up.
    /// Dropping the future leaves no file behind.
    ///
    /// # Errors
    /// [`BindError`]
    pub async fn bind_apart(
        address: &Address,
        others: &[Source],
        backlog: i32,
    ) -> Result<Vec<Self>, BindError> {
        if address.is_literal() {
            return Self::bind(address, others, backlog);
        }
        let address = address.clone();
        let others = others.to_vec();
        let named = address.clone();
        let bound = blocking(move || Self::bind(&named, &others, backlog)).await;
        let undone = |undone: Undone| BindError::Unresolvable { address, cause: undone.into() };
        bound.unwrap_or_else(|error| Err(undone(error)))
    }

    /// Binds a unix socket to which only the user of this process, or the `heir`, and
    /// root can connect.
    ///
    /// # Errors
    /// [`BindError`]
    pub fn bind_private(path: &Path, backlog: i32, heir: Option<Heir>) -> Result<Self, BindError> {
        let (socket, file) = SocketFile::bind(path, backlog, Access::Owner, heir)?;
        Ok(Self { socket, local: Local::Unix(file) })
    }

    /// Binds a unix socket and gives its file to the `heir`, with the mode that the umask leaves.
    ///
    /// # Errors
    /// [`BindError`]
    pub fn bind_for(path: &Path, backlog: i32, heir: Option<Heir>) -> Result<Self, BindError> {
        let (socket, file) = SocketFile::bind(path, backlog, Access::Umask, heir)?;
        Ok(Self { socket, local: Local::Unix(file) })
    }

    /// Adopts a socket that another process listens on at this `address`; the other owns its file
    /// until [`AsyncListener::take_over`].
    ///
    /// # Errors
    /// When it does not listen, or its file is gone.
    pub fn adopt(socket: OwnedFd, address: &Address) -> io::Result<Self> {
        let socket = Socket::from(socket);
        if !socket.is_listener()? {
            return Err(io::Error::other("the socket does not listen"));
        }
        let local = match (socket.local_addr()?.as_socket(), address) {
            (Some(address), _) => Local::Tcp(address),
            // The system knows the path as it was valid for the other process only.
            (None, Address::Unix(path)) => {
                let file = SocketFile::at(path)?;
                file.set_ours(false);
                Local::Unix(file)
            }
            (None, Address::Tcp { .. }) => {
                return Err(io::Error::other("the socket has no address"));
            }
        };
        Ok(Self { local, socket })
    }

    /// Wraps a stream socket that listens already and stays owned by another process.
    ///
    /// # Errors
    /// When the system does not know its address.
    pub fn inherited(socket: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(socket);
        let address = socket.local_addr()?;
        let local = match (address.as_socket(), address.as_pathname()) {
            (Some(tcp), _) => Local::Tcp(tcp),
            (None, Some(path)) => Local::OthersUnix(path.display().to_string()),
            (None, None) => {
                let name = address.as_abstract_namespace().unwrap_or_default();
                Local::OthersUnix(format!("@{}", String::from_utf8_lossy(name)))
            }
        };
        Ok(Self { local, socket })
    }

    /// Hands the socket to the runtime. Connections get `options`.
    ///
    /// # Errors
    /// When the runtime cannot watch the socket.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn into_async(self, options: &SocketOptions) -> io::Result<AsyncListener> {
        self.socket.set_nonblocking(true)?;
        let socket = match self.local {
            Local::Tcp(_) => {
                options.apply(&self.socket);
                AsyncSocket::Tcp(TcpListener::from_std(self.socket.into())?)
            }
            Local::Unix(_) | Local::OthersUnix(_) => {
                AsyncSocket::Unix(UnixListener::from_std(self.socket.into())?)
            }
        };
        Ok(AsyncListener { socket, local: self.local })
    }

    /// Returns its local address with the actual port, for the log.
    pub fn local(&self) -> String {
        self.local.to_string()
    }

    /// Returns whether it still listens on the current meaning of `address`: the interface of a
    /// zone may have been recreated, and no connection would ever arrive.
    pub fn is_current(&self, address: &Address) -> bool {
        self.local.is_current(address)
    }
}

// === impl AsyncListener ===

impl AsyncListener {
    /// Accepts the next connection, with `options` set, and registers it with the runtime that the
    /// caller is in.
    ///
    /// # Errors
    /// The system's; none is fatal, see [`super::AcceptLoop`].
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, ClientAddr)>> {
        Poll::Ready(Ok(match &self.socket {
            AsyncSocket::Tcp(socket) => {
                let (stream, peer) = ready!(socket.poll_accept(cx))?;
                (stream.into(), peer.into())
            }
            AsyncSocket::Unix(socket) => {
                (ready!(socket.poll_accept(cx))?.0.into(), ClientAddr::Unix)
            }
        }))
    }

    /// Duplicates the socket's descriptor for another process.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn share(&self) -> io::Result<OwnedFd> {
        match &self.socket {
            AsyncSocket::Tcp(socket) => socket.as_fd().try_clone_to_owned(),
            AsyncSocket::Unix(socket) => socket.as_fd().try_clone_to_owned(),
        }
    }

    /// Leaves the socket's file to another process, which removes it.
    pub fn give_away(&self) {
        if let Local::Unix(file) = &self.local {
            file.set_ours(false);
        }
    }

    /// Takes over the socket's file from the process that owned it.
    pub fn take_over(&self) {
        if let Local::Unix(file) = &self.local {
            file.set_ours(true);
        }
    }

    /// Sets the `options` of connections from now on.
    pub fn set(&self, options: &SocketOptions) {
        if let AsyncSocket::Tcp(socket) = &self.socket {
            options.apply(socket);
        }
    }

    /// Returns its local address with the actual port, for the log.
    pub fn local(&self) -> String {
        self.local.to_string()
    }

    /// Returns the same as [`Listener::is_current`].
    pub fn is_current(&self, address: &Address) -> bool {
        self.local.is_current(address)
    }

    /// Returns the place at which datagrams can be received as well; `None` for a unix socket.
    ///
    /// # Errors
    /// The system's.
    pub fn place(&self) -> io::Result<Option<Place>> {
        match &self.socket {
            AsyncSocket::Tcp(socket) => self.local.place(SockRef::from(socket)),
            AsyncSocket::Unix(_) => Ok(None),
        }
    }
}

impl Local {
    fn is_current(&self, address: &Address) -> bool {
        if let Self::Tcp(ours) = self { is_current(*ours, address) } else { true }
    }

    fn place(&self, socket: SockRef<'_>) -> io::Result<Option<Place>> {
        let Self::Tcp(addr) = *self else { return Ok(None) };
        let only_v6 = addr.is_ipv6() && socket.only_v6()?;
        Ok(Some(Place { addr, only_v6 }))
    }
}

/// Returns whether a socket at `ours` is bound to the current meaning of `address`.
pub(super) fn is_current(ours: SocketAddr, address: &Address) -> bool {
    let (SocketAddr::V6(ours), Address::Tcp { host, .. }) = (ours, address) else { return true };
    match zone::literal(host, ours.port()) {
        Some(Ok(SocketAddr::V6(now))) => now.scope_id() == ours.scope_id(),
        // There is no such interface now, so nothing better could be bound.
        _ => true,
    }
}

impl std::fmt::Display for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(file) => file.path().display().fmt(f),
            Self::OthersUnix(name) => f.write_str(name),
        }
    }
}

// === TCP ===

fn listen_at(places: &[Place], backlog: i32) -> Result<Vec<Listener>, BindError> {
    let port = |listener: &Listener| match listener.local {
        Local::Tcp(addr) => addr.port(),
        Local::Unix(_) | Local::OthersUnix(_) => 0,
    };
    bind_all(places, |place| bind_tcp(place, backlog), port)
}

/// Binds a socket at each of the places that one address stands for. Those that this machine lacks
/// are skipped as long as another one remains. With port 0 all share the port that the system
/// picks.
pub(super) fn bind_all<T>(
    places: &[Place],
    bind: impl Fn(Place) -> Result<T, BindError>,
    port: impl Fn(&T) -> u16,
) -> Result<Vec<T>, BindError> {
    let common_port = places.len() > 1 && places.iter().all(|place| place.addr.port() == 0);
    for _ in 1..COMMON_PORT_ATTEMPTS {
        match bind_each(places, &bind, &port) {
            // Another socket has the port that was picked for the first address.
            Err(BindError::InUse { .. }) if common_port => {}
            result => return result,
        }
    }
    bind_each(places, &bind, &port)
}

fn bind_each<T>(
    places: &[Place],
    bind: impl Fn(Place) -> Result<T, BindError>,
    port: impl Fn(&T) -> u16,
) -> Result<Vec<T>, BindError> {
    let mut bound: Vec<T> = Vec::with_capacity(places.len());
    let mut failure = None;
    for &Place { mut addr, only_v6 } in places {
        if let (0, Some(first)) = (addr.port(), bound.first()) {
            addr.set_port(port(first));
        }
        match bind(Place { addr, only_v6 }) {
            Ok(socket) => bound.push(socket),
            Err(error @ BindError::InUse { .. }) => return Err(error),
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    match failure {
        Some(error) if bound.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

/// Returns whether an IPv4 address of the same port is listened on as well. `::` usually
/// includes IPv4, and would then be in its own way.
fn dual_stack(addrs: &[SocketAddr], port: &str, others: &[Source]) -> DualStack {
    let is_ipv4 = |other: &Source| match other.address() {
        Some(Address::Tcp { host, port: same }) => same == port && host.parse::<Ipv4Addr>().is_ok(),
        Some(Address::Unix(_)) | None => false,
    };
    let has_one = addrs.iter().any(SocketAddr::is_ipv4) || others.iter().any(is_ipv4);
    if has_one { DualStack::Ipv4 } else { DualStack::None }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DualStack {
    None,
    Ipv4,
}

/// Returns whether an address must not include IPv4: another socket has that.
fn is_v6_only(addr: SocketAddr, dual_stack: DualStack) -> bool {
    let is_wildcard = matches!(addr.ip(), IpAddr::V6(ip) if ip.is_unspecified());
    is_wildcard && dual_stack == DualStack::Ipv4
}

/// Looks up the places that `address` stands for, next to the sources `others`; none for a unix
/// socket. Blocks while a name is looked up.
pub(super) fn places(address: &Address, others: &[Source]) -> Result<Vec<Place>, BindError> {
    let Address::Tcp { host, port } = address else { return Ok(vec![]) };
    let addrs = look_up(host, port)
        .map_err(|cause| BindError::Unresolvable { address: address.clone(), cause })?;
    let dual_stack = dual_stack(&addrs, port, others);
    let place = |&addr: &SocketAddr| Place { addr, only_v6: is_v6_only(addr, dual_stack) };
    Ok(addrs.iter().map(place).collect())
}

fn bind_tcp(place: Place, backlog: i32) -> Result<Listener, BindError> {
    let Place { addr, only_v6 } = place;
    let bound = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        // A restart must not wait for the TIME_WAIT of connections before it.
        // On Linux this does not allow two listeners on one port.
        socket.set_reuse_address(true)?;
        if only_v6 {
            socket.set_only_v6(true)?;
        }
        socket.bind(&addr.into())?;
        socket.listen(backlog)?;
        let local = socket.local_addr()?.as_socket();
        let local = local.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        Ok(Listener { socket, local: Local::Tcp(local) })
    };
    bound().map_err(|error| blame_ip(addr, addr.to_string(), error))
}

/// Returns the reason why `address` cannot be listened on at this machine, whatever the port;
/// `None` where its family is there, or where that is not known without a name server.
pub fn missing_family(address: &Address) -> Option<BindError> {
    let Address::Tcp { host, .. } = address else { return None };
    let addr = SocketAddr::new(host.parse().ok()?, 0);
    let bound = Socket::new(Domain::for_address(addr), Type::STREAM, None)
        .and_then(|socket| socket.bind(&addr.into()));
    let error = blame_ip(addr, addr.to_string(), bound.err()?);
    matches!(error, BindError::NoFamily { .. }).then_some(error)
}

#[cfg(test)]
#[path = "listen_tests.rs"]
mod tests;
