//! Order in which connections displace each other.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::task::{Context, Waker};

use rand::RngExt;

use super::*;

fn is_ready(future: impl Future) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn is_evicted(place: &HandshakeSlot) -> bool {
    is_ready(place.evicted())
}

fn source(number: u32) -> Option<SourceKey> {
    Some(IpAddr::V4(Ipv4Addr::from_bits(number)).into())
}

#[test]
fn a_newcomer_takes_the_oldest_place_of_those_that_hold_as_many() {
    let handshakes = PendingHandshakes::new(2);
    let first = handshakes.enter(source(1));
    let second = handshakes.enter(source(2));
    assert!(!is_evicted(&first));
    let third = handshakes.enter(source(3));
    assert!(is_evicted(&first));
    assert!(!is_evicted(&second) && !is_evicted(&third));
    assert_eq!((handshakes.used(), handshakes.high_water()), (2, 2));
    drop(first);
    assert_eq!(handshakes.used(), 2, "an evicted one has no place to give back");
}

#[test]
fn the_source_that_holds_most_loses_its_oldest_place() {
    let handshakes = PendingHandshakes::new(4);
    let honest = handshakes.enter(source(1));
    let flood: Vec<_> = (0..3).map(|_| handshakes.enter(source(2))).collect();
    let newcomer = handshakes.enter(source(3));
    assert!(is_evicted(&flood[0]), "the oldest of the flood, which is not the oldest of all");
    assert!(!is_evicted(&honest) && !is_evicted(&newcomer));
    assert!(!is_evicted(&flood[1]) && !is_evicted(&flood[2]));
}

#[test]
fn a_flooding_source_displaces_its_own() {
    let handshakes = PendingHandshakes::new(3);
    let one = handshakes.enter(source(1));
    let other = handshakes.enter(source(2));
    let flood: Vec<_> = (0..1_000).map(|_| handshakes.enter(source(3))).collect();
    assert!(!is_evicted(&one) && !is_evicted(&other));
    assert!(flood[..999].iter().all(is_evicted) && !is_evicted(&flood[999]));
    // Also one that holds no more than the others.
    let again = handshakes.enter(source(1));
    assert!(is_evicted(&one) && !is_evicted(&other) && !is_evicted(&again));
}

#[test]
fn addresses_of_one_64_are_one_source() {
    let handshakes = PendingHandshakes::new(3);
    let of = |text: &str| Some(SourceKey::from(text.parse::<IpAddr>().unwrap()));
    let honest = handshakes.enter(of("2001:db8:0:1::1"));
    let flood: Vec<_> =
        (0..50).map(|n| handshakes.enter(of(&format!("2001:db8:0:2::{n:x}")))).collect();
    assert!(!is_evicted(&honest));
    assert_eq!(flood.iter().filter(|place| is_evicted(place)).count(), 48);
}

#[test]
fn strangers_never_displace_authenticated_connections() {
    for limit in [1, 2, 3, 4, 7, 64] {
        let handshakes = PendingHandshakes::new(limit);
        let dialer = handshakes.enter(source(1));
        dialer.authenticate();
        let strangers: Vec<_> = (0..200).map(|n| handshakes.enter(source(n))).collect();
        assert!(!is_evicted(&dialer), "of {limit}");
        assert!(handshakes.used() <= limit.max(2), "of {limit}");
        assert!(!is_evicted(&strangers[199]), "of {limit}: the newest has its time");
    }
}

#[test]
fn the_authenticated_are_bounded_and_leave_a_quarter_to_newcomers() {
    let handshakes = PendingHandshakes::new(64);
    let dialers: Vec<_> = (0..100).map(|_| handshakes.enter(source(1))).collect();
    dialers.iter().for_each(HandshakeSlot::authenticate);
    let kept = || dialers.iter().filter(|place| !is_evicted(place)).count();
    assert!((48 - 15..=48).contains(&kept()), "{}", kept());
    let other = handshakes.enter(source(2));
    other.authenticate();
    let strangers: Vec<_> = (10..26).map(|n| handshakes.enter(source(n))).collect();
    assert!(!is_evicted(&other) && strangers.iter().filter(|p| is_evicted(p)).count() <= 1);
    assert!(handshakes.used() <= 64);
    dialers[99].authenticate();
    assert!(!is_evicted(&dialers[99]), "twice is once");
}

#[test]
fn dialers_that_wait_for_a_session_are_never_displaced_and_few() {
    let handshakes = PendingHandshakes::new(8);
    let wait = || handshakes.wait_for_session(source(1));
    let waiting: Vec<_> = (0..4).map_while(|_| wait()).collect();
    assert_eq!((waiting.len(), handshakes.used()), (4, 0), "they are proven");
    assert!(wait().is_none());
    for n in 0..100 {
        handshakes.enter(source(n)).authenticate();
    }
    let strangers: Vec<_> = (0..100).map(|n| handshakes.enter(source(n))).collect();
    assert!(waiting.iter().all(|place| !is_evicted(place)));
    assert_eq!(strangers.iter().filter(|place| !is_evicted(place)).count(), 4);
    drop(waiting);
    assert!(wait().is_some());
}

#[test]
fn a_displaced_connection_comes_back_in_no_class() {
    let handshakes = PendingHandshakes::new(1);
    let old = handshakes.enter(source(1));
    let new = handshakes.enter(source(1));
    old.authenticate();
    old.set_source(source(3));
    assert!(is_evicted(&old) && !is_evicted(&new));
    assert_eq!(handshakes.used(), 1);
}

