//! The truth table: what is known about an address, times the state of the
//! store and the policy, times the kinds of addresses.

use super::*;
use crate::rules::FailurePolicy;
use crate::snapshot::Freshness;
use crate::{Item, Nets};

const NOW: UnixMillis = UnixMillis(1_000_000_000);
const PAST: Expiry = Expiry::At(NOW);
const SOON: Expiry = Expiry::At(UnixMillis(NOW.0 + 5_000));

/// Facts about an address, and the reason of the decision:
/// `fresh`: the store is fresh, under every policy;
/// `shut`: it is unavailable and the allow-set admits no address;
/// `open`: it is away and the policy is `open`;
/// `known`: its last known state counts.
const OUTSIDE: &str = "
    facts                   fresh         shut          open             known
    nothing                 not-allowed   store-unavailable    store-unavailable-open  not-allowed
    listed                  allow-set     store-unavailable    store-unavailable-open  allow-set
    network                 allow-set     store-unavailable    store-unavailable-open  allow-set
    listed+network          allow-set     store-unavailable    store-unavailable-open  allow-set
    ended                   not-allowed   store-unavailable    store-unavailable-open  not-allowed
    ended+network           allow-set     store-unavailable    store-unavailable-open  allow-set
    banned                  banned        banned        banned           banned
    banned+listed           banned        banned        banned           banned
    banned+network          banned        banned        banned           banned
    lifted                  not-allowed   store-unavailable    store-unavailable-open  not-allowed
    lifted+listed           allow-set     store-unavailable    store-unavailable-open  allow-set
    allow                   static-allow  static-allow  static-allow     static-allow
    allow+listed            static-allow  static-allow  static-allow     static-allow
    allow+banned            static-allow  static-allow  static-allow     static-allow
    deny                    static-deny   static-deny   static-deny      static-deny
    deny+listed             static-deny   static-deny   static-deny      static-deny
    deny+banned             static-deny   static-deny   static-deny      static-deny
    deny+allow              static-deny   static-deny   static-deny      static-deny
    deny+allow+banned       static-deny   static-deny   static-deny      static-deny
";

/// The same for an address that counts as internal.
const INSIDE: &str = "
    facts                   fresh         shut          open             known
    nothing                 internal      internal      internal         internal
    listed                  allow-set     internal      internal         allow-set
    network                 allow-set     internal      internal         allow-set
    listed+network          allow-set     internal      internal         allow-set
    ended                   internal      internal      internal         internal
    ended+network           allow-set     internal      internal         allow-set
    banned                  banned        banned        banned           banned
    banned+listed           banned        banned        banned           banned
    banned+network          banned        banned        banned           banned
    lifted                  internal      internal      internal         internal
    lifted+listed           allow-set     internal      internal         allow-set
    allow                   static-allow  static-allow  static-allow     static-allow
    allow+listed            static-allow  static-allow  static-allow     static-allow
    allow+banned            static-allow  static-allow  static-allow     static-allow
    deny                    static-deny   static-deny   static-deny      static-deny
    deny+listed             static-deny   static-deny   static-deny      static-deny
    deny+banned             static-deny   static-deny   static-deny      static-deny
    deny+allow              static-deny   static-deny   static-deny      static-deny
    deny+allow+banned       static-deny   static-deny   static-deny      static-deny
";

const EXTERNAL: [&str; 9] = [
    "203.0.113.7",
    "::ffff:203.0.113.7",
    "2001:db8::7",
    "169.254.1.1",
    "100.64.0.1",
    "172.32.0.1",
    "fe80::1",
    "0.0.0.0",
    "::ffff:100.64.0.1",
];
const INTERNAL: [&str; 9] = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "::1",
    "fc00::7",
    "fd00::7",
    "::ffff:127.0.0.1",
    "::ffff:192.168.1.1",
];

