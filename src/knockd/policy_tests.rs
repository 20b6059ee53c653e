//! One row for each case of the decision.

use super::super::tokens::TokenHash;
use super::*;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn token() -> Token {
    Token {
        name: "guest".to_owned(),
        hash: TokenHash::of(b"guest"),
        gates: vec![],
        max_ttl: Duration::from_secs(3_600),
        any_address: false,
        one_address: false,
        sees_grants: false,
    }
}

fn admin() -> Token {
    Token { name: "admin".to_owned(), any_address: true, ..token() }
}

/// The grant as `MEMBER SECONDS ENTRY`, or the text of the refusal.
fn decided(token: &Token, body: &str) -> String {
    decided_of(token, body, "203.0.113.7")
}

fn decided_of(token: &Token, body: &str, client: &str) -> String {
    let gates: Vec<ServiceName> = ["default", "redis"].map(|name| name.parse().unwrap()).into();
    let client = client.parse().unwrap();
    let knocking = Knocking { token, client, gates: &gates, now: NOW };
    let decided = Asked::read(body.as_bytes()).and_then(|asked| asked.decide(&knocking));
    match decided {
        Ok(Decided { grant: NewGrant { member, lasting, .. }, entry, .. }) => {
            format!("{member} {} {entry}", lasting.as_secs())
        }
        Err(refusal) => refusal.to_string(),
    }
}

