//! `/metrics`, `/healthz`, `/readyz`, and the status page at `/`.
//!
//! Answers come from the registry at once, also while the process starts: `/healthz` says
//! that the process lives, `/readyz` that a new connection can be served.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue, VARY};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};

use super::exposition::exposition;
use super::media_type::Form;
use super::page::{MISDIRECTED, StatusPage, is_local_name};
use super::registry::Registry;
use crate::http::{Limits, text};

/// Limits for scrapers and health checks.
pub(super) const LIMITS: Limits = Limits {
    clients: 16,
    header_timeout: Duration::from_secs(5),
    total_timeout: Duration::from_secs(15),
    max_header: 16 * 1024,
};

/// Answers of one address.
#[derive(Clone)]
pub(super) struct Routes {
    /// Source of all answers.
    pub(super) registry: Arc<Registry>,
    /// The page at `/`.
    pub(super) page: Arc<StatusPage>,
    /// The address is a loopback one.
    pub(super) is_loopback: bool,
}

impl Routes {
    /// Answers a request.
    pub(super) fn respond(&self, request: &Request<Incoming>) -> Response<Bytes> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "use GET");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => metrics(request.headers(), &self.registry),
            "/healthz" => text(StatusCode::OK, "alive"),
            "/readyz" => match self.registry.ready() {
                Ok(()) => text(StatusCode::OK, "ready"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
            },
            path => self.page(path, request.headers()),
        }
    }

    fn page(&self, path: &str, headers: &HeaderMap) -> Response<Bytes> {
        let found = self.page.respond(path, headers, &self.registry);
        match found {
            None => text(StatusCode::NOT_FOUND, "there are /, /metrics, /healthz and /readyz"),
            Some(_) if self.is_loopback && !is_local_name(headers) => text(
                MISDIRECTED,
                "the page answers to 'localhost' and addresses only; a proxy in front of it has to \
                 send one of these as Host",
            ),
            Some(response) => response,
        }
    }
}

fn metrics(headers: &HeaderMap, registry: &Registry) -> Response<Bytes> {
    let form = Form::wanted(headers);
    let mut response = Response::new(Bytes::from(exposition(registry, form)));
    let kind = HeaderValue::from_static(form.content_type());
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(VARY, ACCEPT.into());
    response
}
