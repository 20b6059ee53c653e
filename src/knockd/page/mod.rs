//! The knock page: files for a browser, at the root of the service.
//!
//! The page is a client of the API as any other, on the same origin: it has no rights of its own,
//! and nothing here sees a token. Its worker keeps these files for a device without a network, and
//! no answer of the API.

use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;

use crate::http::page::{BASE_CSS, CSS, DOM_JS, File, HTML, ICON_SVG, Page, SCRIPT, WORDS_JS};

/// Name of the policy by which a script makes the address of the worker, and of no other script.
const TRUSTED: &str = "knockpipe-worker";

/// Rights of this page beside those of every page.
const MORE: &str = "; manifest-src 'self'; worker-src 'self'";

const PNG: &str = "image/png";

const FILES: [File; 18] = [
    File { path: "", kind: HTML, body: include_bytes!("index.html") },
    File {
        path: "manifest.webmanifest",
        kind: "application/manifest+json",
        body: include_bytes!("manifest.webmanifest"),
    },
    File { path: "sw.js", kind: SCRIPT, body: include_bytes!("sw.js") },
    BASE_CSS,
    File { path: "page/knock.css", kind: CSS, body: include_bytes!("knock.css") },
    File { path: "page/app.js", kind: SCRIPT, body: include_bytes!("app.js") },
    File { path: "page/machine.js", kind: SCRIPT, body: include_bytes!("machine.js") },
    File { path: "page/view.js", kind: SCRIPT, body: include_bytes!("view.js") },
    File { path: "page/client.js", kind: SCRIPT, body: include_bytes!("client.js") },
    File { path: "page/form.js", kind: SCRIPT, body: include_bytes!("form.js") },
    File { path: "page/storage.js", kind: SCRIPT, body: include_bytes!("storage.js") },
    DOM_JS,
    WORDS_JS,
    ICON_SVG,
    File { path: "page/icon-192.png", kind: PNG, body: include_bytes!("icon-192.png") },
    File { path: "page/icon-512.png", kind: PNG, body: include_bytes!("icon-512.png") },
    File { path: "page/icon-maskable.png", kind: PNG, body: include_bytes!("icon-maskable.png") },
    File { path: "favicon.ico", kind: PNG, body: include_bytes!("icon-192.png") },
];

static PAGE: LazyLock<Page> = LazyLock::new(|| Page::new(&FILES, TRUSTED, MORE));

/// Returns the routes of the page's files.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, file| {
        let path = file.path;
        let serve = move |headers: HeaderMap| async move { answer(path, &headers) };
        router.route(&format!("/{path}"), get(serve))
    })
}

/// Returns the page with all addresses in it below `path`, so that it can be shown at any other.
pub(super) fn document_below(path: &str) -> String {
    let text = include_str!("index.html");
    let text = text.replace("\"page/", &format!("\"{path}page/"));
    text.replace("\"manifest.", &format!("\"{path}manifest."))
}

/// Returns an answer with this form of the page, in place of another one.
pub(super) fn in_place(document: Bytes) -> axum::http::Response<Bytes> {
    PAGE.in_place(document)
}

fn answer(path: &str, headers: &HeaderMap) -> Response {
    let answer = PAGE.respond(path, headers).unwrap_or_default();
    answer.map(Body::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths in double quotes that a script or the page names.
    fn named(text: &str) -> Vec<&str> {
        let quoted = text.split('"').skip(1).step_by(2);
        quoted.filter(|it| it.starts_with("page/") || it.ends_with(".webmanifest")).collect()
    }

    #[test]
    fn everything_that_the_page_and_its_worker_name_is_served() {
        let worker = include_str!("sw.js");
        let texts = [include_str!("index.html"), worker, include_str!("manifest.webmanifest")];
        let mut all = 0;
        for name in texts.iter().flat_map(|text| named(text)) {
            assert!(FILES.iter().any(|file| file.path == name), "{name}");
            all += 1;
        }
        assert!(all > 20, "only {all}");
        for file in FILES.iter().filter(|file| file.kind == SCRIPT && file.path != "sw.js") {
            assert!(named(worker).contains(&file.path), "the worker does not keep {}", file.path);
        }
    }
}
