//! What is wanted, against the decision about each single address.

use std::net::IpAddr;
use std::time::Duration;

use knockpipe_gate::snapshot::Freshness;
use knockpipe_gate::{FailurePolicy, Member, Nets, Peer, decide};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const NOW: UnixMillis = UnixMillis(10_000);

fn random_network(random: &mut StdRng) -> IpNet {
    let last = random.random_range(0..64_u8);
    let text = match random.random_bool(0.5) {
        true => format!("192.0.2.{last}/{}", random.random_range(25..=32)),
        false => format!("2001:db8::{last:x}/{}", random.random_range(121..=128)),
    };
    text.parse::<IpNet>().unwrap().trunc()
}

fn random_end(random: &mut StdRng) -> Expiry {
    match random.random_range(0..5) {
        0 => Expiry::Never,
        seconds => Expiry::At(UnixMillis::from_secs(9 + seconds)),
    }
}

fn random_rules(random: &mut StdRng) -> Rules {
    let networks = |random: &mut StdRng, most| -> Nets<()> {
        let count = random.random_range(0..most);
        (0..count).map(|_| random_network(random)).map(Member::from).collect()
    };
    let failure = match random.random_range(0..3) {
        0 => FailurePolicy::Closed,
        1 => FailurePolicy::Open,
        _ => FailurePolicy::Stale(Duration::from_secs(random.random_range(1..5))),
    };
    let internal = if random.random_bool(0.5) { Internal::Allow } else { Internal::Check };
    Rules { deny: networks(random, 3), allow: networks(random, 3), internal, failure }
}

fn random_store(random: &mut StdRng) -> Snapshot {
    let mut store = Snapshot::default();
    store.begin();
    let items: Vec<Item> = (0..random.random_range(0..10))
        .map(|_| {
            let (member, end) = (random_network(random).into(), random_end(random));
            let is_ban = random.random_bool(0.3);
            if is_ban { Item::Banned(member, end) } else { Item::Allowed(member, end) }
        })
        .collect();
    let _ = store.items(&items);
    let _ = store.end(UnixMillis(8_000));
    if random.random_bool(0.3) {
        let _ = store.set_unavailable(UnixMillis(8_000));
    }
    assert_ne!(store.freshness(), Freshness::Unread);
    store
}

/// The latest end of the entries that contain an address.
fn end_of(wanted: &Wanted, ip: IpAddr) -> Option<Expiry> {
    let around = wanted.entries.iter().filter(|(network, _)| network.contains(&ip));
    around.map(|(_, lasting)| lasting.end).max()
}

fn addresses() -> impl Iterator<Item = IpAddr> {
    let v4 = (0..=255).map(|last| IpAddr::from([192, 0, 2, last]));
    let v6 = (0..=255).map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]));
    let others = ["127.0.0.1", "10.1.2.3", "198.51.100.1", "::1", "fd00::1", "2001:db8:1::"];
    v4.chain(v6).chain(others.into_iter().map(|ip| ip.parse().unwrap()))
}

#[test]
fn a_network_is_wanted_exactly_where_the_gate_admits_its_addresses() {
    for seed in 0..1_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let (rules, store) = (random_rules(&mut random), random_store(&mut random));
        let policy = rules.failure.effective(store.freshness(), NOW);
        let wanted = wanted(&rules, &store, policy, NOW);
        assert_eq!(wanted.left_out, []);
        for ip in addresses() {
            let decision = decide(&rules, &store, Peer::Socket(ip), NOW);
            let end = end_of(&wanted, ip);
            assert_eq!(end.is_some(), decision.is_allowed(), "case {seed}: {ip} {wanted:?}");
        }
    }
}

#[test]
fn a_network_in_another_lasts_longer() {
    for seed in 0..1_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let (rules, store) = (random_rules(&mut random), random_store(&mut random));
        let policy = rules.failure.effective(store.freshness(), NOW);
        let all = wanted(&rules, &store, policy, NOW).entries;
        for (network, lasting) in all.iter() {
            for (outer, around) in all.iter().filter(|(outer, _)| *outer != network) {
                let is_needed = !outer.contains(network) || around.end < lasting.end;
                assert!(is_needed, "case {seed}: {network} in {outer}");
            }
        }
    }
}

/// Longest end wins, also while a part of the network has another.
#[test]
fn an_address_may_connect_for_as_long_as_the_longest_of_its_entries() {
    let at = |seconds| Expiry::At(UnixMillis::from_secs(seconds));
    for seed in 0..1_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let items: Vec<_> = (0..6)
            .map(|_| (random_network(&mut random), at(random.random_range(20..25))))
            .collect();
        let mut store = Snapshot::default();
        store.begin();
        let all: Vec<Item> =
            items.iter().map(|(net, end)| Item::Allowed((*net).into(), *end)).collect();
        let _ = store.items(&all);
        let _ = store.end(NOW);
        let wanted = wanted(&Rules::default(), &store, EffectivePolicy::Fresh, NOW);
        for ip in addresses() {
            let around = items.iter().filter(|(network, _)| network.contains(&ip));
            let longest = around.map(|(_, end)| *end).max();
            assert_eq!(end_of(&wanted, ip), longest, "case {seed}: {ip}");
        }
    }
}

#[test]
fn a_network_with_too_many_bans_is_left_out_and_named() {
    let mut store = Snapshot::default();
    store.begin();
    let mut items = vec![Item::Allowed("10.0.0.0/8".parse().unwrap(), Expiry::Never)];
    items.push(Item::Allowed("192.0.2.1".parse().unwrap(), Expiry::Never));
    let banned =
        (0..15_000_u32).map(|number| IpAddr::from((0x0a00_0000 + 2 * number).to_be_bytes()));
    items.extend(banned.map(|ip| Item::Banned(ip.into(), Expiry::Never)));
    let _ = store.items(&items[..10]);
    let _ = store.end(NOW);
    let few = wanted(&Rules::default(), &store, EffectivePolicy::Fresh, NOW);
    assert!(few.left_out.is_empty() && few.entries.len() > 10, "{few:?}");
    items.extend((0..15_000_u32).map(|number| {
        Item::Banned(
            IpAddr::from((0x0a80_0000 + 1000 * number).to_be_bytes()).into(),
            Expiry::Never,
        )
    }));
    store.begin();
    let _ = store.items(&items);
    let _ = store.end(NOW);
    let many = wanted(&Rules::default(), &store, EffectivePolicy::Fresh, NOW);
    assert_eq!(many.left_out, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(many.entries.len(), 1);
}
