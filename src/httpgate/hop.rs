//! Header fields of one connection, which do not go on to the next: those that HTTP names, and
//! those that a message itself names in Connection.
//!
//! The client's fields are removed before any of ours are set, so that no Connection field can
//! name ours away. Nor can it name away what a server or this gate goes by: fields of whole
//! messages, and those that a trusted proxy set about the client.

use hyper::HeaderMap;
use hyper::header::{
    CONNECTION, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};

use crate::http::fields::{Group, is_same};

/// Fields that HTTP names. Trailer is none of them: it announces fields of the message.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Protocols that a client may not change to: what follows would be requests that no gate sees.
const HTTP_AGAIN: [&str; 3] = ["h2c", "h2", "http"];

/// Removes the fields of this connection. `own` is the operator's field with the client's address.
pub(super) fn remove(headers: &mut HeaderMap, own: Option<&HeaderName>) {
    for name in named(headers, own) {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Returns the fields that Connection names, without those that it cannot name away.
fn named(headers: &HeaderMap, own: Option<&HeaderName>) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let names = lines.flat_map(|line| line.split(','));
    let is_kept = |name: &HeaderName| {
        let name = name.as_str();
        Group::of(name).is_some() || own.is_some_and(|own| is_same(name, own.as_str()))
    };
    names
        .map(str::trim)
        // The two that nearly every message has, and that name no field.
        .filter(|name| !name.eq_ignore_ascii_case("close"))
        .filter(|name| !name.eq_ignore_ascii_case("keep-alive"))
        .filter_map(|name| name.parse::<HeaderName>().ok())
        .filter(|name| !is_kept(name))
        .collect()
}

/// Returns true when a Connection field has `option`.
fn has_option(headers: &HeaderMap, option: &str) -> bool {
    headers.get_all(CONNECTION).iter().any(|line| has_word(line, option))
}

fn has_word(line: &HeaderValue, word: &str) -> bool {
    let words = line.to_str().unwrap_or_default().split(',');
    words.map(str::trim).any(|found| found.eq_ignore_ascii_case(word))
}

/// Returns the protocol that a message changes to; `None` for none, and for another HTTP.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut protocols = headers.get_all(UPGRADE).iter();
    let (Some(protocol), None) = (protocols.next(), protocols.next()) else { return None };
    let text = protocol.to_str().ok()?;
    let name = text.split('/').next().unwrap_or_default().trim();
    let is_one = !text.is_empty() && !text.contains(',');
    let is_http = HTTP_AGAIN.iter().any(|http| name.eq_ignore_ascii_case(http));
    (is_one && !is_http && has_option(headers, "upgrade")).then(|| protocol.clone())
}

/// Returns true when the client can take trailers.
pub(super) fn takes_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().any(|line| has_word(line, "trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn left(lines: &[(&str, &str)]) -> Vec<String> {
        let mut headers = headers(lines);
        remove(&mut headers, Some(&HeaderName::from_static("x-seen")));
        let mut left: Vec<_> = headers.keys().map(ToString::to_string).collect();
        left.sort();
        left
    }

    #[test]
    fn fields_of_the_connection_are_removed_and_no_others() {
        let all = [
            ("connection", "keep-alive, X-One ,te"),
            ("connection", "x-two"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eA=="),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("trailer", "x-sum"),
            ("cookie", "a=b"),
        ];
        assert_eq!(left(&all), ["cookie", "trailer", "x-three"]);
    }

    #[test]
    fn a_client_cannot_name_away_what_others_go_by() {
        for name in [
            "host",
            "cookie",
            "authorization",
            "content-length",
            "content-type",
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-real-ip",
            "remote-user",
            "if-match",
            "sec-websocket-key",
            "x-seen",
        ] {
            assert_eq!(left(&[("connection", &format!("X-Hop, {name}")), (name, "1")]), [name]);
        }
        assert_eq!(left(&[("connection", ", ,\u{e9},a b"), ("a", "1")]), ["a"]);
    }

    #[test]
    fn an_upgrade_is_one_protocol_that_is_not_http() {
        let protocol = |upgrade: &str, connection: &str| {
            let found = headers(&[("upgrade", upgrade), ("connection", connection)]);
            super::upgrade(&found).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(protocol("websocket", "Upgrade").as_deref(), Some("websocket"));
        assert_eq!(protocol("WebSocket", "keep-alive, upgrade").as_deref(), Some("WebSocket"));
        for (upgrade, connection) in [
            ("websocket", "keep-alive"),
            ("h2c", "Upgrade, HTTP2-Settings"),
            ("H2C", "Upgrade"),
            ("HTTP/2.0", "upgrade"),
            ("websocket, h2c", "upgrade"),
            ("", "upgrade"),
        ] {
            assert_eq!(protocol(upgrade, connection), None, "{upgrade}");
        }
        let twice = headers(&[("upgrade", "a"), ("upgrade", "b"), ("connection", "upgrade")]);
        assert_eq!(upgrade(&twice), None);
    }

    #[test]
    fn trailers_are_taken_where_te_says_so() {
        assert!(takes_trailers(&headers(&[("te", "gzip, Trailers")])));
        assert!(!takes_trailers(&headers(&[("te", "gzip")])));
        assert!(!takes_trailers(&headers(&[])));
    }
}
