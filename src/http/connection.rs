//! Serves the requests of one connection: HTTP/1.1 with upgrades, or HTTP/2 where TLS agreed on it.
//!
//! Which of both it is was settled by ALPN: a plain connection never changes to HTTP/2, so that the
//! first line of a request is read in one way only. Knows no route and no client address.
//!
//! A connection without a request under way ends after a while in both: hyper looks after that in
//! HTTP/1.1, and this module in HTTP/2, where requests under way are counted.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::body::Body;
use super::rarely::Rarely;
use super::raw_heads::Watched;
use super::streams::Streams;

/// Interval of HTTP/2 pings on a connection with requests under way, and the deadline of their
/// answers.
const PING: Duration = Duration::from_secs(20);

/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 128;

/// Time in which an HTTP/2 client without requests has to agree to the end of its connection.
const GOODBYE: Duration = Duration::from_secs(5);

/// Version of HTTP that a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Limits of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Longest time until the header of a request is complete, and longest time between requests.
    pub header_timeout: Duration,
    /// Longest header of a request, in bytes.
    pub max_header: usize,
}

/// Ends a connection without an answer.
#[derive(Debug)]
struct NoAnswer;

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed without an answer")
    }
}

impl Error for NoAnswer {}

impl ConnectionLimits {
    /// Serves the requests on `io` with what `respond` returns, `None` being a connection that ends
    /// without a byte. Returns when the connection has ended or was upgraded; once `stop` is
    /// cancelled it takes no further request.
    pub async fn serve<I, R, F>(&self, io: I, version: Version, respond: R, stop: CancellationToken)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        R: Fn(Request<Incoming>) -> F + Send,
        F: Future<Output = Option<Response<Body>>> + Send + 'static,
    {
        match version {
            Version::Http1 => self.serve_http1(io, respond, stop).await,
            Version::Http2 => self.serve_http2(io, respond, stop).await,
        }
    }

    async fn serve_http1<I, R, F>(&self, io: I, respond: R, stop: CancellationToken)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        R: Fn(Request<Incoming>) -> F + Send,
        F: Future<Output = Option<Response<Body>>> + Send + 'static,
    {
        let io = Watched::new(io);
        let marks = io.marks();
        let service = service_fn(|mut request: Request<Incoming>| {
            if marks.is_marked() {
                request.extensions_mut().insert(marks.clone());
            }
            answered(respond(request))
        });
        let mut connection = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.header_timeout)
                .max_buf_size(self.max_header)
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades()
        );
        // Errors are the client's: it left, was too slow, or sent no HTTP, which was answered.
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            () = Rarely::new(stop.cancelled()) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }

    async fn serve_http2<I, R, F>(&self, io: I, respond: R, stop: CancellationToken)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        R: Fn(Request<Incoming>) -> F + Send,
        F: Future<Output = Option<Response<Body>>> + Send + 'static,
    {
        let streams = Streams::default();
        let service = service_fn(|request| {
            let stream = streams.begin();
            let answer = answered(respond(request));
            async { Ok::<_, NoAnswer>(answer.await?.map(|body| stream.until_end_of(body))) }
        });
        let max_header = u32::try_from(self.max_header).unwrap_or(u32::MAX);
        let mut connection = std::pin::pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(PING)
                .keep_alive_timeout(PING)
                .max_concurrent_streams(STREAMS)
                .max_header_list_size(max_header)
                .serve_connection(TokioIo::new(io), service)
        );
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            () = stop.cancelled() => {}
            () = streams.none_for(self.header_timeout) => {}
        }
        connection.as_mut().graceful_shutdown();
        // A client that never agrees would keep the connection.
        tokio::select! {
            biased;
            _ = connection => {}
            () = streams.none_for(GOODBYE) => {}
        }
    }
}

/// Makes an error of a missing answer, at which the server ends the connection.
async fn answered(
    answer: impl Future<Output = Option<Response<Body>>>,
) -> Result<Response<Body>, NoAnswer> {
    answer.await.ok_or(NoAnswer)
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
