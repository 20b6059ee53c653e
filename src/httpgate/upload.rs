//! Body of a request on its way to the server. It has its own permission and keeps the place of the
//! request, because it may go on when the answer has ended: a server may answer before it has read
//! all of it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::HeaderName;
use tokio::sync::Notify;

use super::ends::{BrokenBody, Held, Stall};
use super::hold::Hold;
use crate::http::fields::without_special;

/// Body of a request on its way to the server; `None` where there is none. Small, since hyper moves
/// it along with the request several times.
pub(super) struct RequestBody(Option<Box<Upload>>);

/// A body that there is.
pub(super) struct Upload {
    pub(super) body: Incoming,
    /// Waits for the server's word.
    pub(super) hold: Option<Hold>,
    pub(super) stall: Stall,
    /// Notified when all of it has gone, or none will.
    pub(super) sent: Arc<Notify>,
    /// The operator's field with the client's address, which no trailer may be.
    pub(super) client_header: Option<HeaderName>,
    pub(super) held: Held,
}

impl RequestBody {
    /// Makes the body of a request that has none.
    pub(super) fn nothing() -> Self {
        Self(None)
    }
}

impl From<Upload> for RequestBody {
    fn from(upload: Upload) -> Self {
        Self(Some(Box::new(upload)))
    }
}

impl Upload {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        if self.held.ending.as_mut().is_some_and(|ending| ending.as_mut().poll(cx).is_ready()) {
            self.held.ending = None;
            return Poll::Ready(Some(Err(BrokenBody::Ended)));
        }
        if let Some(hold) = &self.hold {
            match hold.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(never)) => return Poll::Ready(Some(Err(never.into()))),
                Poll::Ready(Ok(())) => self.hold = None,
            }
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.stall.moved();
                let frame = frame.map(|frame| frame.map_err(BrokenBody::from));
                let own = self.client_header.as_ref();
                Poll::Ready(frame.map(|frame| frame.map(|frame| without_special(frame, own))))
            }
            Poll::Pending => match self.stall.poll(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(BrokenBody::Stalled))),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |upload| upload.poll(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|upload| upload.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let upload = self.0.as_ref();
        upload.map_or_else(|| SizeHint::with_exact(0), |upload| upload.body.size_hint())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.sent.notify_one();
    }
}
