//! Connecting to a [`Target`] before a deadline.
//!
//! Several addresses are raced as in Happy Eyeballs (RFC 8305): families take turns, the next
//! attempt starts after [`STAGGER`] or as soon as one failed, and all continue until the deadline.
//! So one address that swallows packets costs a quarter of a second and not the whole time. Nothing
//! is retried here, with one exception that belongs nowhere else: a unix socket with a full backlog
//! refuses at once instead of letting a client queue as TCP does.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout_at};

use super::race::race;
use super::resolve::{Endpoint, ResolveError, Target};
use super::stream::{SocketOptions, Stream};
use crate::addr::BindAddress;

/// Head start of an attempt before the next one begins (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Pause before a unix socket with a full backlog is tried again.
const UNIX_RETRY: Duration = Duration::from_millis(10);

sockopt_impl!(
    /// Let `connect` choose the local port, not `bind`. Ports are then unique
    /// per destination and not per machine, so that `-b IP` does not run out of
    /// them after 28,000 connections.
    BindAddressNoPort,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_BIND_ADDRESS_NO_PORT,
    bool
);

/// Reason why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The host refused, or the socket file is missing.
    #[error("nothing listens at {address} ({cause}); start the service, or correct the address")]
    Refused {
        /// The address that was tried.
        address: String,
        /// The system's error.
        cause: io::Error,
    },
    /// The network reports that there is no route.
    #[error("{address} cannot be reached: {cause}; {remedy}", remedy = unreachable_remedy(cause))]
    Unreachable {
        /// The address that was tried.
        address: String,
        /// The system's error.
        cause: io::Error,
    },
    /// No answer before the deadline.
    #[error(
        "no answer in time, so that a firewall may swallow it or the host be down; check both and the address, or allow more time with -o"
    )]
    Timeout,
    /// There is no address to dial.
    #[error(transparent)]
    Unresolved(#[from] ResolveError),
    /// This machine lacks something: descriptors, memory, the bind address.
    #[error("cannot open a connection: {0}; check the bind address and the limits of this process")]
    Local(io::Error),
}

/// Returns the remedy when the network, or this host itself, reports that there is no route.
fn unreachable_remedy(cause: &io::Error) -> &'static str {
    match cause.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENETUNREACH) => "this host has no route there; check the address, and routes",
        Some(Errno::EHOSTUNREACH | Errno::EHOSTDOWN) => {
            "check that the host is up, and that no firewall rejects it"
        }
        Some(Errno::EACCES | Errno::EPERM) => {
            "permissions of a socket file, a firewall of this host or its sandbox forbid it"
        }
        _ => "check route, firewall and address, and limits at the other end",
    }
}

/// Connects to the first address of `target` that answers before `deadline`.
///
/// Cancel safe: dropping the future closes all attempts.
///
/// # Errors
/// [`DialError`]; when several addresses failed differently, the most telling
/// one: a refusal before anything else.
pub async fn dial(
    target: &Target,
    bind: Option<BindAddress>,
    options: &SocketOptions,
    deadline: Instant,
) -> Result<Stream, DialError> {
    dial_after(target, bind, options, deadline, |_| None).await
}

/// Does the same, and calls `before` with each address right before it is dialled. The local
/// address that this returns, if any, is the one to dial from, unless `bind` names another.
///
/// # Errors
/// As [`dial`].
pub async fn dial_after(
    target: &Target,
    bind: Option<BindAddress>,
    options: &SocketOptions,
    deadline: Instant,
    before: impl Fn(SocketAddr) -> Option<IpAddr>,
) -> Result<Stream, DialError> {
    let attempt = async |addr| {
        let own = before(addr).map(|ip| BindAddress { ip, port: 0 });
        tcp(addr, bind.or(own)).await
    };
    let connected = async {
        match target {
            Target::Unix(path) => unix(path).await.map(Stream::Unix),
            Target::Ips(addrs) => first_of(addrs, bind, attempt).await.map(Stream::Tcp),
        }
    };
    let stream = timeout_at(deadline, connected).await.unwrap_or(Err(DialError::Timeout))?;
    if let Stream::Tcp(socket) = &stream {
        options.apply(socket);
    }
    Ok(stream)
}

