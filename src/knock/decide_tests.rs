//! One row for each case of the decision.

use std::time::Duration;

use super::*;
use crate::addr::ServiceName;
use crate::knock::options::WidestNetworks;
use crate::proto::knock::Knock;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn key() -> KeyId {
    KeyId::from_bytes([0x1a, 0x2b, 0x3c, 0x4d])
}

fn other() -> KeyId {
    KeyId::from_bytes([9; 4])
}

fn options() -> ReceiverOptions {
    ReceiverOptions {
        addresses: vec![],
        ttl: Duration::from_secs(60),
        max_ttl: Duration::from_secs(43_200),
        source: SourcePolicy::Allow,
        networks: WidestNetworks::default(),
        gates: vec!["default".parse().unwrap()],
        keys: vec![],
    }
}

fn knock() -> Knock {
    Knock { clock_ms: NOW.0, gate: None, ttl_s: None, label: None, address: None }
}

/// The grant as `MEMBER SECONDS`, or the reason for none.
fn decided(options: &ReceiverOptions, knock: Knock, source: &str) -> String {
    let received = ReceivedKnock { knock, key: key(), fingerprint: 7, tag: [7; 16] };
    match decide(options, &received, source.parse().unwrap(), NOW) {
        Ok(NewGrant { member, lasting, .. }) => format!("{member} {}", lasting.as_secs()),
        Err(reason) => reason.to_string(),
    }
}

fn named(address: &str, ttl_s: u32) -> Knock {
    Knock {
        address: Some(address.parse().unwrap()),
        ttl_s: std::num::NonZeroU32::new(ttl_s),
        ..knock()
    }
}

#[test]
fn the_source_gets_a_short_grant_and_a_named_address_a_long_one() {
    for (knock, source, expected) in [
        (knock(), "203.0.113.7", "203.0.113.7 60"),
        (knock(), "::ffff:203.0.113.7", "203.0.113.7 60"),
        (knock(), "2001:db8::7", "2001:db8::7 60"),
        (Knock { ttl_s: std::num::NonZeroU32::new(5), ..knock() }, "203.0.113.7", "203.0.113.7 5"),
        (
            Knock { ttl_s: std::num::NonZeroU32::new(u32::MAX), ..knock() },
            "203.0.113.7",
            "203.0.113.7 60",
        ),
        (named("198.51.100.9/32", 0), "203.0.113.7", "198.51.100.9 43200"),
        (named("203.0.113.7/32", 7_200), "203.0.113.7", "203.0.113.7 7200"),
        (named("2001:db8::9/128", 90_000), "203.0.113.7", "2001:db8::9 43200"),
    ] {
        assert_eq!(decided(&options(), knock.clone(), source), expected, "{knock:?}");
    }
}

#[test]
fn networks_are_no_wider_than_the_operator_says() {
    let wide = WidestNetworks { v4: 24, v6: 64 };
    for (networks, address, expected) in [
        (WidestNetworks::default(), "203.0.113.0/31", "network"),
        (WidestNetworks::default(), "2001:db8::/127", "network"),
        (wide, "203.0.113.0/24", "203.0.113.0/24 43200"),
        (wide, "203.0.112.0/23", "network"),
        (wide, "0.0.0.0/0", "network"),
        (wide, "2001:db8::/64", "2001:db8::/64 43200"),
        (wide, "2001:db8::/63", "network"),
        (wide, "0.0.0.0/32", "network"),
        (wide, "0.0.0.0/8", "network"),
        (wide, "169.254.1.1/32", "network"),
        (wide, "127.0.0.1/32", "network"),
        (wide, "fe80::1/128", "network"),
        (wide, "::/128", "network"),
        (wide, "224.0.0.1/32", "network"),
        (wide, "ff02::1/128", "network"),
        (wide, "255.255.255.255/32", "network"),
    ] {
        let options = ReceiverOptions { networks, ..options() };
        assert_eq!(decided(&options, named(address, 0), "203.0.113.7"), expected, "{address}");
    }
}

#[test]
fn a_source_that_is_not_signed_can_be_refused() {
    let options = ReceiverOptions { source: SourcePolicy::Refuse, ..options() };
    assert_eq!(decided(&options, knock(), "203.0.113.7"), "source");
    let named = named("203.0.113.7/32", 60);
    assert_eq!(decided(&options, named, "198.51.100.1"), "203.0.113.7 60");
}

#[test]
fn a_gate_opens_for_its_names_only() {
    let gate = |name: &str| Knock { gate: Some(name.parse().unwrap()), ..knock() };
    for (name, expected) in [("default", "203.0.113.7 60"), ("other", "gate"), ("Default", "gate")]
    {
        assert_eq!(decided(&options(), gate(name), "203.0.113.7"), expected, "{name}");
    }
    let gates: Vec<ServiceName> = ["redis", "mysql"].map(|name| name.parse().unwrap()).into();
    let several = ReceiverOptions { gates, ..options() };
    assert_eq!(decided(&several, gate("mysql"), "203.0.113.7"), "203.0.113.7 60");
    assert_eq!(decided(&several, gate("default"), "203.0.113.7"), "gate");
    assert_eq!(decided(&several, knock(), "203.0.113.7"), "203.0.113.7 60", "its own");
}

#[test]
fn only_listed_keys_may_knock() {
    for (keys, expected) in [
        (vec![], "203.0.113.7 60"),
        (vec![other(), key()], "203.0.113.7 60"),
        (vec![other()], "key"),
    ] {
        let options = ReceiverOptions { keys, ..options() };
        assert_eq!(decided(&options, knock(), "203.0.113.7"), expected);
    }
}

#[test]
fn the_note_says_who_when_and_under_which_label() {
    let knock = Knock { label: Some("laptop".parse().unwrap()), ..knock() };
    let received = ReceivedKnock { knock, key: key(), fingerprint: 7, tag: [7; 16] };
    let source = "203.0.113.7".parse().unwrap();
    let note = decide(&options(), &received, source, NOW).unwrap().note;
    assert_eq!(note, GrantNote::new("key:1a2b3c4d", Some("laptop"), NOW));
}
