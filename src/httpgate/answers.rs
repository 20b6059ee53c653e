//! Answers of the gate itself, in plain words. They name no inner address and no cause that only
//! the operator should know: that is in the log.

use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER,
};
use hyper::{Response, StatusCode};

use super::head::BadRequest;
use super::server::NoAnswer;
use crate::http::{Body, empty, full};
use crate::reason::CloseReason;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Methods that any server may know, where one is refused.
const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// Failure of a request that reached no answer of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server cannot be reached.
    Unreachable,
    /// The server's answer is none.
    Broken,
    /// The server did not answer in time.
    Late,
    /// There is no room for another request.
    Full,
}

impl Failure {
    fn status(self) -> StatusCode {
        match self {
            Self::Unreachable | Self::Broken => StatusCode::BAD_GATEWAY,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
            Self::Full => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Unreachable => "The server cannot be reached at the moment.",
            Self::Broken => "The server ended the connection, or sent no proper answer.",
            Self::Late => "The server did not answer in time.",
            Self::Full => "There are too many requests at the moment; try again in a moment.",
        }
    }

    /// Returns the answer for the client.
    pub(super) fn answer(self) -> Response<Body> {
        let mut answer = plain(self.status(), self.text());
        if self == Self::Full {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

impl From<&NoAnswer> for Failure {
    fn from(cause: &NoAnswer) -> Self {
        match cause {
            NoAnswer::Unreachable(failure) => match failure.reason {
                CloseReason::TargetTimeout => Self::Late,
                CloseReason::LocalError => Self::Full,
                _ => Self::Unreachable,
            },
            NoAnswer::Late => Self::Late,
            NoAnswer::Broken(_) => Self::Broken,
        }
    }
}

/// Returns the answer to a request that is refused for its form. A connection of HTTP/1.1
/// ends with it: where the next request begins is as uncertain as the rest. In HTTP/2 that is
/// certain.
pub(super) fn bad_request(bad: BadRequest) -> Response<Body> {
    let mut answer = plain(bad.status(), &bad.text());
    if bad == BadRequest::Method {
        answer.headers_mut().insert(ALLOW, METHODS);
    }
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Returns the answer to a denied request that no person sees, where there is a page to knock on.
pub(super) fn denied() -> Response<Body> {
    plain(StatusCode::FORBIDDEN, "This address is not let in; open /.knockpipe/ in a browser.")
}

/// Sends a client elsewhere.
pub(super) fn found(location: HeaderValue) -> Response<Body> {
    let mut answer = Response::new(empty());
    *answer.status_mut() = StatusCode::FOUND;
    answer.headers_mut().insert(LOCATION, location);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut answer = Response::new(full(format!("{text}\n")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
