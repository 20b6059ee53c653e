//! Bodies on their way through: frame by frame, as they come, and no further than the receiver
//! takes them.
//!
//! A body ends before its time when nothing moves for too long, when the gate takes the client's
//! permission back, or when the other side of the exchange has gone. The receiver then sees a
//! broken message and never a shorter one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::hold::{Hold, NeverSent};
use super::server::Lease;
use crate::net::Slot;
use crate::reason::CloseReason;
use crate::web::Visitor;

/// Bytes after which an answer is one that may take long.
const LONG: usize = 64 * 1024;

/// Resolves when an exchange has to end although both sides go on. Holds the gate's permit.
pub(super) type Ending = Pin<Box<dyn Future<Output = CloseReason> + Send>>;

/// Cause of a body that ends before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum BrokenBody {
    /// The sender's connection broke.
    #[error("the sender ended it: {0}")]
    Sender(#[from] hyper::Error),
    /// Nothing came for too long.
    #[error("nothing came for too long")]
    Stalled,
    /// It was not wanted.
    #[error(transparent)]
    NeverSent(#[from] NeverSent),
    /// The exchange had to end.
    #[error("the client's permission was taken back")]
    Ended,
}

/// Guards of an exchange, until its end.
pub(super) struct Held {
    /// Its early end; `None` where that of the connection is enough.
    pub(super) ending: Option<Ending>,
    /// Its place among the requests at once.
    pub(super) slot: Slot,
}

/// Limit of the time in which nothing comes.
#[derive(Debug)]
struct Stall {
    limit: Option<Duration>,
    /// The moment at which something last came, while the alarm is set.
    last: Instant,
    /// Set once there was a wait: most bodies come at once.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// Body of a request on its way to the server.
#[derive(Debug)]
pub(super) struct RequestBody {
    /// `None` where there is none.
    body: Option<Incoming>,
    hold: Option<Hold>,
    stall: Stall,
    /// Notified when all of it has gone, or none will.
    sent: Option<Arc<Notify>>,
}

/// Body of an answer on its way to the client. The server's connection waits for the next request
/// once it has ended.
pub(super) struct ResponseBody {
    body: Incoming,
    lease: Option<Lease>,
    end: EarlyEnd,
    /// The client's connection, if it has no other client.
    visitor: Option<Arc<Visitor>>,
    stall: Stall,
    /// Bytes so far, up to [`LONG`].
    bytes: usize,
    _slot: Slot,
}

/// Early end of an answer.
enum EarlyEnd {
    /// None but that of the connection.
    Never,
    /// Not waited for, since the answer may be short.
    Unwatched(Ending),
    /// Waited for by a task, because hyper asks for no more of a body while its client reads none.
    Watched { told: Pin<Box<WaitForCancellationFutureOwned>>, _watch: DropGuard },
}

// === impl Stall ===

impl Stall {
    fn new(limit: Option<Duration>) -> Self {
        Self { limit, last: Instant::now(), alarm: None }
    }

    /// Notes that something came.
    fn moved(&mut self) {
        if self.alarm.is_some() {
            self.last = Instant::now();
        }
    }

    /// Waits until nothing has come for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        if self.alarm.is_none() {
            self.last = Instant::now();
        }
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(limit)));
        while alarm.as_mut().poll(cx).is_ready() {
            let end = self.last + limit;
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(end);
        }
        Poll::Pending
    }
}

// === impl RequestBody ===

impl RequestBody {
    /// Wraps a client's body. `sent` is notified when all of it has gone.
    pub(super) fn new(
        body: Incoming,
        hold: Option<Hold>,
        idle: Option<Duration>,
        sent: Option<Arc<Notify>>,
    ) -> Self {
        Self { body: Some(body), hold, stall: Stall::new(idle), sent }
    }

    /// Makes the body of a request that has none.
    pub(super) fn nothing() -> Self {
        Self { body: None, hold: None, stall: Stall::new(None), sent: None }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        if let Some(hold) = &self.hold {
            match hold.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(never)) => return Poll::Ready(Some(Err(never.into()))),
                Poll::Ready(Ok(())) => self.hold = None,
            }
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.stall.moved();
                Poll::Ready(frame.map(|frame| frame.map_err(BrokenBody::from)))
            }
            Poll::Pending => match self.stall.poll(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(BrokenBody::Stalled))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.sent.iter().for_each(|sent| sent.notify_one());
    }
}

// === impl EarlyEnd ===

impl EarlyEnd {
    /// Waits for the end from now on, whether the body is asked for or not.
    fn watch(&mut self, visitor: Option<&Arc<Visitor>>) {
        let ending = match std::mem::replace(self, Self::Never) {
            Self::Unwatched(ending) => ending,
            other => {
                *self = other;
                return;
            }
        };
        let (told, over) = (CancellationToken::new(), CancellationToken::new());
        let tell = told.clone();
        let is_over = over.clone();
        let visitor = visitor.cloned();
        tokio::spawn(async move {
            tokio::select! {
                _reason = ending => {
                    tell.cancel();
                    visitor.iter().for_each(|visitor| visitor.end());
                }
                () = is_over.cancelled() => {}
            }
        });
        *self = Self::Watched { told: Box::pin(told.cancelled_owned()), _watch: over.drop_guard() };
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Watched { told, .. } => told.as_mut().poll(cx),
            Self::Never | Self::Unwatched(_) => Poll::Pending,
        }
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
        visitor: Option<Arc<Visitor>>,
    ) -> Self {
        let Held { ending, slot } = held;
        let end = ending.map_or(EarlyEnd::Never, EarlyEnd::Unwatched);
        let stall = Stall::new(idle);
        Self { body, lease: Some(lease), end, visitor, stall, bytes: 0, _slot: slot }
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
        if self.bytes < LONG {
            self.bytes += frame.data_ref().map_or(0, Bytes::len);
            if self.bytes >= LONG {
                self.end.watch(self.visitor.as_ref());
            }
        }
    }

    /// Breaks the client's answer off.
    fn broken(&self, cause: impl Into<BrokenBody>) -> BrokenBody {
        self.visitor.iter().for_each(|visitor| visitor.break_off());
        cause.into()
    }

    /// Waits for a cause to end before the sender does.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<BrokenBody> {
        self.end.watch(self.visitor.as_ref());
        if self.end.poll(cx).is_ready() {
            return Poll::Ready(BrokenBody::Ended);
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
        if self.end.poll(cx).is_ready() {
            return Poll::Ready(Some(Err(self.broken(BrokenBody::Ended))));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.came(&frame);
                Poll::Ready(Some(Ok(frame)))
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
