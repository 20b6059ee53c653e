//! Heads of requests, as hyper hands them over, and what the server sees of them.

use hyper::{Method, Request};

use super::*;

fn head(version: Version, uri: &str, lines: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().version(version).uri(uri);
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn http1(uri: &str, lines: &[(&str, &str)]) -> Parts {
    head(Version::HTTP_11, uri, lines)
}

fn facts(head: &Parts) -> Result<Facts, BadRequest> {
    read(&Request::from_parts(head.clone(), ()))
}

/// Returns the address and the fields that the server sees, or the refusal.
fn seen(mut head: Parts, length: Length) -> Result<(String, Vec<String>), BadRequest> {
    let facts = facts(&head)?;
    let own = HeaderValue::from_static("inner:1");
    to_server(&mut head, &facts, &HostOfServer::Clients(&own), length, None);
    let mut fields: Vec<String> = head
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    fields.sort();
    Ok((head.uri.to_string(), fields))
}

fn refusal(head: Parts) -> Option<BadRequest> {
    facts(&head).err()
}

#[test]
fn a_request_keeps_its_path_and_loses_its_connection() {
    let lines = [
        ("host", "a.example"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("accept", "*/*"),
    ];
    let (uri, fields) = seen(http1("/a/../b%2f?c#d", &lines), Length::Nothing).unwrap();
    assert_eq!(uri, "/a/../b%2f?c");
    assert_eq!(fields, ["accept: */*", "connection: te", "host: a.example", "te: trailers"]);
}

#[test]
fn the_server_sees_one_length() {
    let chunked = [("host", "a"), ("transfer-encoding", "Chunked")];
    let (_, fields) = seen(http1("/", &chunked), Length::Unknown).unwrap();
    assert_eq!(fields, ["host: a", "transfer-encoding: chunked"]);
    let counted = [("host", "a"), ("content-length", "5"), ("connection", "content-length")];
    let (_, fields) = seen(http1("/", &counted), Length::Bytes(5)).unwrap();
    assert_eq!(fields, ["content-length: 5", "host: a"]);
    let empty = [("host", "a"), ("content-length", "0")];
    let (_, fields) = seen(http1("/", &empty), Length::Nothing).unwrap();
    assert_eq!(fields, ["content-length: 0", "host: a"]);
}

#[test]
fn an_address_with_a_host_is_the_host() {
    let absolute = http1("http://b.example:81/x", &[("host", "B.example:81")]);
    let (uri, fields) = seen(absolute, Length::Nothing).unwrap();
    assert_eq!((uri.as_str(), &fields[..]), ("/x", &["host: b.example:81".to_owned()][..]));
    let second =
        head(Version::HTTP_2, "https://b.example/x?y", &[("cookie", "a=1"), ("cookie", "b=2")]);
    let (uri, fields) = seen(second, Length::Nothing).unwrap();
    assert_eq!(uri, "/x?y");
    assert_eq!(fields, ["cookie: a=1; b=2", "host: b.example"]);
    let mut options = http1("*", &[("host", "a")]);
    assert_eq!(refusal(options.clone()), Some(BadRequest::Head(BadHead::Target)));
    options.method = Method::OPTIONS;
    let (uri, _) = seen(options, Length::Nothing).unwrap();
    assert_eq!(uri, "*");
}

#[test]
fn a_request_without_a_host_is_an_old_one_or_refused() {
    let (_, fields) = seen(head(Version::HTTP_10, "/", &[]), Length::Nothing).unwrap();
    assert_eq!(fields, ["host: inner:1"]);
    let bad = |head| match refusal(head) {
        Some(BadRequest::Head(bad)) => bad,
        other => panic!("{other:?}"),
    };
    assert_eq!(bad(http1("/", &[])), BadHead::NoHost);
    assert_eq!(bad(http1("/", &[("host", "a"), ("host", "a")])), BadHead::SeveralHosts);
    assert_eq!(bad(http1("/", &[("host", "u@a")])), BadHead::BadHost);
    assert_eq!(bad(http1("http://u@a/", &[("host", "a")])), BadHead::BadHost);
}

#[test]
fn what_two_parsers_could_read_in_two_ways_is_refused() {
    for codings in [
        &["gzip, chunked"][..],
        &["chunked", "chunked"],
        &["chunked, identity"],
        &["identity"],
        &["\"chunked\""],
        &["chunked;x"],
    ] {
        let mut lines = vec![("host", "a")];
        lines.extend(codings.iter().map(|coding| ("transfer-encoding", *coding)));
        assert_eq!(
            refusal(http1("/", &lines)),
            Some(BadRequest::Head(BadHead::Coding)),
            "{codings:?}"
        );
    }
    for method in ["CONNECT", "TRACE", "trace", "TRACK", "Connect"] {
        let mut other = http1("/", &[("host", "a")]);
        other.method = method.parse().unwrap();
        assert_eq!(refusal(other), Some(BadRequest::Method), "{method}");
    }
    let other = [("host", "a"), ("expect", "200-ok")];
    assert_eq!(refusal(http1("/", &other)), Some(BadRequest::Expectation));
}

#[test]
fn an_upgrade_goes_on_and_another_http_does_not() {
    let websocket =
        [("host", "a"), ("upgrade", "websocket"), ("connection", "Upgrade"), ("te", "trailers")];
    let (_, fields) = seen(http1("/", &websocket), Length::Nothing).unwrap();
    assert_eq!(
        fields,
        ["connection: upgrade, te", "host: a", "te: trailers", "upgrade: websocket"]
    );
    let h2c = [
        ("host", "a"),
        ("upgrade", "h2c"),
        ("connection", "Upgrade, HTTP2-Settings"),
        ("http2-settings", "x"),
    ];
    let (_, fields) = seen(http1("/", &h2c), Length::Nothing).unwrap();
    assert_eq!(fields, ["host: a"]);
    let hidden = [("host", "a"), ("http2-settings", "x")];
    assert_eq!(seen(http1("/", &hidden), Length::Nothing).unwrap().1, ["host: a"]);
}

#[test]
fn an_expectation_is_passed_on_where_the_client_can_wait() {
    let lines = [("host", "a"), ("expect", "100-Continue")];
    let (_, fields) = seen(http1("/", &lines), Length::Bytes(1)).unwrap();
    assert_eq!(fields, ["content-length: 1", "expect: 100-Continue", "host: a"]);
    for version in [Version::HTTP_2, Version::HTTP_10] {
        let (_, fields) = seen(head(version, "/", &lines), Length::Bytes(1)).unwrap();
        assert_eq!(fields, ["content-length: 1", "host: a"]);
    }
}

#[test]
fn the_servers_own_host_replaces_the_clients() {
    let mut head = http1("/", &[("host", "public")]);
    let facts = facts(&head).unwrap();
    let own = HeaderValue::from_static("localhost:5173");
    to_server(&mut head, &facts, &HostOfServer::Own(&own), Length::Nothing, None);
    assert_eq!(head.headers[HOST], "localhost:5173");
    assert_eq!(facts.host.unwrap(), "public");
}

#[test]
fn an_answer_loses_its_connection_and_a_length_that_did_not_count() {
    let answer = |lines: &[(&str, &str)]| {
        let mut headers = http1("/", lines).headers;
        to_client(&mut headers);
        headers.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    let lines = [
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("content-length", "5"),
        ("server", "x"),
    ];
    assert_eq!(answer(&lines), ["content-length", "server"]);
    let coded = [("transfer-encoding", "chunked"), ("content-length", "5"), ("trailer", "x-sum")];
    assert_eq!(answer(&coded), ["trailer"]);
}
