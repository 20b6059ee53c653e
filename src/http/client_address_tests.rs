use std::net::SocketAddr;

use super::*;

const PROXIES: [&str; 4] = ["127.0.0.2", "127.0.0.3/32", "10.9.0.0/16", "fd00:9::/64"];

fn trusted(items: &[&str]) -> TrustedProxies {
    items.iter().map(|item| item.parse::<TrustedProxy>().unwrap()).collect()
}

fn socket(ip: &str) -> ClientAddr {
    ClientAddr::from(SocketAddr::new(ip.parse().unwrap(), 40_000))
}

fn lines(name: &'static str, lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
    }
    headers
}

/// Returns the client of a request with X-Forwarded-For lines.
fn client(peer: &str, forwarded: &[&str]) -> Option<Peer> {
    let rules = ClientRules::forwarded(trusted(&PROXIES));
    rules.client(socket(peer), &lines("x-forwarded-for", forwarded))
}

fn announced(ip: &str) -> Option<Peer> {
    Some(Peer::Announced(ip.parse().unwrap()))
}

fn own(ip: &str) -> Option<Peer> {
    Some(Peer::Socket(ip.parse().unwrap()))
}

#[test]
fn an_untrusted_peer_is_its_own_client_whatever_it_says() {
    for said in [&[][..], &["192.0.2.10"], &["junk"], &["127.0.0.2", "192.0.2.10"], &[""]] {
        assert_eq!(client("127.1.1.1", said), own("127.1.1.1"), "{said:?}");
        assert_eq!(client("2001:db8::1", said), own("2001:db8::1"), "{said:?}");
        assert_eq!(client("::ffff:198.51.100.7", said), own("198.51.100.7"), "{said:?}");
    }
}

#[test]
fn the_first_from_the_right_that_is_no_trusted_proxy_is_the_client() {
    for (said, expected) in [
        (&["198.18.2.1"][..], "198.18.2.1"),
        (&["198.18.2.1\t"], "198.18.2.1"),
        (&["198.18.88.1, 198.18.88.2"], "198.18.88.2"),
        (&["192.0.2.10, 198.18.89.1, 10.9.1.1, 127.0.0.3"], "198.18.89.1"),
        (&["198.18.89.1,10.9.200.7,fd00:9::8"], "198.18.89.1"),
        (&["198.18.89.1, 10.10.0.1, 10.9.1.1"], "10.10.0.1"),
        (&["198.18.89.1, fd00:9:0:1::1"], "fd00:9:0:1::1"),
        (&["2001:0DB8:0006:0:0:0:0:00AB"], "2001:db8:6::ab"),
        (&["127.0.0.1"], "127.0.0.1"),
    ] {
        assert_eq!(client("127.0.0.2", said), announced(expected), "{said:?}");
    }
}

#[test]
fn all_lines_are_one_list() {
    for (said, expected) in [
        (&["192.0.2.10", "198.18.93.2"][..], "198.18.93.2"),
        (&["198.18.93.2", "198.18.93.1"], "198.18.93.1"),
        (&["198.18.93.2", "198.18.93.1, 10.9.1.1", "127.0.0.3"], "198.18.93.1"),
    ] {
        assert_eq!(client("127.0.0.2", said), announced(expected), "{said:?}");
    }
}

#[test]
fn mapped_addresses_are_the_ipv4_addresses_that_they_are() {
    assert_eq!(client("::ffff:127.0.0.2", &["198.18.1.1"]), announced("198.18.1.1"));
    assert_eq!(client("127.0.0.2", &["::ffff:198.18.52.1"]), announced("198.18.52.1"));
    assert_eq!(client("127.0.0.2", &["198.18.96.1, ::ffff:10.9.1.1"]), announced("198.18.96.1"));
    let mapped = ClientRules::forwarded(trusted(&["::ffff:10.9.0.0/112"]));
    let said = lines("x-forwarded-for", &["198.18.1.1"]);
    assert_eq!(mapped.client(socket("10.9.3.4"), &said), announced("198.18.1.1"));
}

#[test]
fn a_trusted_peer_without_a_list_has_no_client() {
    for said in [&[][..], &[""], &["   "], &["", ""]] {
        assert_eq!(client("127.0.0.2", said), None, "{said:?}");
    }
}

#[test]
fn a_list_of_trusted_proxies_has_no_client() {
    for said in [&["10.9.1.1"][..], &["10.9.1.1, 127.0.0.3, fd00:9::1"], &["10.9.1.1", "127.0.0.2"]]
    {
        assert_eq!(client("127.0.0.2", said), None, "{said:?}");
    }
}

