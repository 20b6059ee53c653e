//! Bodies on their way through: frame by frame, as they come, and no further than the receiver
//! takes them.
//!
//! A body ends before its time when nothing moves for too long, when the gate takes the client's
//! permission back, or when the other side of the exchange has gone. The receiver then sees a
//! broken message and never a shorter one.
//!
//! hyper asks for no more of a body while its client takes none: a task then watches for the end.
//! In HTTP/1.1 a client can leave but so much untaken before the end of its connection is due; in
//! HTTP/2 it can take nothing of one answer for ever, so that each is watched from its beginning.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::ends::{BrokenBody, Ending, Held, Stall};
use super::server::Lease;
use crate::http::fields::without_special;
use crate::net::Slot;
use crate::web::Visitor;

/// Bytes after which an answer is one that may take long.
const LONG: usize = 64 * 1024;

/// Time in which hyper has to ask once more for an answer that has to end.
const LAST_LOOK: Duration = Duration::from_secs(10);

/// Use of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// One request at a time: HTTP/1.1.
    Single,
    /// Several requests of one client.
    Client,
    /// Requests of several clients, which a trusted proxy brings.
    Proxy,
}

/// A client's connection, as far as an answer can end it.
pub(super) struct Client {
    pub(super) visitor: Arc<Visitor>,
    pub(super) line: Line,
}

/// Body of an answer on its way to the client. The server's connection waits for the next request
/// once it has ended.
pub(super) struct ResponseBody {
    body: Incoming,
    lease: Option<Lease>,
    end: EarlyEnd,
    client: Client,
    stall: Stall,
    /// Bytes so far, up to [`LONG`].
    bytes: usize,
    _slot: Arc<Slot>,
}

/// Early end of an answer.
enum EarlyEnd {
    /// None but that of the connection.
    Never,
    /// Not waited for, since the answer may be short.
    Unwatched(Ending),
    /// Waited for by a task, because hyper asks for no more of a body while its client reads none.
    Watched { told: oneshot::Receiver<BrokenBody>, moved: Moved, _watch: DropGuard },
}

/// Frames so far, for the task that watches.
#[derive(Clone, Default)]
struct Moved(Arc<AtomicUsize>);

/// Causes for the early end of an answer that a task watches for.
struct Watch {
    ending: Option<Ending>,
    /// Longest time in which it does not move.
    idle: Option<Duration>,
    moved: Moved,
    visitor: Arc<Visitor>,
    line: Line,
}

// === impl Watch ===

impl Watch {
    /// Starts to watch.
    fn start(self) -> EarlyEnd {
        let (tell, told) = oneshot::channel();
        let over = CancellationToken::new();
        let moved = self.moved.clone();
        let is_over = over.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = is_over.cancelled() => {}
                () = self.run(tell) => {}
            }
        });
        EarlyEnd::Watched { told, moved, _watch: over.drop_guard() }
    }

    async fn run(mut self, tell: oneshot::Sender<BrokenBody>) {
        let ending = async {
            match &mut self.ending {
                Some(ending) => drop(ending.await),
                None => std::future::pending().await,
            }
        };
        let cause = tokio::select! {
            () = ending => BrokenBody::Ended,
            () = self.moved.stalled(self.idle) => BrokenBody::Stalled,
        };
        let is_revoked = matches!(cause, BrokenBody::Ended);
        let _ = tell.send(cause);
        if self.line == Line::Proxy || !is_revoked {
            // Other requests of this connection may go on, unless this one does not end.
            sleep(LAST_LOOK).await;
        }
        self.visitor.end();
    }
}

impl Moved {
    fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until there was no frame for this long, and at most twice that.
    async fn stalled(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return std::future::pending().await };
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            sleep(limit).await;
            let now = self.0.load(Ordering::Relaxed);
            if now == seen {
                return;
            }
            seen = now;
        }
    }
}

// === impl EarlyEnd ===

impl EarlyEnd {
    /// Waits for the end from now on, whether the body is asked for or not.
    fn watch(&mut self, client: &Client) {
        *self = match std::mem::replace(self, Self::Never) {
            Self::Unwatched(ending) => {
                let Client { visitor, line } = client;
                let visitor = Arc::clone(visitor);
                let moved = Moved::default();
                // In HTTP/1.1 the connection has the same limit.
                Watch { ending: Some(ending), idle: None, moved, visitor, line: *line }.start()
            }
            other => other,
        };
    }

    /// Notes a frame that came.
    fn moved(&self) {
        if let Self::Watched { moved, .. } = self {
            moved.note();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BrokenBody> {
        let cause = match self {
            Self::Never => return Poll::Pending,
            Self::Unwatched(ending) => {
                std::task::ready!(ending.as_mut().poll(cx));
                BrokenBody::Ended
            }
            Self::Watched { told, .. } => {
                std::task::ready!(Pin::new(told).poll(cx)).unwrap_or(BrokenBody::Ended)
            }
        };
        *self = Self::Never;
        Poll::Ready(cause)
    }
}

// === impl ResponseBody ===

impl ResponseBody {
    /// Wraps a server's body for a client.
    pub(super) fn new(
        body: Incoming,
        lease: Lease,
        held: Held,
        idle: Option<Duration>,
        client: Client,
    ) -> Self {
        let Held { ending, slot } = held;
        let (end, stall) = match client.line {
            Line::Single => (ending.map_or(EarlyEnd::Never, EarlyEnd::Unwatched), idle),
            _ if body.is_end_stream() => (EarlyEnd::Never, None),
            line => {
                let visitor = Arc::clone(&client.visitor);
                let watch = Watch { ending, idle, moved: Moved::default(), visitor, line };
                (watch.start(), None)
            }
        };
        let stall = Stall::new(stall);
        Self { body, lease: Some(lease), end, client, stall, bytes: 0, _slot: slot }
    }

    /// Lets the server's connection wait for another request.
    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    /// Notes a frame that came.
    fn came(&mut self, frame: &Frame<Bytes>) {
        self.stall.moved();
        self.end.moved();
        if self.bytes < LONG {
            self.bytes += frame.data_ref().map_or(0, Bytes::len);
            if self.bytes >= LONG {
                self.end.watch(&self.client);
            }
        }
    }

    /// Breaks the client's answer off. HTTP/2 has a word for that, and the connection lives on.
    fn broken(&self, cause: impl Into<BrokenBody>) -> BrokenBody {
        let cause = cause.into();
        match (self.client.line, &cause) {
            (Line::Single, _) => self.client.visitor.break_off(),
            (Line::Client, BrokenBody::Ended) => self.client.visitor.end(),
            (Line::Client | Line::Proxy, _) => {}
        }
        cause
    }

    /// Waits for a cause to end before the sender does.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<BrokenBody> {
        self.end.watch(&self.client);
        if let Poll::Ready(cause) = self.end.poll(cx) {
            return Poll::Ready(cause);
        }
        self.stall.poll(cx).map(|()| BrokenBody::Stalled)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        if let Poll::Ready(cause) = self.end.poll(cx) {
            return Poll::Ready(Some(Err(self.broken(cause))));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.came(&frame);
                Poll::Ready(Some(Ok(without_special(frame, None))))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(self.broken(error)))),
            Poll::Pending => match self.poll_broken(cx) {
                Poll::Ready(broken) => Poll::Ready(Some(Err(self.broken(broken)))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.finish();
        }
    }
}