#[test]
fn the_client_itself_is_let_in_for_as_long_as_the_token_may() {
    for (body, client, expected) in [
        ("", "203.0.113.7", "203.0.113.7 3600 203.0.113.7"),
        ("{}", "::ffff:203.0.113.7", "203.0.113.7 3600 203.0.113.7"),
        (r#"{"ttl": null, "ip_address": null}"#, "203.0.113.7", "203.0.113.7 3600 203.0.113.7"),
        (r#"{"ttl": 60}"#, "2001:db8::7", "2001:db8::7 60 2001:db8::7"),
        (r#"{"ttl": 3601}"#, "203.0.113.7", "203.0.113.7 3600 203.0.113.7"),
        (r#"{"ttl": 315360000}"#, "203.0.113.7", "203.0.113.7 3600 203.0.113.7"),
    ] {
        assert_eq!(decided_of(&token(), body, client), expected, "{body}");
    }
    let ages = Token { max_ttl: Duration::from_secs(u64::MAX), ..token() };
    assert_eq!(decided(&ages, ""), "203.0.113.7 315360000 203.0.113.7");
}

#[test]
fn a_named_address_needs_the_permission_and_is_kept_canonical() {
    for (address, expected) in [
        ("198.51.100.2", "198.51.100.2 3600 198.51.100.2"),
        ("10.77.0.9/16", "10.77.0.0/16 3600 10.77.0.9/16"),
        ("198.51.100.2/32", "198.51.100.2 3600 198.51.100.2/32"),
        ("2001:0DB8::00BE/64", "2001:db8::/64 3600 2001:0DB8::00BE/64"),
        ("::ffff:198.51.100.2", "198.51.100.2 3600 ::ffff:198.51.100.2"),
    ] {
        let body = format!(r#"{{"ip_address": "{address}"}}"#);
        assert_eq!(decided(&admin(), &body), expected);
        assert_eq!(decided(&token(), &body), Refusal::Remote.to_string());
    }
    for wide in ["10.0.0.0/15", "0.0.0.0/0", "2001:db8::/63", "::/0", "::ffff:0:0/96"] {
        let body = format!(r#"{{"ip_address": "{wide}"}}"#);
        assert_eq!(decided(&admin(), &body), Refusal::Wide.to_string(), "{wide}");
    }
    for none in [
        "::ffff:10.0.0.0/64",
        "::ffff:1.2.3.4/95",
        "",
        " 1.2.3.4",
        "1.2.3.4 ",
        "1.2.3",
        "01.2.3.4",
        "1.2.3.4/33",
        "1.2.3.4/",
        "/24",
    ]
    .into_iter()
    .chain(["1.2.3.4/-1", "1.2.3.4/+8", "fe80::1%eth0", "[::1]", "localhost", "::1/129"])
    {
        let body = format!(r#"{{"ip_address": "{none}"}}"#);
        assert_eq!(decided(&admin(), &body), Refusal::Address.to_string(), "{none}");
    }
}

#[test]
fn what_no_client_has_is_let_in_for_nobody() {
    for nobody in ["0.0.0.0", "0.0.0.0/16", "224.0.0.1", "255.255.255.255", "169.254.0.0/16"]
        .into_iter()
        .chain(["::", "::/64", "ff02::1", "fe80::1", "127.0.0.1", "127.0.0.0/24", "::1"])
    {
        let body = format!(r#"{{"ip_address": "{nobody}"}}"#);
        assert_eq!(decided(&admin(), &body), Refusal::Nobody.to_string(), "{nobody}");
        assert_eq!(decided(&token(), &body), Refusal::Remote.to_string(), "{nobody}");
    }
    // On this host its own addresses are those of a client.
    for own in ["127.0.0.1", "127.9.9.9", "::1"] {
        assert_eq!(decided_of(&token(), "{}", own), format!("{own} 3600 {own}"));
        let body = format!(r#"{{"ip_address": "{own}"}}"#);
        assert_eq!(decided_of(&admin(), &body, "::1"), format!("{own} 3600 {own}"));
    }
    assert_eq!(decided_of(&token(), "{}", "fe80::1"), "fe80::1 3600 fe80::1");
    // As a proxy may say.
    for none in ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "::ffff:0.0.0.0"] {
        assert_eq!(decided_of(&token(), "{}", none), Refusal::NoClient.to_string(), "{none}");
    }
}

#[test]
fn the_shape_goes_before_the_permission_the_width_and_the_duration() {
    let long = format!(r#"{{"ip_address": "{}"}}"#, "1".repeat(101));
    let just = format!(r#"{{"ip_address": "{}"}}"#, "1".repeat(100));
    for (token, body, expected) in [
        (token(), r#"{"ip_address": "nonsense"}"#, Refusal::Address),
        (token(), r#"{"ip_address": "0.0.0.0/0"}"#, Refusal::Remote),
        (token(), r#"{"ip_address": "198.51.100.2", "ttl": 315360001}"#, Refusal::Remote),
        (token(), r#"{"ip_address": "198.51.100.2", "ttl": 0}"#, Refusal::Ttl),
        (admin(), r#"{"ip_address": "nonsense", "ttl": 0}"#, Refusal::Ttl),
        (admin(), r#"{"ip_address": "10.0.0.0/8", "ttl": 315360001}"#, Refusal::Wide),
        (token(), r#"{"ip_address": "198.51.100.2", "note": 1}"#, Refusal::Data),
        (admin(), r#"{"ip_address": 5, "note": 1}"#, Refusal::Address),
        (token(), r#"{"ttl": 315360001}"#, Refusal::LongTtl),
        (token(), &long, Refusal::LongAddress),
        (token(), &just, Refusal::Address),
    ] {
        assert_eq!(decided(&token, body), expected.to_string(), "{body}");
    }
}

#[test]
fn a_body_is_one_json_object_of_known_members() {
    for ttl in ["0", "-1", "60.0", "1e3", "\"60\"", "true", "[60]", "{}", "-0", "1e30"] {
        assert_eq!(Asked::read(format!("{{\"ttl\": {ttl}}}").as_bytes()), Err(Refusal::Ttl));
    }
    let deep = "[".repeat(2_000) + &"]".repeat(2_000);
    for (body, expected) in [
        ("{", Refusal::Malformed),
        ("   ", Refusal::Malformed),
        (r#"{"ttl": 60,}"#, Refusal::Malformed),
        (r#"{"ttl": 60}{}"#, Refusal::Malformed),
        (r#"{"ttl": NaN}"#, Refusal::Malformed),
        (r#"{"ttl": 5, "ttl": 6}"#, Refusal::Malformed),
        (r#"{"ttl": 5, "t\u0074l": 5}"#, Refusal::Malformed),
        (r#"{"ip_address": null, "ip_address": "198.51.100.2"}"#, Refusal::Malformed),
        ("\u{feff}{\"ttl\": 60}", Refusal::Malformed),
        (r#"{"ttl": 60} x"#, Refusal::Malformed),
        (r#"{"ttl": 99999999999999999999}"#, Refusal::Ttl),
        (r#"{"ttl": 060}"#, Refusal::Malformed),
        (r#"{"label": "\ud800"}"#, Refusal::Malformed),
        ("1e400", Refusal::Malformed),
        (&deep, Refusal::Malformed),
        ("[]", Refusal::NoObject),
        ("null", Refusal::NoObject),
        (r#""ttl""#, Refusal::NoObject),
        (r#"{"TTL": 60}"#, Refusal::Data),
        (r#"{"throttle": 1}"#, Refusal::Data),
        (r#"{"my_ip_address": "198.51.100.2"}"#, Refusal::Data),
        (r#"{"label": 5}"#, Refusal::Data),
        (r#"{"gate": "a b"}"#, Refusal::Data),
    ] {
        assert_eq!(Asked::read(body.as_bytes()), Err(expected), "{body}");
    }
    assert_eq!(Asked::read(b"{\"ttl\": 60, \"n\": \"\xff\"}"), Err(Refusal::Malformed));
    assert_eq!(Asked::read_leave(b"{\"ttl\": 60}"), Err(Refusal::Data));
    assert_eq!(Asked::read_leave(b""), Ok(None));
    let named = Asked::read_leave(br#"{"ip_address": "10.0.0.9/24"}"#).unwrap().unwrap();
    assert_eq!(named.member.to_string(), "10.0.0.0/24");
}

#[test]
fn only_who_names_its_own_address_sets_its_end_for_all_tokens() {
    let gates = ["default".parse().unwrap()];
    let client = "203.0.113.7".parse().unwrap();
    let knocking = Knocking { token: &admin(), client, gates: &gates, now: NOW };
    for (body, terms) in [
        ("{}", Terms::Anew),
        (r#"{"ip_address": "203.0.113.7"}"#, Terms::ForTokens),
        (r#"{"ip_address": "::ffff:203.0.113.7"}"#, Terms::ForTokens),
        (r#"{"ip_address": "203.0.113.8"}"#, Terms::Anew),
        (r#"{"ip_address": "203.0.113.0/24"}"#, Terms::Anew),
    ] {
        let asked = Asked::read(body.as_bytes()).unwrap();
        assert_eq!(asked.decide(&knocking).unwrap().terms, terms, "{body}");
    }
}

#[test]
fn a_token_opens_its_gates_and_no_others() {
    let only = |gate: &str| Token { gates: vec![gate.parse().unwrap()], ..token() };
    let granted = "203.0.113.7 3600 203.0.113.7";
    let refused = &*Refusal::Gate.to_string();
    for (token, body, expected) in [
        (token(), "{}", granted),
        (token(), r#"{"gate": "redis"}"#, granted),
        (token(), r#"{"gate": "mysql"}"#, refused),
        (only("redis"), r#"{"gate": "redis"}"#, granted),
        (only("redis"), r#"{"gate": "default"}"#, refused),
        (only("redis"), "{}", refused),
        (only("mysql"), r#"{"gate": "mysql"}"#, refused),
    ] {
        assert_eq!(decided(&token, body), expected, "{body}");
    }
}

#[test]
fn the_note_says_who_when_and_under_which_label() {
    let gates = ["default".parse().unwrap()];
    let client = "203.0.113.7".parse().unwrap();
    let knocking = Knocking { token: &token(), client, gates: &gates, now: NOW };
    let asked = Asked::read(br#"{"label": "laptop"}"#).unwrap();
    let note = asked.decide(&knocking).unwrap().grant.note;
    assert_eq!(note, GrantNote::new("token:guest", Some("laptop"), NOW));
    let odd = format!(r#"{{"label": "\u001b{}"}}"#, "é".repeat(63));
    let note = Asked::read(odd.as_bytes()).unwrap().decide(&knocking).unwrap().grant.note;
    assert_eq!(note.label.as_deref(), Some(&*"é".repeat(32)), "cut, and without escapes");
    let long = format!(r#"{{"label": "{}"}}"#, "x".repeat(65));
    assert_eq!(Asked::read(long.as_bytes()), Err(Refusal::Data));
}

#[test]
fn only_the_failures_of_a_client_count_towards_its_lock() {
    for refusal in [Refusal::Token, Refusal::NoClient, Refusal::Malformed, Refusal::Remote] {
        assert!(refusal.counts(), "{refusal:?}");
    }
    for refusal in [Refusal::Locked, Refusal::TooMany, Refusal::Full, Refusal::Store] {
        assert!(!refusal.counts(), "{refusal:?}");
    }
}