#[test]
fn one_item_that_is_no_address_spoils_the_list_wherever_it_stands() {
    const GOOD: &str = "198.18.86.1";
    for bad in [
        "",
        " ",
        "198.18.86.1:5678",
        "unknown",
        "_hidden",
        "[2001:db8::1]",
        "[2001:db8::1]:443",
        "198.18.86.1/32",
        "\"198.18.86.1\"",
        "localhost",
        "198.018.1.1",
        "198.18.86.1;",
        "for=198.18.86.1",
        "198.18.86.1 198.18.86.1",
        "0x7f.1",
        "2130706433",
        "127.1",
        "fe80::33%eth0",
        "fe80::33%1",
        "198.18.86.1é",
        "\u{a0}198.18.86.1",
    ] {
        for said in [
            &[bad][..],
            &[bad, GOOD],
            &[GOOD, bad],
            &[&format!("{bad},{GOOD}")],
            &[&format!("{GOOD}, {bad}")],
            &[&format!("{GOOD},{bad},10.9.1.1")],
        ] {
            assert_eq!(client("127.0.0.2", said), None, "{said:?}");
        }
    }
}

#[test]
fn twenty_addresses_are_the_most_over_all_lines() {
    let list = |count| vec!["198.18.87.9"; count].join(", ");
    for (first, second, is_known) in [
        (19, 1, true),
        (20, 0, true),
        (21, 0, false),
        (20, 1, false),
        (1, 20, false),
        (15, 6, false),
    ] {
        let mut said = vec![list(first)];
        said.extend((second > 0).then(|| list(second)));
        let said: Vec<&str> = said.iter().map(String::as_str).collect();
        assert_eq!(client("127.0.0.2", &said).is_some(), is_known, "{first} and {second}");
    }
}

#[test]
fn other_headers_say_nothing() {
    let rules = ClientRules::forwarded(trusted(&PROXIES));
    for name in ["x-real-ip", "forwarded", "x-client-ip", "cf-connecting-ip", "true-client-ip"] {
        let headers = lines(name, &["192.0.2.10"]);
        assert_eq!(rules.client(socket("127.0.0.2"), &headers), None, "{name}");
        assert_eq!(rules.client(socket("127.1.1.1"), &headers), own("127.1.1.1"), "{name}");
    }
}

#[test]
fn the_first_header_that_a_request_has_decides() {
    let headers = vec![HeaderName::from_static("x-real-ip"), X_FORWARDED_FOR];
    let rules = ClientRules { proxies: trusted(&PROXIES), headers };
    let ask = |real: &[&str], forwarded: &[&str]| {
        let mut headers = lines("x-real-ip", real);
        headers.extend(lines("x-forwarded-for", forwarded));
        rules.client(socket("127.0.0.2"), &headers)
    };
    assert_eq!(ask(&["203.0.113.3"], &["203.0.113.4"]), announced("203.0.113.3"));
    assert_eq!(ask(&[], &["203.0.113.4"]), announced("203.0.113.4"));
    assert_eq!(ask(&["unknown"], &["203.0.113.4"]), None);
    assert_eq!(ask(&[], &[]), None);
}

#[test]
fn a_unix_socket_is_trusted_only_by_its_word() {
    let said = lines("x-forwarded-for", &["198.18.1.1"]);
    let not = ClientRules::forwarded(trusted(&["0.0.0.0/0", "::/0"]));
    assert_eq!(not.client(ClientAddr::Unix, &said), None);
    let rules = ClientRules::forwarded(trusted(&["unix"]));
    assert_eq!(rules.client(ClientAddr::Unix, &said), announced("198.18.1.1"));
    assert_eq!(rules.client(socket("127.0.0.1"), &said), own("127.0.0.1"));
    assert_eq!(rules.client(ClientAddr::Nameless, &said), None);
}

#[test]
fn with_any_proxy_the_left_most_address_counts() {
    let rules = ClientRules::forwarded(TrustedProxies::any());
    let ask = |said: &[&str]| rules.client(socket("203.0.113.9"), &lines("x-forwarded-for", said));
    assert_eq!(ask(&["198.18.1.1, 198.18.1.2"]), announced("198.18.1.1"));
    assert_eq!(ask(&[]), own("203.0.113.9"));
    assert_eq!(ask(&["junk, 198.18.1.2"]), None);
}

#[test]
fn items_are_addresses_networks_or_unix() {
    assert!(TrustedProxies::default().is_empty());
    assert!(!trusted(&["unix"]).is_empty() && !trusted(&["10.0.0.1"]).is_empty());
    assert!(!TrustedProxies::any().is_empty());
    for bad in ["", "localhost", "10.0.0.0/33", "/run/x", "Unix"] {
        let error = bad.parse::<TrustedProxy>().unwrap_err().to_string();
        assert!(error.contains("write one such as") && error.contains("unix"), "{error}");
    }
}
