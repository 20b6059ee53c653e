//! One connection, TCP or unix, with the operations that both share.
//!
//! Waiting needs no buffer: [`Stream::poll_readable`] reports when there is something to read, so
//! an idle connection costs a descriptor and nothing else. No policy here: the callers decide what
//! an error means for a session.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::keepalive::{self, Path};
use crate::addr::ClientAddr;

/// Longest list of parts that is written as one: a list costs the system more than copying so much.
const GATHERED: usize = 1024;

/// A connected stream socket.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

/// A second descriptor, to observe a connection that another task uses.
#[derive(Debug)]
pub struct Witness(Option<OwnedFd>);

/// Options of every TCP connection, accepted or dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Notices a vanished peer within a minute, and keeps NAT entries on the path from expiring.
    pub keepalive: bool,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { keepalive: true }
    }
}

impl SocketOptions {
    /// Sets the options. Best effort: a socket that refuses is already broken,
    /// and the next read or write says so.
    ///
    /// TCP_NODELAY is always set, for a reason: this program already gathers all available bytes
    /// into one write, so Nagle's algorithm has nothing left to merge. It would only hold a short
    /// request back until the previous data is acknowledged, which delayed acknowledgements stretch
    /// to 40 ms, at each of three hops.
    ///
    /// Connections that a listening socket accepts inherit its options.
    pub(super) fn apply(&self, socket: &impl AsFd) {
        let _ = SockRef::from(socket).set_tcp_nodelay(true);
        if self.keepalive {
            keepalive::keep_alive(socket);
        } else {
            // A listening socket may have had other options before.
            let _ = SockRef::from(socket).set_keepalive(false);
        }
    }
}

/// Runs the same expression on whichever socket this is.
macro_rules! on_either {
    ($stream:expr, $socket:ident => $body:expr) => {
        match $stream {
            Stream::Tcp($socket) => $body,
            Stream::Unix($socket) => $body,
        }
    };
}

