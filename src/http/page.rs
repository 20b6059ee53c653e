//! Files of a page for browsers, with headers that allow it its own origin and nothing else.
//!
//! The files are parts of the program: no path of a request reaches a disk. A page gets no inline
//! script or style, no frame around it, no form that a browser would send, and no text that a
//! script could turn into markup. There are no exceptions for a single file.

use bytes::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
    IF_NONE_MATCH, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{HeaderMap, Response, StatusCode};
use sha2::{Digest, Sha256};

/// Rights of every page. A page adds what it needs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types";

/// Bytes of the hash that names a version of a file.
const TAG: usize = 12;

/// A file of a page.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Path below the page, without a slash in front; empty for the page itself.
    pub path: &'static str,
    /// Media type.
    pub kind: &'static str,
    /// Content.
    pub body: &'static [u8],
}

/// Media type of HTML.
pub const HTML: &str = "text/html; charset=utf-8";
/// Media type of style sheets.
pub const CSS: &str = "text/css; charset=utf-8";
/// Media type of scripts.
pub const SCRIPT: &str = "text/javascript; charset=utf-8";
/// Media type of drawings.
pub const SVG: &str = "image/svg+xml";

/// Style sheet that all pages have.
pub const BASE_CSS: File =
    File { path: "page/base.css", kind: CSS, body: include_bytes!("page/base.css") };
/// Script that makes nodes of a document.
pub const DOM_JS: File =
    File { path: "page/dom.js", kind: SCRIPT, body: include_bytes!("page/dom.js") };
/// Script that writes numbers and times.
pub const WORDS_JS: File =
    File { path: "page/words.js", kind: SCRIPT, body: include_bytes!("page/words.js") };
/// Icon of the program.
pub const ICON_SVG: File =
    File { path: "page/icon.svg", kind: SVG, body: include_bytes!("page/icon.svg") };

/// A page: its files with their versions, and its policy.
#[derive(Debug)]
pub struct Page {
    files: Vec<VersionedFile>,
    policy: HeaderValue,
}

#[derive(Debug)]
struct VersionedFile {
    file: File,
    tag: HeaderValue,
}

impl Page {
    /// Makes a page of `files`. `trusted_types` names the policies by which its scripts may make
    /// addresses of scripts, or `'none'`; `more` are further directives of its policy.
    pub fn new(files: &[File], trusted_types: &str, more: &str) -> Self {
        let policy = format!("{POLICY} {trusted_types}{more}");
        Self {
            files: files.iter().map(|file| VersionedFile { file: *file, tag: tag(file) }).collect(),
            policy: HeaderValue::from_str(&policy).expect("a policy is plain text"),
        }
    }

    /// Returns the file at `path`, which has no slash in front; `None` where there is none. A
    /// browser that has this version already gets no content.
    pub fn respond(&self, path: &str, headers: &HeaderMap) -> Option<Response<Bytes>> {
        let VersionedFile { file, tag } = self.files.iter().find(|it| it.file.path == path)?;
        let is_known = headers.get_all(IF_NONE_MATCH).iter().any(|known| names(known, tag));
        let mut response =
            Response::new(Bytes::from_static(if is_known { &[] } else { file.body }));
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.kind));
        headers.insert(ETAG, tag.clone());
        // Asked for each time: the files of two versions of the program do not fit together.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        protect(headers);
        Some(response)
    }

    /// Returns an answer with `document`, a form of this page in place of another one, which no cache
    /// keeps.
    pub fn in_place(&self, document: Bytes) -> Response<Bytes> {
        let mut response = Response::new(document);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(HTML));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        protect(headers);
        response
    }
}

/// Adds what every answer for a page has: no guessing of its type, no frame, no address passed on,
/// no use by other origins.
pub fn protect(headers: &mut HeaderMap) {
    let fixed: [(HeaderName, &str); 4] = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Returns the version of a file, as an entity tag.
fn tag(file: &File) -> HeaderValue {
    let hash = Sha256::digest(file.body);
    let digits: String = hash.iter().take(TAG).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("\"{digits}\"")).expect("digits are plain text")
}

/// Returns true if an `If-None-Match` header names this version.
fn names(known: &HeaderValue, tag: &HeaderValue) -> bool {
    let tags = known.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let mut tags = tags.map(|it| it.strip_prefix(b"W/").unwrap_or(it));
    tags.any(|it| it == tag.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let html = File { path: "", kind: HTML, body: b"<!doctype html>" };
        Page::new(&[html, BASE_CSS], "'none'", "; worker-src 'self'")
    }

    #[test]
    fn a_file_has_its_type_a_version_and_the_policy() {
        let answer = page().respond("page/base.css", &HeaderMap::new()).unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.body(), BASE_CSS.body);
        let header = |name: HeaderName| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header(CONTENT_TYPE), CSS);
        assert_eq!(header(CACHE_CONTROL), "no-cache");
        assert_eq!(header(X_CONTENT_TYPE_OPTIONS), "nosniff");
        let policy = header(CONTENT_SECURITY_POLICY);
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(policy.ends_with("trusted-types 'none'; worker-src 'self'"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    }

    #[test]
    fn a_version_that_the_browser_has_is_not_sent_again() {
        let page = page();
        let first = page.respond("", &HeaderMap::new()).unwrap();
        let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
        for (known, status) in [
            (tag.clone(), StatusCode::NOT_MODIFIED),
            (format!("\"other\", W/{tag}"), StatusCode::NOT_MODIFIED),
            ("\"other\"".to_owned(), StatusCode::OK),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_str(&known).unwrap());
            let answer = page.respond("", &headers).unwrap();
            assert_eq!(answer.status(), status, "{known}");
            assert_eq!(answer.body().is_empty(), status != StatusCode::OK, "{known}");
        }
    }

    #[test]
    fn there_are_no_other_files() {
        for path in ["/", "page", "page/", "page/../page/base.css", "base.css", "PAGE/base.css"] {
            assert!(page().respond(path, &HeaderMap::new()).is_none(), "{path}");
        }
    }
}