/// The state of the store, the policy, and the columns for a newcomer and for
/// a client that was admitted before.
const STATES: [(State, &str, &str, &str); 15] = [
    (State::Fresh, "closed", "fresh", "fresh"),
    (State::Fresh, "open", "fresh", "fresh"),
    (State::Fresh, "stale:60s", "fresh", "fresh"),
    (State::Away { for_ms: 0 }, "closed", "shut", "known"),
    (State::Away { for_ms: 86_400_000 }, "closed", "shut", "known"),
    (State::Away { for_ms: 86_400_000 }, "open", "open", "open"),
    (State::Away { for_ms: 0 }, "stale:60s", "known", "known"),
    (State::Away { for_ms: 59_999 }, "stale:60s", "known", "known"),
    (State::Away { for_ms: 60_000 }, "stale:60s", "shut", "known"),
    (State::NeverRead, "closed", "shut", "open"),
    (State::NeverRead, "open", "open", "open"),
    (State::NeverRead, "stale:60s", "shut", "open"),
    (State::Unread, "closed", "shut", "open"),
    (State::Unread, "open", "shut", "open"),
    (State::Unread, "stale:60s", "shut", "open"),
];

#[derive(Clone, Copy, Debug)]
enum State {
    Fresh,
    Away {
        for_ms: u64,
    },
    /// The first full read was broken off.
    NeverRead,
    /// In the middle of the first full read.
    Unread,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(peer: Peer) -> IpAddr {
    peer.ip().unwrap()
}

fn network_of(ip: IpAddr) -> Member {
    let length = if ip.to_canonical().is_ipv4() { 24 } else { 64 };
    ipnet::IpNet::new(ip.to_canonical(), length).unwrap().into()
}

fn items(ip: IpAddr, facts: &str) -> Vec<Item> {
    let item = |fact| match fact {
        "listed" => Some(Item::Allowed(ip.into(), SOON)),
        "ended" => Some(Item::Allowed(ip.into(), PAST)),
        "network" => Some(Item::Allowed(network_of(ip), Expiry::Never)),
        "banned" => Some(Item::Banned(ip.into(), SOON)),
        "lifted" => Some(Item::Banned(ip.into(), PAST)),
        "nothing" | "allow" | "deny" => None,
        _ => panic!("no fact is called {fact}"),
    };
    facts.split('+').filter_map(item).collect()
}

fn snapshot(items: &[Item], state: State) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.begin();
    let _ = snapshot.items(items);
    match state {
        State::Fresh => _ = snapshot.end(NOW.moved_by(-100_000_000)),
        State::Away { for_ms } => {
            let _ = snapshot.end(NOW.moved_by(-100_000_000));
            let _ = snapshot.set_unavailable(UnixMillis(NOW.0 - for_ms));
        }
        State::NeverRead => _ = snapshot.set_unavailable(NOW.moved_by(-1)),
        State::Unread => {}
    }
    snapshot
}

fn rules(ip: IpAddr, facts: &str, policy: &str) -> Rules {
    let nets = |name| {
        let named = facts.split('+').any(|fact| fact == name);
        named.then(|| network_of(ip)).into_iter().collect::<Nets<()>>()
    };
    Rules {
        deny: nets("deny"),
        allow: nets("allow"),
        internal: Internal::Allow,
        failure: policy.parse().unwrap(),
    }
}

/// Facts, and for each column the reason.
fn rows(table: &'static str) -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
    let mut lines =
        table.lines().map(|line| line.split_whitespace()).filter(|w| w.clone().count() > 0);
    let columns: Vec<_> = lines.next().unwrap().skip(1).collect();
    lines
        .map(|mut words| {
            let facts = words.next().unwrap();
            let reasons: Vec<_> = columns.iter().copied().zip(words).collect();
            assert_eq!(reasons.len(), 4, "{facts}");
            (facts, reasons)
        })
        .collect()
}

/// One row in one state: the newcomer, the explanation, and who is in already.
fn check(peer: Peer, (rules, facts): (&Rules, &Snapshot), want: (&str, &str), row: &str) {
    let decision = decide(rules, facts, peer, NOW);
    assert_eq!(decision.reason(), want.0, "newcomer: {row}");
    let kept = recheck(rules, facts, peer, NOW);
    assert_eq!(kept.reason(), want.1, "was let in: {row}");

    let explanation = explain(rules, facts, peer, NOW);
    assert_eq!(explanation.decision, decision, "explained: {row}");
    assert!(explanation.lines.iter().map(|line| line.rule).eq(Rule::ORDER), "{row}");
    let spoke = explanation.lines.iter().find(|line| line.decision.is_some()).unwrap();
    assert_eq!((spoke.rule, spoke.decision), (explanation.decided, Some(decision)), "{row}");
    assert_eq!(spoke.rule, rule_of(want.0), "{row}");
    assert_eq!(spoke.entry.map(|entry| entry.member), decision.member, "{row}");
    for line in &explanation.lines {
        let speaks = line.rule == Rule::Default || (line.entry.is_some() && line.skipped.is_none());
        assert_eq!(line.decision.is_some(), speaks, "{:?}: {row}", line.rule);
    }
}

