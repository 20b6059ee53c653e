//! Count of the requests under way on an HTTP/2 connection, so that one without any can be ended:
//! nothing else bounds the time for which a client may hold it.
//!
//! A request is under way from the end of its header to the end of its answer. A header that is
//! not complete is none.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::timeout;

use super::body::{Body, BoxError};

/// Requests under way on a connection.
#[derive(Debug, Default)]
pub(super) struct Streams(watch::Sender<usize>);

/// A request under way, until this is dropped.
#[derive(Debug)]
pub(super) struct Stream(watch::Sender<usize>);

/// Body of an answer, whose request is under way as long as it is there.
#[derive(Debug)]
pub(super) struct StreamBody {
    body: Body,
    _stream: Stream,
}

impl Streams {
    /// Counts a request.
    pub(super) fn begin(&self) -> Stream {
        self.0.send_modify(|count| *count += 1);
        Stream(self.0.clone())
    }

    /// Waits until there was none for this long.
    pub(super) async fn none_for(&self, time: Duration) {
        let mut count = self.0.subscribe();
        loop {
            // The sender is here.
            let _ = count.wait_for(|count| *count == 0).await;
            if timeout(time, count.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl Stream {
    /// Counts the request until the end of this body.
    pub(super) fn until_end_of(self, body: Body) -> StreamBody {
        StreamBody { body, _stream: self }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl hyper::body::Body for StreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
