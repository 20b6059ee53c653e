//! Heads of messages on their way: which requests are refused, and what changes between the
//! client's connection and the server's.
//!
//! hyper has parsed the request and writes another one, with one length, so that nothing of how
//! the client framed it reaches the server. What two parsers could still read in two ways is
//! refused by [`Asked`], and here what is for proxies of clients: CONNECT, and TRACE, whose answer
//! would show the fields that proxies add. Paths are passed on as they came: the server alone knows
//! what they mean.

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, Request, StatusCode, Uri, Version};

use super::hop;
use crate::http::{Asked, BadHead};

/// Field of HTTP/1.1 that offers HTTP/2 without TLS.
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Reason to refuse a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadRequest {
    /// Two servers could read it in two ways.
    Head(BadHead),
    /// A method for proxies of clients.
    Method,
    /// Another expectation than 100-continue.
    Expectation,
}

/// Methods that are passed on to no server: a tunnel to somewhere else, and an echo of the request
/// in two spellings. Some servers take small letters for large ones.
const REFUSED_METHODS: [&str; 3] = ["CONNECT", "TRACE", "TRACK"];

/// Facts of a request that its head does not keep.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Host that the client asked for; `None` for an old client that names none.
    pub(super) host: Option<HeaderValue>,
    /// Protocol that the client asks to change to.
    pub(super) upgrade: Option<HeaderValue>,
    /// The client waits for a word before it sends the body.
    pub(super) is_expecting: bool,
    takes_trailers: bool,
    has_length: bool,
}

/// Host that the server is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostOfServer<'a> {
    /// The client's, or this one where it named none.
    Clients(&'a HeaderValue),
    /// This one.
    Own(&'a HeaderValue),
}

/// Length of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// There is none.
    Nothing,
    /// So many bytes.
    Bytes(u64),
    /// As many as come.
    Unknown,
}

impl BadRequest {
    /// Returns the status of the answer.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Head(_) => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
        }
    }

    /// Returns the text of the answer.
    pub(super) fn text(self) -> String {
        match self {
            Self::Head(bad) => bad.to_string(),
            Self::Method => "CONNECT and TRACE are not passed on.".to_owned(),
            Self::Expectation => {
                "The request expects something other than 100-continue.".to_owned()
            }
        }
    }
}

/// Reads what a request's head says before it changes.
///
/// # Errors
/// [`BadRequest`]
pub(super) fn read<B>(request: &Request<B>) -> Result<Facts, BadRequest> {
    let method = request.method().as_str();
    if REFUSED_METHODS.iter().any(|refused| method.eq_ignore_ascii_case(refused)) {
        return Err(BadRequest::Method);
    }
    let host = Asked::of(request).check().map_err(BadRequest::Head)?;
    let (headers, version) = (request.headers(), request.version());
    let is_expecting = match headers.get(EXPECT) {
        None => false,
        Some(what) if what.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            version == Version::HTTP_11
        }
        Some(_) => return Err(BadRequest::Expectation),
    };
    Ok(Facts {
        host,
        upgrade: (version == Version::HTTP_11).then(|| hop::upgrade(headers)).flatten(),
        is_expecting,
        takes_trailers: hop::takes_trailers(headers),
        has_length: headers.contains_key(CONTENT_LENGTH),
    })
}

/// Returns the host that a request asks for, if that is certain.
pub(super) fn asked_host(head: &Parts) -> Option<HeaderValue> {
    Asked::of_parts(head).host().ok().flatten()
}

/// Makes the head for the server out of the client's. Fields about the client are set elsewhere;
/// `own` is the operator's field with its address.
pub(super) fn to_server(
    head: &mut Parts,
    facts: &Facts,
    host: &HostOfServer<'_>,
    length: Length,
    own: Option<&HeaderName>,
) {
    head.uri = origin(&head.uri);
    let is_http2 = head.version == Version::HTTP_2;
    head.version = Version::HTTP_11;
    let headers = &mut head.headers;
    hop::remove(headers, own);
    headers.remove(HTTP2_SETTINGS);
    if is_http2 {
        join_cookies(headers);
    }
    let host = match (host, &facts.host) {
        (HostOfServer::Clients(_), Some(host)) => host,
        (HostOfServer::Clients(own) | HostOfServer::Own(own), _) => own,
    };
    headers.insert(HOST, host.clone());
    if !facts.is_expecting {
        headers.remove(EXPECT);
    }
    headers.remove(CONTENT_LENGTH);
    match length {
        Length::Nothing if !facts.has_length => {}
        Length::Nothing => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(0_u64))),
        Length::Bytes(bytes) => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes))),
        Length::Unknown => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    connect(headers, facts);
}

/// Sets the fields of the server's own connection.
fn connect(headers: &mut HeaderMap, facts: &Facts) {
    if facts.takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let option = match (&facts.upgrade, facts.takes_trailers) {
        (None, false) => return,
        (None, true) => "te",
        (Some(_), false) => "upgrade",
        (Some(_), true) => "upgrade, te",
    };
    headers.insert(CONNECTION, HeaderValue::from_static(option));
    if let Some(protocol) = &facts.upgrade {
        headers.insert(UPGRADE, protocol.clone());
    }
}

/// Returns the address as a server expects it: a path with its query, or `*`.
fn origin(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned();
    Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
}

/// Makes one field of the pieces of a cookie, which HTTP/2 may send apart.
fn join_cookies(headers: &mut HeaderMap) {
    use hyper::header::COOKIE;
    let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

/// Makes the head of an answer for the client out of the server's.
pub(super) fn to_client(headers: &mut HeaderMap) {
    let is_coded = headers.contains_key(TRANSFER_ENCODING);
    hop::remove(headers, None);
    if is_coded {
        // hyper went by the coding, and this length is another one.
        headers.remove(CONTENT_LENGTH);
    }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