/// Returns the addresses in the order of attempts: families take turns, beginning with the one that
/// the system prefers. Only those that `bind` can reach.
fn turns(addrs: &[Endpoint], bind: Option<BindAddress>) -> Result<Vec<&Endpoint>, DialError> {
    let usable = |addr: &&Endpoint| bind.is_none_or(|b| b.ip.is_ipv4() == addr.is_ipv4());
    let first_is_v4 = addrs.first().is_some_and(Endpoint::is_ipv4);
    let (mut one, mut other): (VecDeque<_>, VecDeque<_>) =
        addrs.iter().filter(usable).partition(|addr| addr.is_ipv4() == first_is_v4);
    let mut order = Vec::with_capacity(addrs.len());
    while !(one.is_empty() && other.is_empty()) {
        order.extend(one.pop_front());
        order.extend(other.pop_front());
    }
    if order.is_empty() {
        let why = "the target has no address of the bind address's family";
        return Err(DialError::Local(io::Error::new(io::ErrorKind::AddrNotAvailable, why)));
    }
    Ok(order)
}

/// Races `attempt` over `addrs`, each ahead of the next by [`STAGGER`], and returns what the
/// first success gives.
///
/// # Errors
/// The most telling one: a refusal before anything else.
pub(super) async fn first_of<T, F>(
    addrs: &[Endpoint],
    bind: Option<BindAddress>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, DialError>
where
    F: Future<Output = Result<T, DialError>>,
{
    let addrs = turns(addrs, bind)?;
    let attempt = &attempt;
    let raced = race(0..addrs.len(), STAGGER, |i| {
        let addr = addrs[i].now().map_err(|cause| blame(addrs[i].to_string(), cause));
        async move { attempt(addr?).await }
    });
    let raced = raced.await;
    match raced.won {
        Some((_, won)) => Ok(won),
        None => {
            let failed = raced.failed.into_iter().map(|(_, error)| error);
            Err(failed.reduce(more_telling).unwrap_or(DialError::Timeout))
        }
    }
}

fn more_telling(old: DialError, new: DialError) -> DialError {
    if matches!(new, DialError::Refused { .. }) { new } else { old }
}

async fn tcp(addr: SocketAddr, bind: Option<BindAddress>) -> Result<TcpStream, DialError> {
    let socket = open(addr, bind).map_err(DialError::Local)?;
    let stream = socket.connect(addr).await.map_err(|e| blame(addr.to_string(), e))?;
    if is_to_itself(&stream, addr) {
        return Err(blame(addr.to_string(), io::ErrorKind::ConnectionRefused.into()));
    }
    Ok(stream)
}

pub(super) fn open(addr: SocketAddr, bind: Option<BindAddress>) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(BindAddress { ip, port }) = bind {
        // Otherwise the TIME_WAIT of the last connection would block a fixed port.
        socket.set_reuseaddr(true)?;
        if port == 0 {
            setsockopt(&socket, BindAddressNoPort, &true)?;
        }
        socket.bind(SocketAddr::new(ip, port))?;
    }
    Ok(socket)
}

/// Returns whether a socket is connected to itself. TCP allows that when the kernel happens to pick
/// the target's port as the local one, which happens on loopback while a target that uses a high
/// port is down. It would answer everything with an echo.
pub(super) fn is_to_itself(stream: &TcpStream, addr: SocketAddr) -> bool {
    let local = match addr.ip() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified(),
    };
    if !local {
        return false;
    }
    // The ports almost always differ, and each address costs a system call.
    let own = stream.local_addr().ok().filter(|own| own.port() == addr.port());
    own.is_some() && own == stream.peer_addr().ok()
}

pub(super) async fn unix(path: &Path) -> Result<UnixStream, DialError> {
    loop {
        match UnixStream::connect(path).await {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => sleep(UNIX_RETRY).await,
            result => return result.map_err(|e| blame(path.display().to_string(), e)),
        }
    }
}

pub(super) fn blame(address: String, cause: io::Error) -> DialError {
    match cause.raw_os_error().map(Errno::from_raw) {
        Some(
            Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOBUFS
            | Errno::ENOMEM
            | Errno::EADDRNOTAVAIL
            | Errno::EADDRINUSE
            | Errno::EAGAIN,
        ) => DialError::Local(cause),
        Some(Errno::ETIMEDOUT) => DialError::Timeout,
        _ => match cause.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                DialError::Refused { address, cause }
            }
            _ => DialError::Unreachable { address, cause },
        },
    }
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
