//! Requests that two parsers could read in two ways, which are refused.
//!
//! A proxy in front may have taken another host, or another end of the body, from the same bytes.

use hyper::header::{HOST, TRANSFER_ENCODING};
use hyper::{Request, Version};

use crate::http::TwoLengths;

/// Returns true if the request has one host and one end.
pub(super) fn is_plain<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    let has_one_host = match (hosts.next(), hosts.next()) {
        // HTTP/2 has it in the target, and HTTP/1.0 may lack it.
        (None, _) => request.version() != Version::HTTP_11 || request.uri().host().is_some(),
        (Some(_), more) => more.is_none(),
    };
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_ambiguous = request.extensions().get().is_some_and(TwoLengths::is_found);
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    !is_ambiguous && has_one_host && codings.all(|coding| is_chunked(coding.as_bytes()))
}

/// Returns true if the end of its body is not watched for a second length, so that nothing behind it
/// is to be read.
pub(super) fn is_last<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(TRANSFER_ENCODING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_one_host_and_one_end() {
        for (version, headers, expected) in [
            (Version::HTTP_11, &[("host", "a")][..], true),
            (Version::HTTP_11, &[], false),
            (Version::HTTP_11, &[("host", "a"), ("host", "b")], false),
            (Version::HTTP_10, &[], true),
            (Version::HTTP_10, &[("host", "a"), ("host", "a")], false),
            (Version::HTTP_2, &[], true),
            (Version::HTTP_11, &[("host", "a"), ("transfer-encoding", "Chunked")], true),
            (Version::HTTP_11, &[("host", "a"), ("transfer-encoding", "gzip, chunked")], false),
        ] {
            let mut request = Request::builder().version(version).uri("/knock");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            assert_eq!(is_plain(&request.body(()).unwrap()), expected, "{version:?} {headers:?}");
        }
    }
}
