//! `/metrics`, `/healthz` and `/readyz`.
//!
//! Answers come from the registry at once, also while the process starts: `/healthz` says
//! that the process lives, `/readyz` that a new connection can be served.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue, VARY};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};

use super::exposition::exposition;
use super::media_type::Form;
use super::registry::Registry;
use crate::http::{Limits, text};

/// Limits for scrapers and health checks.
pub(super) const LIMITS: Limits = Limits {
    clients: 16,
    header_timeout: Duration::from_secs(5),
    total_timeout: Duration::from_secs(15),
    max_header: 16 * 1024,
};

/// Answers a request.
pub(super) fn respond(request: &Request<Incoming>, registry: &Registry) -> Response<String> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "use GET");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => metrics(request.headers(), registry),
        "/healthz" => text(StatusCode::OK, "alive"),
        "/readyz" => match registry.ready() {
            Ok(()) => text(StatusCode::OK, "ready"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz"),
    }
}

fn metrics(headers: &HeaderMap, registry: &Registry) -> Response<String> {
    let form = Form::wanted(headers);
    let mut response = Response::new(exposition(registry, form));
    let kind = HeaderValue::from_static(form.content_type());
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(VARY, ACCEPT.into());
    response
}