impl Stream {
    /// Registers the connection with the runtime that the caller is in.
    ///
    /// # Errors
    /// When the system watches no more descriptors; then the connection is closed.
    pub fn reregister(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(TcpStream::from_std(socket.into_std()?)?),
            Self::Unix(socket) => Self::Unix(UnixStream::from_std(socket.into_std()?)?),
        })
    }

    /// Returns whether the system has nothing to report: no bytes, no end, no error.
    pub fn is_idle(&self) -> bool {
        self.peek().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Resolves when this is no longer idle; true if there are bytes, false at the end. Unlike
    /// [`Self::poll_readable`] it is never wrong.
    ///
    /// # Errors
    /// The connection's, which a read will not see again.
    pub async fn readable(&self) -> io::Result<bool> {
        let peek = || self.peek();
        let got = on_either!(self, socket => socket.async_io(Interest::READABLE, peek).await)?;
        Ok(got > 0)
    }

    /// Returns whether the peer has ended its direction, as far as this host has heard,
    /// even if it sent something before that.
    pub fn is_ended_by_peer(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let ready = on_either!(self, socket => {
            pin!(socket.ready(Interest::READABLE)).poll(&mut cx)
        });
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// Writes what the system takes at once.
    ///
    /// # Errors
    /// The connection's; [`io::ErrorKind::WouldBlock`] where it takes nothing now.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        on_either!(self, socket => socket.try_write(bytes))
    }

    /// Returns whether the peer is being probed for a sign of life, and has not answered yet.
    pub fn is_in_doubt(&self) -> bool {
        match self {
            Self::Tcp(socket) => keepalive::is_probing(socket),
            Self::Unix(_) => false,
        }
    }

    /// Marks the connection as waiting for use, so that it is probed often.
    pub fn wait_for_use(&self) {
        if let Self::Tcp(socket) = self {
            keepalive::ask_often(socket);
        }
    }

    /// Marks the connection as in ordinary use.
    pub fn use_again(&self) {
        if let Self::Tcp(socket) = self {
            keepalive::ask_as_usual(socket);
        }
    }

    /// Returns whether the peer's system has answered a moment ago. Always true for a peer on the
    /// same host: there is no path that could break.
    pub fn is_heard_lately(&self) -> bool {
        match self {
            Self::Tcp(socket) => keepalive::is_heard_lately(socket),
            Self::Unix(_) => true,
        }
    }

    /// Returns whether something was sent that the peer's system has not acknowledged.
    pub fn is_unacknowledged(&self) -> bool {
        match self {
            Self::Tcp(socket) => keepalive::is_unacknowledged(socket),
            Self::Unix(_) => false,
        }
    }

    /// Returns the system's estimate of a round trip; zero where it has none.
    pub fn round_trip(&self) -> Duration {
        match self {
            Self::Tcp(socket) => keepalive::round_trip(socket),
            Self::Unix(_) => Duration::ZERO,
        }
    }

    /// Duplicates the connection's descriptor, for observation only.
    ///
    /// # Errors
    /// When there is none to spare.
    pub fn witness(&self) -> io::Result<Witness> {
        Ok(Witness(match self {
            Self::Tcp(socket) => Some(socket.as_fd().try_clone_to_owned()?),
            Self::Unix(_) => None,
        }))
    }

    /// Returns the largest packet sizes on the path to the peer; `None` over a unix socket.
    pub fn path(&self) -> Option<Path> {
        match self {
            Self::Tcp(socket) => Path::of(socket),
            Self::Unix(_) => None,
        }
    }

    fn peek(&self) -> io::Result<usize> {
        let mut byte = [MaybeUninit::uninit()];
        on_either!(self, socket => SockRef::from(socket).peek(&mut byte))
    }

    /// Returns the address of the other end, as far as the system still knows.
    pub fn remote(&self) -> ClientAddr {
        match self {
            Self::Tcp(socket) => socket.peer_addr().map_or(ClientAddr::Unix, ClientAddr::from),
            Self::Unix(_) => ClientAddr::Unix,
        }
    }

    /// Returns the address of this end, as far as the system still knows.
    pub fn local(&self) -> ClientAddr {
        match self {
            Self::Tcp(socket) => socket.local_addr().map_or(ClientAddr::Unix, ClientAddr::from),
            Self::Unix(_) => ClientAddr::Unix,
        }
    }

    /// Makes the peer see a reset from now on when this is dropped, for whatever reason, until
    /// [`Self::close`]. So a crash or a kill does not look like a clean end to an application. A
    /// unix socket has no reset.
    pub fn reset_unless_finished(&self) {
        if let Self::Tcp(socket) = self {
            let _ = socket.set_zero_linger();
        }
    }

    /// Makes the peer see a clean end when this is dropped: what was written is sent before.
    pub fn end_cleanly(&self) {
        if let Self::Tcp(socket) = self {
            let _ = SockRef::from(socket).set_linger(None);
        }
    }

    /// Closes cleanly: what was written is sent, and then the end.
    pub fn close(self) {
        self.end_cleanly();
    }

    /// Closes so that the peer sees a reset and never a clean end. What was
    /// written and not yet sent is lost. A unix socket has no reset: there the
    /// peer sees an error if it had unread data here, and an end otherwise.
    pub fn reset(self) {
        if let Self::Tcp(socket) = self {
            let _ = socket.set_zero_linger();
        }
    }
}

impl Witness {
    /// Returns whether the peer's system leaves what was sent unacknowledged for longer than an
    /// acknowledgement takes.
    pub fn is_overdue(&self) -> bool {
        self.0.as_ref().is_some_and(keepalive::is_overdue)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_either!(self.get_mut(), socket => Pin::new(socket).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_either!(self.get_mut(), socket => Pin::new(socket).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = [0; GATHERED];
        let whole = match bufs {
            [one] => &**one,
            _ => gather(bufs, &mut gathered),
        };
        if !whole.is_empty() {
            return self.poll_write(cx, whole);
        }
        on_either!(self.get_mut(), socket => Pin::new(socket).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: sockets buffer nothing here.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends this direction only (`SHUT_WR`).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self.get_mut(), socket => Pin::new(socket).poll_shutdown(cx))
    }
}

/// Joins small parts in `room`; returns nothing where they do not fit.
fn gather<'a>(parts: &[IoSlice<'_>], room: &'a mut [u8; GATHERED]) -> &'a [u8] {
    let length = parts.iter().map(|part| part.len()).sum();
    if length > GATHERED {
        return &[];
    }
    let mut rest = &mut room[..];
    for part in parts {
        let (place, behind) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = behind;
    }
    &room[..length]
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp(socket)
    }
}

impl From<UnixStream> for Stream {
    fn from(socket: UnixStream) -> Self {
        Self::Unix(socket)
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
