//! Flags of a gate and the rules that they make.

use clap::Parser;

use super::*;
use crate::gate::{Peer, Snapshot, UnixMillis, decide};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    gate: GateArgs,
    #[command(flatten)]
    acceptor: AcceptorGateArgs,
}

fn options(line: &str) -> Result<Option<Arc<GateOptions>>, String> {
    let line = Line::try_parse_from(format!("x {line}").split_whitespace())
        .unwrap_or_else(|error| panic!("{error}"));
    line.gate.options(line.acceptor, Access::default(), None).map_err(|failure| failure.to_string())
}

fn allows(line: &str, ip: &str) -> bool {
    let gate = options(line).unwrap().unwrap();
    let mut facts = Snapshot::default();
    facts.begin();
    let _ = facts.end(UnixMillis(1));
    decide(&gate.rules, &facts, Peer::Socket(ip.parse().unwrap()), UnixMillis(1)).is_allowed()
}

#[test]
fn no_flag_is_no_gate() {
    assert!(options("").unwrap().is_none());
    assert!(options("--proxy-from 203.0.113.0/24,10.0.0.1").unwrap().is_none());
}

#[test]
fn without_a_store_others_are_admitted_unless_an_address_is_allowed() {
    let deny = "--deny 203.0.113.0/24 --deny 2001:db8::/64";
    for (ip, expected) in [
        ("203.0.113.7", false),
        ("::ffff:203.0.113.7", false),
        ("2001:db8::1", false),
        ("198.51.100.1", true),
        ("2001:db8:1::1", true),
        ("::ffff:198.51.100.1", true),
    ] {
        assert_eq!(allows(deny, ip), expected, "{ip}");
    }
    let allow = "--allow 203.0.113.0/24 --deny 203.0.113.7";
    for (ip, expected) in [
        ("203.0.113.8", true),
        ("203.0.113.7", false),
        ("198.51.100.1", false),
        ("2001:db8:1::1", false),
        ("10.0.0.1", false),
        ("127.0.0.1", false),
    ] {
        assert_eq!(allows(allow, ip), expected, "{ip}");
    }
    assert!(!allows(&format!("{allow} --internal check"), "10.0.0.1"));
    assert!(allows(&format!("{allow} --internal allow"), "10.0.0.1"));
}

#[test]
fn with_a_store_only_it_and_the_rules_let_in() {
    assert!(!allows("--gate file:x --deny 203.0.113.0/24", "198.51.100.1"));
    assert!(allows("--gate file:x --allow 203.0.113.0/24", "203.0.113.1"));
}

#[test]
fn a_flag_without_what_it_needs_is_refused() {
    for flag in
        ["--gate-failure open", "--on-revoke keep", "--reap-idle 30d", "--ban-after 1/1s/1s"]
    {
        for base in ["", "--allow 203.0.113.1 "] {
            let error = options(&format!("{base}{flag}")).unwrap_err();
            assert!(error.contains("needs a store; add --gate"), "{error}");
        }
        options(&format!("--gate file:x {flag}")).unwrap();
    }
    for flag in ["--internal check", "--denied tarpit"] {
        assert!(options(flag).unwrap_err().contains("is about a gate"));
        options(&format!("{flag} --deny 203.0.113.1")).unwrap();
    }
}

#[test]
fn a_store_that_is_served_is_noticed() {
    let is_served = |store: &str, target: &str| match store.parse().unwrap() {
        GateAddress::Redis(store) => is_served(&store.servers, &target.parse().unwrap()),
        GateAddress::File(_) => false,
    };
    for (store, target, expected) in [
        ("redis://127.0.0.1", "127.0.0.1:6379", true),
        ("rediss://localhost:6379/3", "[::1]:6379", true),
        ("redis://db.example.org:7000", "db.example.org:7000", true),
        ("unix:///run/redis.sock", "/run/redis.sock", true),
        ("redis://127.0.0.1:6378", "127.0.0.1:6379", false),
        ("redis://10.0.0.1", "127.0.0.1:6379", false),
        ("redis+sentinel://127.0.0.1:6379/m", "127.0.0.1:6379", false),
        ("file:/run/redis.sock", "/run/redis.sock", false),
    ] {
        assert_eq!(is_served(store, target), expected, "{store} {target}");
    }
}

#[test]
fn a_target_that_takes_clients_for_its_own_is_noticed() {
    let noticed = |target: &str, proxy: &str, bind: Option<&str>| {
        let line = format!("x {proxy}");
        let line = Line::try_parse_from(line.split_whitespace());
        let acceptor = line.unwrap_or_else(|error| panic!("{error}")).acceptor;
        let targets = vec![(Default::default(), target.parse().unwrap())];
        acceptor.warning(&Role::Decrypt { targets }, bind.map(|bind| bind.parse().unwrap()))
    };
    for (target, proxy, bind, expected) in [
        ("127.0.0.1:3306", "--proxy-to-target v2", None, true),
        ("[::1]:3306", "--proxy-to-target v1", Some("::1"), true),
        ("localhost:3306", "--proxy-to-target v2", Some("127.0.0.1"), true),
        ("/run/mysqld.sock", "--proxy-to-target v2", Some("127.0.0.2"), true),
        ("127.0.0.1:3306", "--proxy-to-target v2", Some("127.0.0.2"), false),
        ("192.0.2.1:3306", "--proxy-to-target v2", None, false),
        ("127.0.0.1:3306", "", None, false),
    ] {
        let noticed = noticed(target, proxy, bind).is_some();
        assert_eq!(noticed, expected, "{target} {proxy} {bind:?}");
    }
}

#[test]
fn everything_arrives() {
    let gate = options(
        "--gate redis://h/1 --denied reset --on-revoke drain --reap-idle 30d \
         --ban-after 10/60s/1h --gate-failure stale:5m",
    );
    let gate = gate.unwrap().unwrap();
    assert_eq!((gate.denied, gate.on_revoke), (Denied::Reset, OnRevoke::Drain));
    assert_eq!(gate.reap_idle, Some(Duration::from_secs(30 * 86_400)));
    assert_eq!(gate.ban_after.unwrap().to_string(), "10/1m/1h");
    assert_eq!(gate.rules.failure, FailurePolicy::Stale(Duration::from_secs(300)));
    assert!(gate.rules.allow.is_empty());
}
