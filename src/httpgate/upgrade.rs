//! Connections that have changed to another protocol, WebSocket for example: bytes both ways until
//! both sides have ended, one of them breaks, nothing moves for too long, or the client's permission
//! is taken back. An end of one side is passed on, and the other may still answer it.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::{sleep, timeout};

use crate::reason::CloseReason;

/// Buffer of one direction.
const BUFFER: usize = 16 * 1024;

/// Time in which both connections have to be there once the answer says so.
const CHANGE_TIME: Duration = Duration::from_secs(10);

/// Both connections, once they have changed.
pub(super) struct BothSides {
    pub(super) client: OnUpgrade,
    pub(super) server: OnUpgrade,
}

/// A connection that counts what is read from it.
struct Counted<'a> {
    io: TokioIo<Upgraded>,
    read: &'a AtomicU64,
}

impl BothSides {
    /// Passes bytes both ways until both sides have ended, nothing moves for `idle`, or `ending`
    /// resolves.
    /// Returns the reason for the end.
    pub(super) async fn relay(
        self,
        ending: impl Future<Output = CloseReason>,
        idle: Option<Duration>,
    ) -> CloseReason {
        let relayed = self.relay_all(idle);
        tokio::select! {
            biased;
            reason = ending => reason,
            reason = relayed => reason,
        }
    }

    async fn relay_all(self, idle: Option<Duration>) -> CloseReason {
        let changed = async { tokio::try_join!(self.client, self.server) };
        let Ok(Ok((client, server))) = timeout(CHANGE_TIME, changed).await else {
            return CloseReason::PlainReset;
        };
        let read = Arc::new(AtomicU64::new(0));
        let mut client = Counted { io: TokioIo::new(client), read: &read };
        let mut server = Counted { io: TokioIo::new(server), read: &read };
        let mut copied =
            pin!(copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER));
        let Some(idle) = idle else { return reason(copied.await) };
        let mut seen = 0;
        loop {
            tokio::select! {
                biased;
                copied = &mut copied => return reason(copied),
                () = sleep(idle) => {}
            }
            let now = read.load(Ordering::Relaxed);
            if now == seen {
                return CloseReason::IdleTimeout;
            }
            seen = now;
        }
    }
}

fn reason(copied: io::Result<(u64, u64)>) -> CloseReason {
    if copied.is_ok() { CloseReason::Finished } else { CloseReason::PlainReset }
}

impl AsyncRead for Counted<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let more = buf.filled().len() - before;
        self.read.fetch_add(u64::try_from(more).unwrap_or_default(), Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
