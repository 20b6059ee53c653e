//! Serves one connection of an HTTP client: header lines within a deadline, one answer, the end.
//!
//! The whole connection has a time limit. The number of clients is bounded elsewhere: the accept
//! loop displaces the oldest, so that a slow one keeps no other out.

use std::convert::Infallible;
use std::sync::OnceLock;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::limits::Limits;
use crate::net::Stream;
use crate::printable::printable;

const TEXT: &str = "text/plain; charset=utf-8";

/// A server of one request for each connection.
#[derive(Clone, Debug)]
pub struct Server {
    limits: Limits,
    /// Answers that the process waits for before it ends.
    answering: TaskTracker,
}

impl Server {
    /// Serves within `limits`. From its request on, `answering` has a token of a client.
    pub fn new(limits: Limits, answering: TaskTracker) -> Self {
        Self { limits, answering }
    }

    /// Answers one client with what `respond` gives. Returns when the connection has ended.
    pub async fn serve(
        &self,
        stream: Stream,
        respond: impl Fn(&Request<Incoming>) -> Response<Bytes>,
    ) {
        let under_way = OnceLock::new();
        let service = service_fn(|request: Request<Incoming>| {
            under_way.get_or_init(|| self.answering.token());
            let response = respond(&request).map(Full::new);
            async { Ok::<_, Infallible>(response) }
        });
        let Limits { header_timeout, total_timeout, max_header, .. } = self.limits;
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(max_header)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        // A malformed request was answered already.
        let _ = timeout(total_timeout, connection).await;
    }
}

/// Makes an answer of one line, which no cache keeps.
pub fn text(status: StatusCode, line: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{}\n", printable(line))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
