//! `/metrics`, `/healthz` and `/readyz` over HTTP.
//!
//! One request for each connection: header lines within a deadline, no body is
//! read, and the whole takes at most so long. Where there are too many clients
//! the oldest makes way, so that whoever is slow keeps nobody else out.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, VARY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::accept::Form;
use super::exposition::exposition;
use super::roster::Roster;
use crate::net::Stream;
use crate::printable::printable;

/// Clients at once.
pub(super) const CLIENTS: usize = 16;

/// How long the header of a request may take.
const HEADER: Duration = Duration::from_secs(5);

/// How long a request with its answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Most bytes of a request's header.
const MAX_HEADER: usize = 16 * 1024;

const TEXT: &str = "text/plain; charset=utf-8";

/// Answers one client. From its request on `answering` knows of it.
pub(super) async fn meet(stream: Stream, roster: Arc<Roster>, answering: TaskTracker) {
    let under_way = OnceLock::new();
    let service = service_fn(|request: Request<Incoming>| {
        under_way.get_or_init(|| answering.token());
        let response = answer(&request, &roster);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(MAX_HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A request that makes no sense was answered already.
    let _ = timeout(PATIENCE, connection).await;
}

fn answer(request: &Request<Incoming>, roster: &Roster) -> Response<String> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "use GET");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => metrics(request.headers(), roster),
        "/healthz" => text(StatusCode::OK, "alive"),
        "/readyz" => match roster.ready() {
            Ok(()) => text(StatusCode::OK, "ready"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz"),
    }
}

fn metrics(headers: &HeaderMap, roster: &Roster) -> Response<String> {
    let form = Form::wanted(headers);
    let mut response = Response::new(exposition(roster, form));
    let kind = HeaderValue::from_static(form.content_type());
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(VARY, ACCEPT.into());
    response
}

fn text(status: StatusCode, line: &str) -> Response<String> {
    let mut response = Response::new(format!("{}\n", printable(line)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
