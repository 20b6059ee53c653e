//! The knock page on the site of a gate in front of a web server: for a browser that the gate denies,
//! on the origin that it asked, so that it gets in without another name or certificate.
//!
//! The page takes the place of whatever was asked for, and its files and questions are below a path
//! that the site behind gives up for it. They go the way of those of `knockd`: same handlers, same
//! limits. It decides nothing about the site.

use std::sync::{Arc, LazyLock};

use axum::Router;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, LOCATION};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, StatusCode, Uri};
use tower::ServiceExt;

use super::knocks::{KnockParts, Knocks};
use super::options::SiteOptions;
use super::plain::PlainHttp;
use super::service::boxed;
use super::{page, routes};
use crate::gate::Gate;
use crate::http::{Body, ClientRules, TrustedProxies, empty, full};
use crate::observe::Meters;
use crate::web::{Visitor, WebOptions};

/// Path that the site gives up.
const PATH: &str = "/.knockpipe/";

/// The page with all addresses in it below [`PATH`], since it is shown at any other.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| page::document_below(PATH).into());

/// The knock page on the site of a gate.
pub struct SitePage {
    knocks: Arc<Knocks>,
    router: Router,
    plain: PlainHttp,
    proxies: TrustedProxies,
}

/// Objects of the service with the site.
pub struct SiteParts<'a> {
    /// Its settings.
    pub web: &'a WebOptions,
    /// Rules by which a client is known.
    pub clients: ClientRules,
    /// The gate that is opened.
    pub gate: Gate,
    /// Counters of the service.
    pub meters: Arc<Meters>,
}

impl SitePage {
    /// Creates the page of a site. The locks of one that it replaces stay.
    pub fn new(options: &SiteOptions, parts: SiteParts<'_>, before: Option<&Self>) -> Self {
        let SiteParts { web, clients, gate, meters } = parts;
        let parts = KnockParts { name: web.name.clone(), clients, gate, meters };
        let before = before.map(|before| &*before.knocks);
        let knocks = Arc::new(Knocks::new(&options.rules, parts, before));
        Self {
            router: routes::site_router(Arc::clone(&knocks)),
            knocks,
            plain: options.plain,
            proxies: web.trusted_proxies.clone(),
        }
    }

    /// Returns true if a target is below the path of the page.
    pub fn holds(&self, target: &Uri) -> bool {
        let path = target.path();
        path.starts_with(PATH) || path == &PATH[..PATH.len() - 1]
    }

    /// Returns true if this connection may carry tokens.
    pub fn may_serve(&self, visitor: &Visitor) -> bool {
        self.plain.may_serve(visitor, &self.proxies)
    }

    /// Answers a request for what it [holds](Self::holds), of which the head was checked.
    pub async fn respond(
        &self,
        request: Request<Incoming>,
        visitor: Arc<Visitor>,
    ) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        let Some(uri) = below(head.uri) else { return moved() };
        head.uri = uri;
        head.extensions.insert(visitor);
        let Ok(answer) = self.router.clone().oneshot(Request::from_parts(head, body)).await;
        boxed(answer)
    }

    /// Returns the page, in place of what a denied browser asked for.
    pub fn document(&self) -> Response<Body> {
        let mut answer = page::in_place(DOCUMENT.clone()).map(full);
        *answer.status_mut() = StatusCode::FORBIDDEN;
        answer
    }

    /// Ends what tokens granted that are gone, now or once the store can be asked.
    pub async fn end_gone(&self) {
        self.knocks.end_gone().await;
    }

    /// Logs a summary of refused knocks that is due.
    pub fn tick(&self) {
        self.knocks.tick();
    }

    /// Logs all refused knocks that were not logged yet.
    pub fn flush_log(&self) {
        self.knocks.flush_log();
    }
}

/// Returns a target as the routes have it; `None` for the path without its slash.
fn below(uri: Uri) -> Option<Uri> {
    let mut parts = uri.into_parts();
    let target = parts.path_and_query.take()?;
    let rest = target.as_str().strip_prefix(&PATH[..PATH.len() - 1])?;
    let path: PathAndQuery = rest.parse().ok().filter(|_| rest.starts_with('/'))?;
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).ok()
}

/// Sends a browser to the page itself.
fn moved() -> Response<Body> {
    let mut answer = Response::new(empty());
    *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
    answer.headers_mut().insert(LOCATION, HeaderValue::from_static(PATH));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_below_the_path_is_one_of_the_routes() {
        for (target, expected) in [
            ("/.knockpipe/", Some("/")),
            ("/.knockpipe/knock", Some("/knock")),
            ("/.knockpipe/page/app.js?a", Some("/page/app.js?a")),
            ("https://a.example/.knockpipe/knock", Some("https://a.example/knock")),
            ("/.knockpipe", None),
            ("/.knockpipe?a", None),
        ] {
            let target: Uri = target.parse().unwrap();
            assert_eq!(below(target).map(|it| it.to_string()).as_deref(), expected);
        }
    }

    #[test]
    fn all_addresses_of_the_page_are_below_the_path() {
        let text = std::str::from_utf8(&DOCUMENT).unwrap();
        for attribute in ["href=", "src="] {
            for rest in text.split(attribute).skip(1) {
                let address = rest.split('"').nth(1).unwrap();
                assert!(address.is_empty() || address.starts_with(PATH), "{address}");
            }
        }
    }
}
