//! One log line for each request, where the operator wants them: who asked for what, and how it was
//! answered. Without its query, in which pages and programs have secrets, and without any field but
//! the host. What the client wrote is escaped. And redis-knocking's line for each decision.

use std::time::Instant;

use hyper::{Request, Response};
use tracing::info;

use crate::gate::Peer;
use crate::printable::printable;

/// Longest text of a client in a line, in characters.
const LONGEST: usize = 200;

/// A request that is logged when it is answered.
pub(super) struct Asked {
    began: Instant,
    method: String,
    host: Option<String>,
    path: String,
    client: Option<Peer>,
}

impl Asked {
    /// Notes what `client` asks for.
    pub(super) fn new<B>(request: &Request<B>, client: Option<Peer>) -> Self {
        let host = crate::http::Asked::of(request).host().ok().flatten();
        Self {
            began: Instant::now(),
            method: shown(request.method().as_str()),
            host: host.and_then(|host| host.to_str().map(shown).ok()),
            path: shown(request.uri().path()),
            client,
        }
    }

    /// Logs the answer, with the time to its beginning; `None` is none.
    pub(super) fn answered<B>(self, tunnel: Option<&str>, answer: Option<&Response<B>>) {
        let Self { began, method, host, path, client } = self;
        let client = client.and_then(Peer::ip).map(tracing::field::display);
        let status = answer.map(|answer| answer.status().as_u16());
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(tunnel, client, method, host, path, status, duration_ms, "request");
    }
}

/// Writes the line of redis-knocking about a decision.
pub(super) fn log_decision(tunnel: Option<&str>, peer: Peer, is_allowed: bool) {
    let Some(ip) = peer.ip() else { return };
    let is_internal = crate::gate::rules::is_internal(ip);
    match (is_allowed, peer) {
        (true, Peer::Socket(_)) if is_internal => {
            info!(tunnel, "Internal IP {ip} automatically allowed");
        }
        (true, _) => info!(tunnel, "IP {ip} allowed"),
        (false, _) => info!(tunnel, "IP {ip} denied"),
    }
}

/// Returns the beginning of a client's text, escaped.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(LONGEST).collect();
    printable(&cut).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_query_and_no_end_of_a_long_path() {
        let uri = format!("/a{}?token=x", "b".repeat(500));
        let request = Request::builder().uri(uri).header("host", "h").body(()).unwrap();
        let asked = Asked::new(&request, None);
        assert_eq!((asked.path.len(), asked.host.as_deref()), (LONGEST, Some("h")));
        assert!(!asked.path.contains("token"));
        assert_eq!(shown("a\u{1b}[2Jb"), printable("a\u{1b}[2Jb").to_string());
    }
}
