//! Status page of a process, at the port of its metrics: files for a browser, and what they show as
//! JSON.
//!
//! It only reads: no request changes anything. Addresses of clients are shown where the operator
//! said so, and nowhere else. At a loopback address the page answers to names of this machine only,
//! because a browser on it may have been led there by the name of another site, and scripts of that could
//! then read the answer. A name below `localhost` is none: some browsers and resolvers ask others
//! about it.

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};
use serde::Serialize;

use super::answers::{status, who};
use super::protocol::{StatusReply, WhoReply};
use super::registry::Registry;
use crate::http::page::{
    BASE_CSS, CSS, DOM_JS, File, HTML, ICON_SVG, Page, SCRIPT, WORDS_JS, protect,
};

/// Path of the JSON, beside the page.
const JSON: &str = "status.json";

/// Most sessions on the page: a browser has to lay them out every two seconds.
const MOST_SESSIONS: usize = 200;

const FILES: [File; 12] = [
    File { path: "", kind: HTML, body: include_bytes!("index.html") },
    BASE_CSS,
    File { path: "page/status.css", kind: CSS, body: include_bytes!("status.css") },
    File { path: "page/status.js", kind: SCRIPT, body: include_bytes!("status.js") },
    File { path: "page/service.js", kind: SCRIPT, body: include_bytes!("service.js") },
    File { path: "page/parts.js", kind: SCRIPT, body: include_bytes!("parts.js") },
    File { path: "page/figure.js", kind: SCRIPT, body: include_bytes!("figure.js") },
    File { path: "page/drawing.js", kind: SCRIPT, body: include_bytes!("drawing.js") },
    File { path: "page/history.js", kind: SCRIPT, body: include_bytes!("history.js") },
    DOM_JS,
    WORDS_JS,
    ICON_SVG,
];

/// The status page.
#[derive(Debug)]
pub(super) struct StatusPage {
    page: Page,
    /// Sessions are shown, with the addresses of their clients.
    shows_clients: bool,
}

/// Content of the page.
#[derive(Debug, Serialize)]
struct PageReply {
    #[serde(flatten)]
    status: StatusReply,
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<WhoReply>,
}

impl StatusPage {
    /// Makes the page, with the addresses of clients or without.
    pub(super) fn new(shows_clients: bool) -> Self {
        Self { page: Page::new(&FILES, "'none'", ""), shows_clients }
    }

    /// Answers a request for `path`; `None` where the page has no such file.
    pub(super) fn respond(
        &self,
        path: &str,
        headers: &HeaderMap,
        registry: &Registry,
    ) -> Option<Response<Bytes>> {
        let path = path.strip_prefix('/')?;
        match path {
            JSON => Some(self.json(registry)),
            _ => self.page.respond(path, headers),
        }
    }

    fn json(&self, registry: &Registry) -> Response<Bytes> {
        let who = self.shows_clients.then(|| who(registry, &[], MOST_SESSIONS));
        let reply = PageReply { status: status(registry), who };
        let text = serde_json::to_vec(&reply).expect("a status is plain data");
        let mut response = Response::new(Bytes::from(text));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        protect(headers);
        response
    }
}

/// Returns true if the name by which a browser came is one of this machine: an address, or
/// `localhost`. Of any other, its owner decides where it leads.
pub(super) fn is_local_name(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_v6 = address.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    let is_v4 = name.parse::<std::net::Ipv4Addr>().is_ok();
    is_v4 || is_v6 || name.eq_ignore_ascii_case("localhost")
}

/// Status of an answer for a page that was asked for by a foreign name.
pub(super) const MISDIRECTED: StatusCode = StatusCode::MISDIRECTED_REQUEST;

#[cfg(test)]
mod tests {
    use super::*;

    fn named(hosts: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_static(host));
        }
        is_local_name(&headers)
    }

    #[test]
    fn only_addresses_and_localhost_are_names_of_this_machine() {
        for host in
            ["127.0.0.1:9100", "127.0.0.1", "[::1]:9100", "[::1]", "localhost", "LOCALHOST:1"]
        {
            assert!(named(&[host]), "{host}");
        }
        for host in [
            "evil.example:9100",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "a.localhost",
            "status.localhost:9100",
            "localhost.",
            "localhost:",
            "localhost:x",
            "[::1]x",
            "127.1",
            "2130706433",
            "",
            "::1",
        ] {
            assert!(!named(&[host]), "{host}");
        }
        assert!(!named(&[]) && !named(&["localhost", "evil.example"]));
    }
}
