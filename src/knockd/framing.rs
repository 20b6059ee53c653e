//! Requests that two parsers could read in two ways, which are refused.
//!
//! A proxy in front may have taken another host, or another end of the body, from the same bytes.

use hyper::Request;

use crate::http::Asked;

/// Returns true if the request has one host, one target and one end.
pub(super) fn is_plain<B>(request: &Request<B>) -> bool {
    Asked::of(request).check().is_ok()
}
