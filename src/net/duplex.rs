//! The two directions of a connection, each usable without the other.
//!
//! The relay is written against these traits, so that the same code moves
//! bytes over TCP, unix sockets, standard input and output, and the in-memory
//! pipes of its tests.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::sys::uio::readv;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{tcp, unix};

use super::keepalive::{DeadPeerWatch, is_probing};
use super::stream::Stream;

/// A connection that can be used in both directions at once.
pub trait Duplex: Send {
    /// The reading direction.
    type Read<'a>: ReadSide
    where
        Self: 'a;
    /// The writing direction.
    type Write<'a>: WriteSide
    where
        Self: 'a;

    /// Returns both directions.
    fn split(&mut self) -> (Self::Read<'_>, Self::Write<'_>);

    /// Closes after both directions have ended well.
    fn finish(self) -> impl Future<Output = ()> + Send;

    /// Closes in a way that the peer cannot mistake for a clean end, after delivering what was
    /// written as far as possible.
    fn abort(self) -> impl Future<Output = ()> + Send;
}

/// Source of bytes. The defaults serve a source that offers nothing but reading; a socket can do
/// better.
pub trait ReadSide: AsyncRead + Unpin + Send {
    /// Waits until a read is likely to return at once, so that a buffer is borrowed only then.
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Reads what is there into several places, in order. Zero bytes are the end.
    fn poll_read_slots(
        &mut self,
        cx: &mut Context<'_>,
        slots: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(&mut slots[0]);
        ready!(Pin::new(self).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Resolves when the connection is reset after its reading direction ended.
    fn broken(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// Destination of bytes. The defaults serve one of which nothing else is known.
pub trait WriteSide: AsyncWrite + Unpin + Send {
    /// Returns whether the system is probing the peer and has no answer yet. A write would then
    /// restart the system's timeout.
    fn is_in_doubt(&self) -> bool {
        false
    }
}

/// The reading direction of a [`Stream`].
pub enum ReadHalf<'a> {
    /// Of a TCP connection, with a watch where the kernel needs one, which is rare.
    Tcp(tcp::ReadHalf<'a>, Option<Box<DeadPeerWatch>>),
    /// Of a unix socket.
    Unix(unix::ReadHalf<'a>),
}

/// The writing direction of a [`Stream`].
pub enum WriteHalf<'a> {
    /// Of a TCP connection.
    Tcp(tcp::WriteHalf<'a>),
    /// Of a unix socket.
    Unix(unix::WriteHalf<'a>),
}

impl Duplex for Stream {
    type Read<'a> = ReadHalf<'a>;
    type Write<'a> = WriteHalf<'a>;

    fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        match self {
            Self::Tcp(socket) => {
                let (read, write) = socket.split();
                let watch = DeadPeerWatch::if_needed(read.as_ref()).map(Box::new);
                (ReadHalf::Tcp(read, watch), WriteHalf::Tcp(write))
            }
            Self::Unix(socket) => {
                let (read, write) = socket.split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
        }
    }

    async fn finish(self) {
        self.close();
    }

    async fn abort(self) {
        self.reset();
    }
}

/// Runs the same expression on whichever half this is.
macro_rules! on_either {
    ($half:expr, $inner:ident => $body:expr) => {
        match $half {
            Self::Tcp($inner, ..) => $body,
            Self::Unix($inner) => $body,
        }
    };
}

impl ReadSide for ReadHalf<'_> {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Tcp(half, Some(watch)) = self
            && watch.poll_vanished(cx, half.as_ref())
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        on_either!(self, half => half.as_ref().poll_read_ready(cx))
    }

    fn poll_read_slots(
        &mut self,
        cx: &mut Context<'_>,
        slots: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let room: usize = slots.iter().map(|slot| slot.len()).sum();
        loop {
            ready!(self.poll_readable(cx))?;
            let mut short = 0;
            // A short read has emptied the socket. tokio learns that only from an error, and would
            // otherwise ask the kernel once more.
            let mut read = |socket: BorrowedFd<'_>| match readv(socket, slots)? {
                got if got == 0 || got == room => Ok(got),
                got => {
                    short = got;
                    Err(io::ErrorKind::WouldBlock.into())
                }
            };
            let result = on_either!(self, half => {
                let socket = half.as_ref();
                socket.try_io(Interest::READABLE, || read(socket.as_fd()))
            });
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && short == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Ok(short));
                }
                result => return Poll::Ready(result),
            }
        }
    }

    async fn broken(&self) {
        // Whatever the result, the connection carries no more data.
        let _ = on_either!(self, half => half.ready(Interest::ERROR).await);
    }
}

impl AsyncRead for ReadHalf<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_either!(self.get_mut(), half => Pin::new(half).poll_read(cx, buf))
    }
}

impl WriteSide for WriteHalf<'_> {
    fn is_in_doubt(&self) -> bool {
        match self {
            Self::Tcp(half) => is_probing(half.as_ref()),
            Self::Unix(_) => false,
        }
    }
}

impl AsyncWrite for WriteHalf<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_either!(self.get_mut(), half => Pin::new(half).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_either!(self.get_mut(), half => Pin::new(half).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self.get_mut(), half => Pin::new(half).poll_shutdown(cx))
    }
}
