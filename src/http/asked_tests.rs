//! Heads of requests, as hyper hands them over.

use super::*;

fn request(version: Version, method: &str, uri: &str, lines: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().version(version).method(method).uri(uri);
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn refusal(version: Version, uri: &str, lines: &[(&str, &str)]) -> Option<BadHead> {
    Asked::of(&request(version, "GET", uri, lines)).check().err()
}

fn refusal1(uri: &str, lines: &[(&str, &str)]) -> Option<BadHead> {
    refusal(Version::HTTP_11, uri, lines)
}

#[test]
fn a_request_has_one_host_and_one_end() {
    use BadHead::{Coding, LengthForm, NoHost, SeveralHosts, TwoLengths};
    const OLD: Version = Version::HTTP_10;
    const NOW: Version = Version::HTTP_11;
    const TWO: Version = Version::HTTP_2;
    for (version, uri, headers, expected) in [
        (NOW, "/", &[("host", "a")][..], None),
        (NOW, "/", &[], Some(NoHost)),
        (NOW, "http://a/", &[], Some(NoHost)),
        (NOW, "http://a/", &[("host", "b")], Some(SeveralHosts)),
        (NOW, "http://A:1/", &[("host", "a:1")], None),
        (OLD, "http://a/", &[], None),
        (OLD, "http://a/", &[("host", "b")], Some(SeveralHosts)),
        (NOW, "/", &[("host", "a"), ("host", "b")], Some(SeveralHosts)),
        (NOW, "/", &[("host", "a"), ("host", "a")], Some(SeveralHosts)),
        (OLD, "/", &[], None),
        (OLD, "/", &[("host", "a"), ("host", "a")], Some(SeveralHosts)),
        (TWO, "https://a/", &[], None),
        (TWO, "/", &[], Some(NoHost)),
        (TWO, "/", &[("host", "a")], None),
        (TWO, "https://A:1/", &[("host", "a:1")], None),
        (TWO, "https://a/", &[("host", "b")], Some(SeveralHosts)),
        (TWO, "https://a/", &[("host", "a:443")], Some(SeveralHosts)),
        (NOW, "/", &[("host", "a"), ("content-length", "03")], Some(LengthForm)),
        (NOW, "/", &[("host", "a"), ("content-length", "0")], None),
        (NOW, "/", &[("host", "a"), ("content-length", "30")], None),
        (TWO, "https://a/", &[("content-length", "3"), ("content-length", "3")], Some(TwoLengths)),
        (NOW, "/", &[("host", "a"), ("transfer-encoding", "Chunked")], None),
        (NOW, "/", &[("host", "a"), ("transfer-encoding", "gzip, chunked")], Some(Coding)),
    ] {
        assert_eq!(refusal(version, uri, headers), expected, "{version:?} {uri} {headers:?}");
    }
}

#[test]
fn a_host_is_one_name_or_address() {
    for bad in [
        "",
        " ",
        "a b",
        "a/b",
        "a\\b",
        "a,b",
        "a, b",
        "a;for=b",
        "u@a",
        "u:p@a",
        "@a",
        "a@",
        "a?b",
        "a#b",
        "a%2eb",
        "a\"b",
        "a'b",
        "a=b",
        "a~b",
        "a*",
        "a:",
        "a:x",
        "a:1:2",
        "a:65536",
        "a:-1",
        "a:+1",
        ":80",
        ".",
        "..",
        ".a",
        "a..b",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[a]",
        "[]",
        "::1",
        "[::1%25eth0]",
        "[v1.a]",
        "http://a",
    ] {
        assert_eq!(refusal1("/", &[("host", bad)]), Some(BadHead::BadHost), "{bad}");
    }
    let long = "a".repeat(LONGEST_NAME + 1);
    assert_eq!(refusal1("/", &[("host", &long)]), Some(BadHead::BadHost));
    for good in
        ["a", "A.example:1", "[::1]:8", "[2001:db8::1]", "192.0.2.1:80", "xn--a.example.", "my_app"]
    {
        assert_eq!(refusal1("/", &[("host", good)]), None, "{good}");
    }
    // What is behind the host of a target is its own, and the Host beside it has to be one as well.
    for (uri, host) in [("http://u@a/", "a"), ("http://a,b/", "a"), ("http://a/", "a,b")] {
        assert_eq!(refusal1(uri, &[("host", host)]), Some(BadHead::BadHost), "{uri} {host}");
    }
}

#[test]
fn a_target_is_a_path_with_a_host_or_without() {
    let host = [("host", "a")];
    for good in ["/", "/a/../b%2f?c", "//a/b", "http://a", "https://a/b", "http://a?b"] {
        assert_eq!(refusal1(good, &host), None, "{good}");
    }
    for bad in ["a", "a:80", "*", "ftp://a/", "ws://a/"] {
        assert_eq!(refusal1(bad, &host), Some(BadHead::Target), "{bad}");
    }
    let options =
        |uri: &str| Asked::of(&request(Version::HTTP_11, "OPTIONS", uri, &host)).check().err();
    assert_eq!(options("*"), None);
    assert_eq!(options("a"), Some(BadHead::Target));
}

#[test]
fn a_field_of_the_framing_has_one_spelling() {
    for name in ["content_length", "transfer_encoding", "transfer.encoding", "keep_alive"] {
        let lines = [("host", "a"), (name, "chunked")];
        assert_eq!(refusal1("/", &lines), Some(BadHead::Spelling), "{name}");
        assert_eq!(refusal(Version::HTTP_2, "https://a/", &lines), Some(BadHead::Spelling));
    }
    assert_eq!(refusal1("/", &[("host", "a"), ("my_field", "1"), ("x_real_ip", "1")]), None);
}