/// Behind a load balancer clients are distinguished by the addresses that it announces.
#[test]
fn a_slot_counts_against_the_announced_source() {
    let handshakes = PendingHandshakes::new(3);
    let places: Vec<_> = (0..3).map(|_| handshakes.enter(source(9))).collect();
    places[0].set_source(source(1));
    places[1].set_source(source(2));
    places[2].set_source(source(2));
    let _newcomer = handshakes.enter(source(9));
    assert!(!is_evicted(&places[0]));
    assert!(is_evicted(&places[1]) && !is_evicted(&places[2]));
}

#[test]
fn a_connection_that_leaves_makes_room() {
    let handshakes = PendingHandshakes::new(2);
    let first = handshakes.enter(source(1));
    let second = handshakes.enter(None);
    drop(second);
    let _third = handshakes.enter(source(1));
    assert!(!is_evicted(&first));
    assert_eq!((handshakes.used(), handshakes.limit()), (2, 2));
}

#[test]
fn the_handle_may_go_first() {
    let place = PendingHandshakes::new(1).enter(None);
    assert!(!is_evicted(&place));
}

#[tokio::test]
async fn a_waiting_handshake_is_notified() {
    let handshakes = PendingHandshakes::new(1);
    let old = handshakes.enter(None);
    let evicted = tokio::spawn(async move { old.evicted().await });
    tokio::task::yield_now().await;
    let _new = handshakes.enter(None);
    evicted.await.unwrap();
}

#[test]
fn a_flood_stays_bounded() {
    let handshakes = PendingHandshakes::new(1024);
    let places: Vec<_> = (0..100_000).map(|n| handshakes.enter(source(n % 5_000))).collect();
    assert_eq!(handshakes.used(), 1024);
    drop(places);
    assert_eq!(handshakes.used(), 0);
    let pending = lock(&handshakes.0);
    assert!(pending.held.is_empty() && pending.unauthenticated.sources.is_empty());
    assert!(pending.unauthenticated.order.is_empty());
}

/// "At most three quarters are authenticated or wait", in whatever order they come.
#[test]
fn waiting_dialers_displace_those_only_authenticated() {
    let handshakes = PendingHandshakes::new(8);
    let dialers: Vec<_> = (0..6).map(|n| handshakes.enter(source(n))).collect();
    dialers.iter().for_each(HandshakeSlot::authenticate);
    assert!(!dialers.iter().any(is_evicted));
    let waiting: Vec<_> = (10..14).map_while(|n| handshakes.wait_for_session(source(n))).collect();
    assert_eq!((waiting.len(), handshakes.used()), (4, 2));
    assert!(dialers[..4].iter().all(is_evicted) && !dialers[4..].iter().any(is_evicted));
    let strangers: Vec<_> = (20..40).map(|n| handshakes.enter(source(n))).collect();
    assert_eq!(strangers.iter().filter(|place| !is_evicted(place)).count(), 2);
    assert!(!is_evicted(&strangers[19]) && !dialers[4..].iter().any(is_evicted));
}

#[test]
fn a_lower_limit_holds_from_the_next_newcomer_on() {
    let handshakes = PendingHandshakes::new(64);
    let before: Vec<_> = (0..64).map(|n| handshakes.enter(source(n))).collect();
    handshakes.set_limit(8);
    let newcomer = handshakes.enter(source(100));
    assert_eq!(handshakes.used(), 8);
    assert_eq!(before.iter().filter(|place| !is_evicted(place)).count(), 7);
    assert!(!is_evicted(&newcomer));
}

/// Random orders of events, with the invariants checked after each step.
#[test]
fn no_order_of_events_breaks_the_limits() {
    for round in 0..300 {
        let limit = rand::rng().random_range(1..12);
        let handshakes = PendingHandshakes::new(limit);
        let mut places = Vec::<HandshakeSlot>::new();
        let mut events = vec![];
        for _ in 0..200 {
            let event = rand::rng().random_range(0..7);
            let from = source(rand::rng().random_range(0..4));
            let which = places.len().max(1);
            let which = rand::rng().random_range(0..which);
            events.push((event, which));
            match (event, places.get(which)) {
                (0 | 1, _) => places.push(handshakes.enter(from)),
                (2, _) => places.extend(handshakes.wait_for_session(from)),
                (3 | 4, Some(place)) => place.authenticate(),
                (5, Some(place)) => place.set_source(from),
                (6, Some(_)) => drop(places.swap_remove(which)),
                _ => {}
            }
            let pending = lock(&handshakes.0);
            let all = format!("round {round}, limit {limit}: {events:?}: {pending:?}");
            let strangers = pending.unauthenticated.len;
            let dialers = pending.authenticated.len;
            // A newcomer has a place, also where there is one in all, and a dialer has that.
            assert!(strangers + dialers + pending.waiting <= limit.max(2), "{all}");
            assert!(dialers + pending.waiting <= pending.most_authenticated(), "{all}");
            assert!(pending.waiting <= pending.most_waiting(), "{all}");
            assert_eq!(strangers + dialers + pending.waiting, pending.held.len(), "{all}");
            drop(pending);
            let kept = places.iter().filter(|place| !is_evicted(place)).count();
            assert_eq!(kept, lock(&handshakes.0).held.len(), "{all}");
        }
    }
}
