//! Connection of a client: it ends cleanly, unless an answer was broken off, and a client that
//! takes nothing for too long is given up.
//!
//! Where an answer ends with its connection, a clean end would make a broken answer look whole.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::net::Stream;

/// Mark of a connection with an answer that was broken off. Clones are the same mark.
#[derive(Clone, Debug, Default)]
pub struct BrokenOff(Arc<AtomicBool>);

/// A client's connection.
#[derive(Debug)]
pub struct ClientStream {
    stream: Stream,
    broken_off: BrokenOff,
    /// Longest time in which the client takes nothing.
    limit: Option<Duration>,
    /// Set while it takes nothing.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl BrokenOff {
    /// Makes the connection end with a reset.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl ClientStream {
    /// Wraps an accepted connection.
    pub fn new(stream: Stream, broken_off: BrokenOff, limit: Option<Duration>) -> Self {
        stream.end_cleanly();
        Self { stream, broken_off, limit, alarm: None }
    }

    /// Returns what a write says, or an error once the client has taken nothing for too long.
    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(limit) = self.limit else { return written };
        if written.is_ready() {
            self.alarm = None;
            return written;
        }
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(limit)));
        if alarm.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.broken_off.set();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.broken_off.is_set() {
            self.stream.reset_unless_finished();
        }
    }
}
