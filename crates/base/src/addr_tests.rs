//! Addresses as people write them, and sources as limits count them.

use super::*;

fn tcp(host: &str, port: &str) -> Address {
    Address::Tcp { host: host.into(), port: port.into() }
}

#[test]
fn every_spelling_is_read_and_written_back() {
    let cases = [
        ("localhost:6379", tcp("localhost", "6379"), "localhost:6379"),
        ("redis.example.org.:redis", tcp("redis.example.org.", "redis"), ""),
        ("127.0.0.1:0", tcp("127.0.0.1", "0"), ""),
        ("[127.0.0.1]:65535", tcp("127.0.0.1", "65535"), "127.0.0.1:65535"),
        ("[::]:80", tcp("::", "80"), ""),
        ("[fe80::1%eth0]:80", tcp("fe80::1%eth0", "80"), ""),
        ("[::ffff:1.2.3.4]:http", tcp("::ffff:1.2.3.4", "http"), ""),
        ("/run/redis.sock", Address::Unix("/run/redis.sock".into()), ""),
        ("/odd:1 name", Address::Unix("/odd:1 name".into()), ""),
    ];
    for (text, want, shown) in cases {
        let got: Address = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(got, want, "{text}");
        let shown = if shown.is_empty() { text } else { shown };
        assert_eq!(got.to_string(), shown);
        assert_eq!(shown.parse(), Ok(got), "{text} written back");
    }
}

#[test]
fn typing_errors_are_told_apart() {
    use AddrError as E;
    let cases = [
        ("", E::Empty),
        ("localhost", E::NoPort("localhost".into())),
        ("16000", E::OnlyPort(16000)),
        ("99999", E::NoPort("99999".into())),
        ("localhost:", E::EmptyPort("localhost".into())),
        ("[::1]", E::NoPort("[::1]".into())),
        ("[::1]:", E::EmptyPort("[::1]".into())),
        (":6379", E::NoHost(":6379".into())),
        ("::1:6379", E::Unbracketed("::1:6379".into())),
        ("[::1:6379", E::Brackets("[::1:6379".into())),
        ("[::1]6379", E::Brackets("[::1]6379".into())),
        ("[localhost]:1", E::NotAnIp("localhost".into())),
        ("[::1%]:1", E::NotAnIp("::1%".into())),
        ("[1.2.3.4%eth0]:1", E::NotAnIp("1.2.3.4%eth0".into())),
        ("1.2.3.999:1", E::BadHost("1.2.3.999".into())),
        ("127.1:1", E::BadHost("127.1".into())),
        ("redis=host:1", E::Named("redis=host:1".into())),
        ("a b:1", E::BadHost("a b".into())),
        (".:1", E::BadHost(".".into())),
        ("host:65536", E::BadPort("65536".into())),
        ("host:-1", E::BadPort("-1".into())),
        ("host:re dis", E::BadPort("re dis".into())),
    ];
    for (text, want) in cases {
        assert_eq!(text.parse::<Address>(), Err(want), "{text}");
    }
}

#[test]
fn every_error_is_one_line() {
    for text in ["", "a", ":1", "::1:1", "[", "[a]:1", "1.2:1", "a:99999", "/\0"] {
        let message = text.parse::<Address>().unwrap_err().to_string();
        assert!(!message.contains('\n') && message.contains("; "), "{message}");
    }
}

#[test]
fn a_unix_path_has_107_bytes_at_most() {
    let path = |len: usize| format!("/{}", "x".repeat(len - 1));
    assert!(path(107).parse::<Address>().is_ok());
    assert_eq!(path(108).parse::<Address>(), Err(AddrError::PathTooLong(108)));
    assert_eq!("/a\0b".parse::<Address>(), Err(AddrError::PathWithNul));
    // The standard library agrees about the limit.
    assert!(std::os::unix::net::SocketAddr::from_pathname(path(107)).is_ok());
    assert!(std::os::unix::net::SocketAddr::from_pathname(path(108)).is_err());
}

#[test]
fn names_change_their_meaning_and_literals_do_not() {
    for text in ["1.2.3.4:1", "[::1]:1", "[fe80::1%lo]:1", "/a"] {
        assert!(text.parse::<Address>().unwrap().is_literal(), "{text}");
    }
    assert!(!"localhost:1".parse::<Address>().unwrap().is_literal());
}

#[test]
fn bind_addresses_are_numeric_and_need_no_port() {
    let cases = [
        ("[127.0.0.1]:8", "127.0.0.1:8"),
        ("127.0.0.1:8", "127.0.0.1:8"),
        ("[127.0.0.1]", "127.0.0.1:0"),
        ("127.0.0.1", "127.0.0.1:0"),
        ("[::1]:0", "[::1]:0"),
        ("[::1]", "[::1]:0"),
        ("::1", "[::1]:0"),
    ];
    for (text, shown) in cases {
        assert_eq!(text.parse::<BindAddress>().unwrap().to_string(), shown, "{text}");
    }
    for text in ["", "localhost", "localhost:1", "1.2.3.4:99999", "[::1", "[::1%lo]:1", "/a"] {
        assert!(text.parse::<BindAddress>().is_err(), "{text}");
    }
}

#[test]
fn service_names_are_short_plain_words() {
    for good in ["redis", "a", "My-SQL_8.0", &"x".repeat(64)] {
        assert_eq!(good.parse::<ServiceName>().unwrap().as_str(), good);
    }
    for bad in ["", "a b", "a=b", "é", &"x".repeat(65)] {
        assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
    }
    assert!(ServiceName::default().is_empty());
}

#[test]
fn an_ipv4_client_has_one_spelling() {
    let mapped = ClientAddr::from("[::ffff:192.0.2.1]:7".parse::<SocketAddr>().unwrap());
    let plain = ClientAddr::from("192.0.2.1:7".parse::<SocketAddr>().unwrap());
    assert_eq!(mapped, plain);
    assert_eq!(mapped.to_string(), "192.0.2.1:7");
    assert_eq!(mapped.source(), plain.source());
    assert_eq!(ClientAddr::Unix.to_string(), "unix");
    assert_eq!(ClientAddr::Unix.source(), None);
}

#[test]
fn an_ipv6_source_is_its_64() {
    let key = |text: &str| SourceKey::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::"));
    assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
    assert_eq!(key("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
    assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    assert_eq!(key("192.0.2.1").to_string(), "192.0.2.1");
}
