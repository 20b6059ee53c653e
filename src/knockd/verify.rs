//! Answers proxies that ask whether to let a request through: with a status, from memory.
//!
//! The store is never asked on the way, so that one that hangs holds up no request of a site. What
//! the proxy says about the request counts only from one that is trusted; any other peer that asks is
//! asking about itself. The answer says nothing of the client, and no answer depends on a token.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;

use super::paths::{Asked, ExcludedPaths};
use crate::addr::ClientAddr;
use crate::gate::Gate;
use crate::http::ClientRules;
use crate::observe::{Meters, Verified};
use crate::web::Visitor;

/// No cache keeps an answer: it holds for a moment.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Header with the target that the proxy was asked for.
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// Header with the host that it was asked for.
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Decides for proxies about their requests.
pub(super) struct Verifier {
    gate: Gate,
    clients: ClientRules,
    excluded: Arc<ExcludedPaths>,
    meters: Arc<Meters>,
}

/// A header that may be sent once.
enum Once<'a> {
    Absent,
    One(&'a HeaderValue),
    /// Lines that contradict each other.
    Several,
}

/// Returns the route of what proxies ask.
pub(super) fn router(verifier: Verifier) -> Router {
    Router::new().route("/verify", get(verify)).with_state(Arc::new(verifier))
}

/// Answers a proxy whether the client of its request is let in.
#[utoipa::path(
    get, path = "/verify",
    responses(
        (status = 200, description = "It is, or anybody is"),
        (status = 401, description = "It is not"),
    )
)]
pub(super) async fn verify(
    State(verifier): State<Arc<Verifier>>,
    Extension(visitor): Extension<Arc<Visitor>>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let socket = visitor.address();
    if verifier.clients.proxies.trusts(socket) {
        // Strangers must not displace the connections of proxies.
        visitor.prove();
    }
    (verifier.answer(&visitor, &headers), [(CACHE_CONTROL, NO_STORE)])
}

impl Verifier {
    /// Creates one that decides by this gate.
    pub(super) fn new(
        gate: Gate,
        clients: ClientRules,
        excluded: Arc<ExcludedPaths>,
        meters: Arc<Meters>,
    ) -> Self {
        Self { gate, clients, excluded, meters }
    }

    /// Returns the answer to a question of `visitor`.
    fn answer(&self, visitor: &Visitor, headers: &HeaderMap) -> StatusCode {
        let verified = if self.is_excluded(visitor.address(), headers) {
            Verified::Excluded
        } else if self.is_in(visitor, headers) {
            Verified::Allowed
        } else {
            Verified::Denied
        };
        self.meters.verified.count(verified);
        match verified {
            Verified::Allowed | Verified::Excluded => StatusCode::OK,
            Verified::Denied => StatusCode::UNAUTHORIZED,
        }
    }

    fn is_in(&self, visitor: &Visitor, headers: &HeaderMap) -> bool {
        let client = visitor.client(&self.clients, headers);
        client.is_some_and(|peer| self.gate.pass(peer).is_allowed())
    }

    fn is_excluded(&self, socket: ClientAddr, headers: &HeaderMap) -> bool {
        if self.excluded.is_empty() || !self.clients.proxies.trusts(socket) {
            return false;
        }
        let Once::One(target) = once(headers, &X_FORWARDED_URI) else { return false };
        let host = match once(headers, &X_FORWARDED_HOST) {
            Once::Absent => None,
            Once::One(host) => Some(host.as_bytes()),
            Once::Several => return false,
        };
        self.excluded.cover(Asked { target: target.as_bytes(), host })
    }
}

fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Once<'a> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Once::Absent,
        (Some(line), None) => Once::One(line),
        (Some(_), Some(_)) => Once::Several,
    }
}