fn rule_of(reason: &str) -> Rule {
    match reason {
        "static-deny" => Rule::StaticDeny,
        "static-allow" => Rule::StaticAllow,
        "banned" => Rule::Ban,
        "allow-set" => Rule::AllowSet,
        "internal" => Rule::Internal,
        "not-allowed" | "store-unavailable" | "store-unavailable-open" | "nameless" => {
            Rule::Default
        }
        _ => panic!("no rule gives {reason}"),
    }
}

#[test]
fn the_truth_table() {
    let mut checked = 0;
    let kinds = EXTERNAL.map(|text| (text, OUTSIDE)).into_iter();
    for (text, table) in kinds.chain(INTERNAL.map(|text| (text, INSIDE))) {
        for (facts, reasons) in rows(table) {
            for (state, policy, newcomer, kept) in STATES {
                let reason = |name| reasons.iter().find(|(column, _)| *column == name).unwrap().1;
                let mut rules = rules(ip(text), facts, policy);
                let snapshot = snapshot(&items(ip(text), facts), state);
                let row = format!("{text} {facts} {state:?} {policy}");
                let want = (reason(newcomer), reason(kept));
                check(Peer::Socket(ip(text)), (&rules, &snapshot), want, &row);

                // Announced or to be checked, no address is internal.
                let outside = rows(OUTSIDE).into_iter().find(|row| row.0 == facts).unwrap().1;
                let reason = |name| outside.iter().find(|(column, _)| *column == name).unwrap().1;
                let want = (reason(newcomer), reason(kept));
                check(Peer::Announced(ip(text)), (&rules, &snapshot), want, &row);
                rules.internal = Internal::Check;
                check(Peer::Socket(ip(text)), (&rules, &snapshot), want, &row);
                checked += 3;
            }
        }
    }
    assert_eq!(checked, 18 * 19 * 15 * 3);
}

/// Without an address nothing that is known of addresses lets it in, in any state of
/// the store: it may be the one that is banned or denied.
#[test]
fn a_nameless_client_comes_in_only_where_every_address_may() {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse::<Member>().unwrap()).collect();
    let known: Vec<Item> = [&EXTERNAL[..], &INTERNAL]
        .concat()
        .iter()
        .flat_map(|text| items(ip(text), "listed"))
        .collect();
    let halves = &["0.0.0.0/1", "128.0.0.0/1", "::/0"][..];
    let cases: [(&[&str], &[&str], &str); 9] = [
        (&[], &[], "nameless"),
        (&["203.0.113.0/24", "10.0.0.0/8"], &[], "nameless"),
        (&["0.0.0.0/0"], &[], "nameless"),
        (&["::/0"], &[], "nameless"),
        (&["0.0.0.0/1", "::/0"], &[], "nameless"),
        (&["0.0.0.0/0", "::/0"], &[], "static-allow"),
        (halves, &[], "static-allow"),
        (&["0.0.0.0/0", "::/0"], &["203.0.113.7"], "static-deny"),
        (&[], &["203.0.113.7"], "static-deny"),
    ];
    for (allow, deny, want) in cases {
        for (state, policy, ..) in STATES {
            for internal in [Internal::Allow, Internal::Check] {
                let failure = policy.parse().unwrap();
                let rules = Rules { allow: nets(allow), deny: nets(deny), internal, failure };
                let row = format!("{allow:?} {deny:?} {state:?} {policy}");
                check(Peer::Nameless, (&rules, &snapshot(&known, state)), (want, want), &row);
            }
        }
    }
}

