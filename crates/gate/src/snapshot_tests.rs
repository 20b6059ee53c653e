//! The rule of full reads, against cases; expiry; a million members.
//! The time of a look-up is measured by `cargo bench --bench decision`.

use super::*;

pub(super) fn member(text: &str) -> Member {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const fn at(milliseconds: u64) -> Expiry {
    Expiry::At(UnixMillis(milliseconds))
}

fn listed(text: &str) -> Item {
    Item::Allowed(member(text), Expiry::Never)
}

fn read(snapshot: &mut Snapshot, items: &[Item]) -> Changed {
    snapshot.begin();
    let mut changed = snapshot.items(items);
    changed.merge(snapshot.end(UnixMillis(0)));
    changed
}

fn fresh(items: &[Item]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    assert_eq!(read(&mut snapshot, items), Changed::Everything, "the store came to be fresh");
    snapshot
}

fn allows(snapshot: &Snapshot, text: &str) -> bool {
    snapshot.allowed(ip(text), UnixMillis(0)).is_some()
}

fn subjects(texts: &[&str]) -> Changed {
    Changed::Subjects(texts.iter().map(|text| member(text)).collect())
}

/// A sweep names what is gone in no order.
fn sorted(mut changed: Changed) -> Changed {
    if let Changed::Subjects(members) = &mut changed {
        members.sort();
    }
    changed
}

#[test]
fn a_read_replaces_what_was_known() {
    let mut snapshot = fresh(&[listed("1.1.1.1"), listed("2.2.2.0/24"), listed("2001:db8::/64")]);
    let changed = read(&mut snapshot, &[listed("1.1.1.1"), listed("3.3.3.3")]);
    assert!(allows(&snapshot, "1.1.1.1") && allows(&snapshot, "::ffff:3.3.3.3"));
    assert!(!allows(&snapshot, "2.2.2.2") && !allows(&snapshot, "2001:db8::1"));
    assert_eq!(sorted(changed), subjects(&["3.3.3.3", "2.2.2.0/24", "2001:db8::/64"]));
    assert_eq!(snapshot.counts(), Counts { addresses: 2, networks: 0, bans: 0 });
    let changed = read(&mut snapshot, &[listed("3.3.3.3"), listed("1.1.1.1")]);
    assert!(changed.is_empty(), "{changed:?}");
}

#[test]
fn a_removal_during_a_read_is_not_undone_by_it() {
    let mut snapshot = fresh(&[
        listed("1.1.1.1"),
        listed("2.2.2.0/24"),
        Item::Banned(ip("9.9.9.9").into(), Expiry::Never),
    ]);
    snapshot.begin();
    assert_eq!(snapshot.set_allowed(member("1.1.1.1"), None), subjects(&["1.1.1.1"]));
    assert_eq!(snapshot.set_allowed(member("2.2.2.0/24"), None), subjects(&["2.2.2.0/24"]));
    assert_eq!(snapshot.set_banned(ip("9.9.9.9"), None), subjects(&["9.9.9.9"]));
    assert!(
        !allows(&snapshot, "1.1.1.1") && snapshot.banned(ip("9.9.9.9"), UnixMillis(0)).is_none()
    );
    // A batch that was read before the removals arrives after them.
    let late = [
        listed("1.1.1.1"),
        listed("2.2.2.0/24"),
        Item::Banned(ip("9.9.9.9").into(), Expiry::Never),
    ];
    assert!(snapshot.items(&late).is_empty());
    assert!(snapshot.end(UnixMillis(0)).is_empty());
    assert!(!allows(&snapshot, "1.1.1.1") && !allows(&snapshot, "2.2.2.2"));
    assert!(snapshot.banned(ip("9.9.9.9"), UnixMillis(0)).is_none());
    assert_eq!(snapshot.counts(), Counts::default(), "no tombstone is left");
    // The next read is a new one.
    let _ = read(&mut snapshot, &late);
    assert!(allows(&snapshot, "1.1.1.1") && allows(&snapshot, "2.2.2.2"));
}

#[test]
fn a_grant_during_a_read_is_not_lost_by_it() {
    let mut snapshot = fresh(&[]);
    snapshot.begin();
    let _ = snapshot.items(&[Item::Allowed(member("2.2.2.2"), at(500))]);
    let _ = snapshot.set_allowed(member("1.1.1.1"), Some(Expiry::Never));
    let _ = snapshot.set_allowed(member("2.2.2.2"), Some(at(900)));
    let _ = snapshot.set_banned(ip("3.3.3.3"), Some(at(900)));
    assert!(allows(&snapshot, "1.1.1.1"), "at once");
    assert!(snapshot.end(UnixMillis(0)).is_empty());
    assert!(
        allows(&snapshot, "1.1.1.1") && snapshot.banned(ip("3.3.3.3"), UnixMillis(0)).is_some()
    );
    assert_eq!(snapshot.allowed(ip("2.2.2.2"), UnixMillis(0)).unwrap().expiry, at(900));
    // And it is not kept for ever: the next read does not find it.
    let gone = sorted(read(&mut snapshot, &[]));
    assert_eq!(gone, subjects(&["1.1.1.1", "2.2.2.2", "3.3.3.3"]));
}

#[test]
fn a_change_before_a_read_yields_to_it() {
    let mut snapshot = fresh(&[]);
    let _ = snapshot.set_allowed(member("1.1.1.1"), Some(at(900)));
    let _ = snapshot.set_allowed(member("2.2.2.2"), Some(Expiry::Never));
    let _ = read(&mut snapshot, &[Item::Allowed(member("1.1.1.1"), at(500))]);
    assert_eq!(snapshot.allowed(ip("1.1.1.1"), UnixMillis(0)).unwrap().expiry, at(500));
    assert!(!allows(&snapshot, "2.2.2.2"));
}

#[test]
fn an_entry_held_twice_lasts_as_long_as_the_longer() {
    let allowed = |expiry| Item::Allowed(member("1.1.1.1"), expiry);
    for orders in [[at(100), at(200)], [at(200), at(100)]] {
        let snapshot = fresh(&orders.map(allowed));
        assert_eq!(snapshot.allowed(ip("1.1.1.1"), UnixMillis(0)).unwrap().expiry, at(200));
    }
    let snapshot = fresh(&[allowed(Expiry::Never), allowed(at(100))]);
    assert_eq!(snapshot.allowed(ip("1.1.1.1"), UnixMillis(0)).unwrap().expiry, Expiry::Never);
}

#[test]
fn a_read_that_is_broken_off_removes_nothing() {
    for again in [false, true] {
        let mut snapshot = fresh(&[listed("1.1.1.1"), listed("2.2.2.2"), listed("4.4.4.4")]);
        snapshot.begin();
        let _ = snapshot.items(&[listed("2.2.2.2"), listed("3.3.3.3")]);
        let _ = snapshot.set_allowed(member("4.4.4.4"), None);
        if again {
            assert_eq!(snapshot.set_unavailable(UnixMillis(7)), Changed::Everything);
            assert!(snapshot.set_unavailable(UnixMillis(8)).is_empty(), "once is enough");
            assert_eq!(snapshot.counts().addresses, 3, "no tombstone is left");
            assert_eq!(snapshot.freshness(), Freshness::Unavailable { since: Some(UnixMillis(7)) });
            assert!(snapshot.end(UnixMillis(0)).is_empty(), "an end without a begin is none");
            assert_eq!(snapshot.freshness(), Freshness::Unavailable { since: Some(UnixMillis(7)) });
        }
        for text in ["1.1.1.1", "2.2.2.2", "3.3.3.3"] {
            assert!(allows(&snapshot, text), "{text}");
        }
        assert!(!allows(&snapshot, "4.4.4.4"));
        let _ = read(&mut snapshot, &[listed("1.1.1.1"), listed("4.4.4.4")]);
        assert_eq!(snapshot.freshness(), Freshness::Fresh);
        assert!(allows(&snapshot, "1.1.1.1") && allows(&snapshot, "4.4.4.4"));
        assert!(!allows(&snapshot, "2.2.2.2") && !allows(&snapshot, "3.3.3.3"));
    }
}

#[test]
fn until_the_first_read_is_complete_the_store_is_unread_or_unavailable() {
    let mut snapshot = Snapshot::default();
    assert_eq!(snapshot.freshness(), Freshness::Unread);
    snapshot.begin();
    let _ = snapshot.items(&[listed("1.1.1.1")]);
    assert_eq!(snapshot.freshness(), Freshness::Unread);
    assert_eq!(snapshot.set_unavailable(UnixMillis(5)), Changed::Everything);
    assert!(snapshot.set_unavailable(UnixMillis(6)).is_empty(), "once is enough");
    assert_eq!(snapshot.freshness(), Freshness::Unavailable { since: None }, "it was never fresh");
}

#[test]
fn the_longest_network_that_has_not_ended_decides() {
    let network = |text, expiry| Item::Allowed(member(text), expiry);
    let snapshot = fresh(&[
        network("1.0.0.0/8", Expiry::Never),
        network("1.1.0.0/16", at(200)),
        network("1.1.1.0/24", at(100)),
        network("1.1.1.1", at(50)),
    ]);
    for (now, want) in [(0, "1.1.1.1"), (50, "1.1.1.0/24"), (100, "1.1.0.0/16"), (200, "1.0.0.0/8")]
    {
        let entry = snapshot.allowed(ip("1.1.1.1"), UnixMillis(now)).unwrap();
        assert_eq!(entry.member, member(want), "{now}");
    }
}

#[test]
fn entries_lists_the_present_content_of_each_table() {
    let items = [
        Item::Allowed(member("1.1.1.1"), at(100)),
        Item::Allowed(member("2001:db8::1"), Expiry::Never),
        Item::Allowed(member("2.2.2.0/24"), at(300)),
        Item::Banned(ip("3.3.3.3").into(), at(400)),
        Item::Banned(ip("2001:db8::3").into(), at(500)),
        Item::Banned(member("2001:db8:0:1::/64"), at(600)),
    ];
    let mut snapshot = fresh(&items);
    let named = |snapshot: &Snapshot, now| {
        let entries: Vec<Item> = snapshot.entries(UnixMillis(now)).collect();
        items.map(|item| entries.contains(&item) && entries.len() <= items.len())
    };
    assert_eq!(named(&snapshot, 0), [true; 6]);
    assert_eq!(named(&snapshot, 300), [false, true, false, true, true, true]);
    // Neither what was removed in the middle of a read, nor what was found by it twice.
    snapshot.begin();
    let _ = snapshot.set_banned(ip("3.3.3.3"), None);
    let _ = snapshot.items(&items);
    assert_eq!(named(&snapshot, 300), [false, true, false, false, true, true]);
    assert_eq!(snapshot.entries(UnixMillis(300)).count(), 3);
}

#[test]
fn ended_entries_are_forgotten_and_named() {
    let mut snapshot = fresh(&[
        Item::Allowed(member("1.1.1.1"), at(100)),
        Item::Allowed(member("2001:db8::1"), at(200)),
        Item::Allowed(member("2.2.2.0/24"), at(300)),
        Item::Banned(ip("3.3.3.3").into(), at(400)),
        Item::Banned(ip("2001:db8::3").into(), at(500)),
        listed("4.4.4.4"),
    ]);
    let names = ["1.1.1.1", "2001:db8::1", "2.2.2.0/24", "3.3.3.3", "2001:db8::3"];
    for (end, name) in (100..).step_by(100).zip(names) {
        assert_eq!(snapshot.next_expiry(), Some(UnixMillis(end)));
        assert!(snapshot.expire(UnixMillis(end - 1)).is_empty());
        assert_eq!(snapshot.expire(UnixMillis(end)), subjects(&[name]));
    }
    assert_eq!(snapshot.next_expiry(), None);
    assert_eq!(snapshot.counts(), Counts { addresses: 1, networks: 0, bans: 0 });
}

#[test]
fn a_prolonged_grant_does_not_end_early() {
    let mut snapshot = fresh(&[Item::Allowed(member("1.1.1.1"), at(100))]);
    assert_eq!(snapshot.set_allowed(member("1.1.1.1"), Some(at(200))), subjects(&["1.1.1.1"]));
    assert!(snapshot.set_allowed(member("1.1.1.1"), Some(at(200))).is_empty(), "as before");
    assert!(snapshot.expire(UnixMillis(150)).is_empty());
    assert!(snapshot.allowed(ip("1.1.1.1"), UnixMillis(150)).is_some());
    assert_eq!(snapshot.expire(UnixMillis(200)), subjects(&["1.1.1.1"]));
    // Shortened, and without an end.
    let _ = snapshot.set_allowed(member("1.1.1.1"), Some(Expiry::Never));
    let _ = snapshot.set_allowed(member("1.1.1.1"), Some(at(300)));
    assert_eq!(snapshot.next_expiry(), Some(UnixMillis(300)));
    let _ = snapshot.set_allowed(member("1.1.1.1"), Some(Expiry::Never));
    assert!(snapshot.expire(UnixMillis(u64::MAX)).is_empty());
    assert!(snapshot.allowed(ip("1.1.1.1"), UnixMillis(u64::MAX - 1)).is_some());
}

#[test]
fn a_grant_that_was_shortened_and_ended_during_a_read_is_not_revived_by_it() {
    let mut snapshot = fresh(&[Item::Allowed(member("1.1.1.1"), at(900))]);
    snapshot.begin();
    let _ = snapshot.set_allowed(member("1.1.1.1"), Some(at(100)));
    let _ = snapshot.expire(UnixMillis(100));
    let _ = snapshot.items(&[Item::Allowed(member("1.1.1.1"), at(900))]);
    assert!(snapshot.allowed(ip("1.1.1.1"), UnixMillis(100)).is_none());
    let _ = snapshot.end(UnixMillis(100));
    assert!(snapshot.allowed(ip("1.1.1.1"), UnixMillis(100)).is_none());
    assert_eq!(snapshot.counts(), Counts::default());
}

#[test]
fn odd_expiries_are_harmless() {
    let mut snapshot = fresh(&[
        Item::Allowed(member("1.1.1.1"), at(0)),
        Item::Allowed(member("2.2.2.2"), at(u64::MAX)),
        Item::Allowed(member("3.3.3.3"), at(1 << 46)),
    ]);
    assert!(!allows(&snapshot, "1.1.1.1"));
    for text in ["2.2.2.2", "3.3.3.3"] {
        assert_eq!(
            snapshot.allowed(ip(text), UnixMillis(0)).unwrap().expiry,
            Expiry::Never,
            "{text}: never"
        );
    }
    assert!(snapshot.set_allowed(member("4.4.4.4"), Some(at(0))).is_empty());
    assert!(snapshot.set_allowed(member("4.4.4.4"), None).is_empty());
    assert_eq!(snapshot.counts().addresses, 2);
}

#[test]
fn many_changes_are_everything() {
    let numbered = |number: u32| Item::Allowed(IpAddr::from(number.to_be_bytes()).into(), at(9));
    let many: Vec<_> = (0..25_000).map(numbered).collect();
    let mut snapshot = fresh(&[]);
    assert_eq!(snapshot.items(&many), Changed::Everything);
    // They end together, and no call takes long.
    assert_eq!(snapshot.expire(UnixMillis(9)), Changed::Everything);
    assert_eq!(
        (snapshot.counts().addresses, snapshot.next_expiry()),
        (15_000, Some(UnixMillis(9)))
    );
    let _ = snapshot.expire(UnixMillis(9));
    let _ = snapshot.expire(UnixMillis(9));
    assert_eq!((snapshot.counts().addresses, snapshot.next_expiry()), (0, None));
    let mut changed = subjects(&["1.1.1.0/24"]);
    assert!(changed.affects(ip("::ffff:1.1.1.1")) && !changed.affects(ip("1.1.2.1")));
    changed.merge(Changed::Everything);
    changed.merge(subjects(&["1.1.1.1"]));
    assert!(changed.affects(ip("8.8.8.8")) && !changed.is_empty());
}

#[test]
fn memory_shrinks_with_the_content() {
    let numbered = |number: u32, at| Item::Allowed(IpAddr::from(number.to_be_bytes()).into(), at);
    let mut snapshot = fresh(&[]);
    // One subject prolonged for ever does not fill the heap.
    for end in 1..100_000 {
        let _ = snapshot.set_allowed(member("1.1.1.1"), Some(at(end)));
    }
    assert!(
        snapshot.tables.allowed.v4.due_len() < 3_000,
        "{}",
        snapshot.tables.allowed.v4.due_len()
    );
    let many: Vec<_> = (0..100_000).map(|number| numbered(number, at(number.into()))).collect();
    let _ = read(&mut snapshot, &many);
    // Nor does a flush leave room for what is gone.
    let _ = read(&mut snapshot, &[]);
    assert_eq!(snapshot.counts(), Counts::default());
    assert!(snapshot.tables.allowed.v4.due_len() < 3_000);
    assert!(snapshot.tables.allowed.v4.table().capacity() < 3_000);
}

#[test]
fn a_million_members_are_told_from_others() {
    const LOOKUPS: u32 = 200_000;
    let mut snapshot = Snapshot::default();
    snapshot.begin();
    for number in 0..500_000_u32 {
        let v4 = Ipv4Addr::from_bits(number.wrapping_mul(2_654_435_761));
        let v6 = Ipv6Addr::from_bits(u128::from(number) << 64 | 0x2001 << 112);
        let items = [v4.into(), v6.into()].map(|member| Item::Allowed(member, at(1 << 42)));
        let _ = snapshot.items(&items);
    }
    for number in 0..10_000_u32 {
        let length = 20 + (number % 10) as u8;
        let network = IpNet::new(Ipv4Addr::from_bits(number << 18).into(), length).unwrap();
        let _ = snapshot.items(&[Item::Allowed(network.into(), Expiry::Never)]);
    }
    let _ = snapshot.end(UnixMillis(0));
    assert!(snapshot.counts().addresses > 999_000);

    let found = |first: u32| {
        let numbers = first..first + LOOKUPS;
        let ips = numbers.map(|n| IpAddr::V4(n.wrapping_mul(2_654_435_761).into()));
        ips.filter(|ip| snapshot.allowed(*ip, UnixMillis(1)).is_some()).count()
    };
    assert_eq!(found(0), LOOKUPS as usize);
    assert!(found(500_000) < LOOKUPS as usize / 2, "the networks hold few of the others");
}

/// An IPv6 /64 is banned as one: found by each of its addresses, ended, lifted and
/// forgotten as a ban of an address is.
#[test]
fn a_banned_64_is_every_address_in_it() {
    let network: Member = "2001:db8:0:1::/64".parse().unwrap();
    let mut snapshot = fresh(&[Item::Banned(network, at(400))]);
    let banned = |snapshot: &Snapshot, text, now| snapshot.banned(ip(text), UnixMillis(now));
    let entry = Entry { member: network, expiry: at(400) };
    assert_eq!(banned(&snapshot, "2001:db8:0:1::7", 399), Some(entry));
    assert_eq!(banned(&snapshot, "2001:db8:0:2::7", 399), None);
    assert_eq!(banned(&snapshot, "2001:db8:0:1::7", 400), None);
    assert_eq!((snapshot.counts().bans, snapshot.next_expiry()), (1, Some(UnixMillis(400))));
    assert_eq!(snapshot.expire(UnixMillis(400)), subjects(&["2001:db8:0:1::/64"]));
    assert_eq!(snapshot.counts().bans, 0);
    assert_eq!(snapshot.set_banned(network, Some(Expiry::Never)), subjects(&["2001:db8:0:1::/64"]));
    snapshot.begin();
    assert!(banned(&snapshot, "2001:db8:0:1::7", 500).is_some());
    assert_eq!(snapshot.end(UnixMillis(500)), subjects(&["2001:db8:0:1::/64"]));
    assert_eq!(banned(&snapshot, "2001:db8:0:1::7", 500), None);
}

/// Else a server that never ends its sets would fill the memory, read after read.
#[test]
fn reads_that_are_broken_off_do_not_add_up_for_ever() {
    let v4 = |n: u32| Member::from(IpAddr::from(Ipv4Addr::from(n)));
    let v6 = |n: u32| IpAddr::from(Ipv6Addr::from(u128::from(n) << 64 | 0x2001 << 112));
    let net = |n: u32| Member::from(IpNet::new(Ipv4Addr::from(n << 8).into(), 24).unwrap());
    let net_v6 = |n: u32| Member::from(IpNet::new(v6(n), 64).unwrap());
    let kinds: [&dyn Fn(u32) -> Item; 8] = [
        &|n| Item::Allowed(v4(n), Expiry::Never),
        &|n| Item::Allowed(v6(n).into(), Expiry::Never),
        &|n| Item::Allowed(net(n), Expiry::Never),
        &|n| Item::Allowed(net_v6(n), Expiry::Never),
        &|n| Item::Banned(v4(n), Expiry::Never),
        &|n| Item::Banned(v6(n).into(), Expiry::Never),
        &|n| Item::Banned(net(n), Expiry::Never),
        &|n| Item::Banned(net_v6(n), Expiry::Never),
    ];
    for (kind, item) in kinds.into_iter().enumerate() {
        let mut snapshot = Snapshot::default();
        let mut number = 0;
        for _ in 0..3 {
            snapshot.begin();
            let _ = snapshot.items(&(number..number + 15_000).map(item).collect::<Vec<_>>());
            (number, _) = (number + 15_000, snapshot.set_unavailable(UnixMillis(7)));
        }
        let Counts { addresses, networks, bans } = snapshot.counts();
        assert_eq!(addresses + networks + bans, 15_000, "of the last read: {kind}");
    }
}

#[test]
fn a_member_is_found_whatever_else_covers_its_address() {
    let ends = |text: &str, ms| Item::Allowed(member(text), at(ms));
    let snapshot = fresh(&[
        listed("203.0.113.0/24"),
        ends("203.0.113.0/28", 5),
        ends("203.0.113.0", 7),
        ends("2001:db8::/64", 9),
    ]);
    let end = |text: &str, ms| snapshot.member(member(text), UnixMillis(ms));
    assert_eq!(end("203.0.113.0/24", 6), Some(Expiry::Never));
    assert_eq!(end("203.0.113.0/28", 4), Some(at(5)));
    assert_eq!(end("203.0.113.0/28", 5), None);
    assert_eq!(end("203.0.113.0", 6), Some(at(7)));
    for absent in ["203.0.113.0/26", "203.0.113.1", "2001:db8::/48", "2001:db8::"] {
        assert_eq!(end(absent, 0), None, "{absent}");
    }
}