#[test]
fn a_decision_names_its_entry_and_its_end() {
    let peer = Peer::Socket(ip("::ffff:203.0.113.7"));
    let member = |text: &str| Some(text.parse::<Member>().unwrap());
    let decided = |facts: &str, state, policy: &str| {
        let snapshot = snapshot(&items(address(peer), facts), state);
        let decision = decide(&rules(address(peer), facts, policy), &snapshot, peer, NOW);
        (decision.member, decision.until)
    };
    assert_eq!(decided("listed+network", State::Fresh, "closed"), (member("203.0.113.7"), SOON));
    assert_eq!(
        decided("ended+network", State::Fresh, "closed"),
        (member("203.0.113.0/24"), Expiry::Never)
    );
    assert_eq!(decided("banned", State::Fresh, "closed"), (member("203.0.113.7"), SOON));
    assert_eq!(decided("deny", State::Fresh, "closed"), (member("203.0.113.0/24"), Expiry::Never));
    assert_eq!(
        decided("allow", State::NeverRead, "closed"),
        (member("203.0.113.0/24"), Expiry::Never)
    );
    assert_eq!(decided("nothing", State::Fresh, "closed"), (None, Expiry::Never));
    assert_eq!(decided("listed", State::Away { for_ms: 0 }, "open"), (None, Expiry::Never));

    let away = State::Away { for_ms: 57_000 };
    let limit = Expiry::At(NOW.moved_by(3_000));
    assert_eq!(decided("listed", away, "stale:60s"), (member("203.0.113.7"), limit));
    assert_eq!(decided("network", away, "stale:60s"), (member("203.0.113.0/24"), limit));
    assert_eq!(decided("listed", away, "stale:1h"), (member("203.0.113.7"), SOON), "its own end");
    assert_eq!(decided("banned", away, "stale:60s"), (member("203.0.113.7"), SOON));
    let facts = snapshot(&items(address(peer), "listed"), away);
    let kept = recheck(&rules(address(peer), "listed", "stale:60s"), &facts, peer, NOW);
    assert_eq!(kept.until, SOON, "no limit for who is in");

    let rules = Rules { internal: Internal::Allow, ..Rules::default() };
    let internal = decide(&rules, &facts, Peer::Socket(ip("::ffff:10.1.2.3")), NOW);
    assert_eq!((internal.member, internal.until), (member("10.0.0.0/8"), Expiry::Never));
}

#[test]
fn an_end_comes_in_the_millisecond_it_names() {
    let peer = Peer::Socket(ip("203.0.113.7"));
    let facts = snapshot(&items(address(peer), "listed"), State::Fresh);
    let allowed = |now| decide(&Rules::default(), &facts, peer, now).is_allowed();
    assert!(allowed(NOW.moved_by(4_999)) && !allowed(NOW.moved_by(5_000)));
}

#[test]
fn an_explanation_shows_skipped_rules() {
    let peer = Peer::Announced(ip("10.1.2.3"));
    let facts = snapshot(&items(address(peer), "listed"), State::Away { for_ms: 1 });
    assert_eq!(facts.freshness(), Freshness::Unavailable { since: Some(NOW.moved_by(-1)) });
    let rules =
        Rules { failure: FailurePolicy::Closed, internal: Internal::Allow, ..Rules::default() };
    let explanation = explain(&rules, &facts, peer, NOW);
    assert_eq!(explanation.policy, EffectivePolicy::Closed);
    let line = |rule| *explanation.lines.iter().find(|line| line.rule == rule).unwrap();
    let listed = line(Rule::AllowSet);
    assert_eq!(listed.skipped, Some(Skip::StoreUnavailable));
    assert_eq!(listed.entry.unwrap().member.to_string(), "10.1.2.3");
    assert_eq!(listed.entry.unwrap().ttl(NOW).unwrap().as_secs(), 5);
    assert_eq!(line(Rule::Internal).skipped, Some(Skip::NotTheSocket));
    assert_eq!(line(Rule::Internal).entry.unwrap().member.to_string(), "10.0.0.0/8");
    assert_eq!(explanation.decided, Rule::Default);
}

#[test]
fn names_are_stable_and_distinct() {
    let rules: Vec<_> = Rule::ORDER.iter().map(|rule| rule.as_str()).collect();
    assert_eq!(rules, ["static-deny", "static-allow", "ban", "allow-set", "internal", "default"]);
    for skip in [Skip::StoreUnavailable, Skip::InternalChecked, Skip::NotTheSocket, Skip::Nameless]
    {
        assert!(!skip.as_str().is_empty());
    }
}
