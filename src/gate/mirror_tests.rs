//! Gates between a store that reports and peers that connect, without a store.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::super::admission::Gate;
use super::super::decision::{DenyReason, Peer, Verdict};
use super::super::live::Permit;
use super::super::options::{Denied as Style, GateOptions, OnRevoke, StoreName, StoreOptions};
use super::super::rules::{FailurePolicy, Internal, Rules};
use super::super::snapshot::Freshness;
use super::super::store::Edit;
use super::follower::Reports;
use super::*;
use crate::unix_time::Expiry;

const END: Event = Event::End { garbage: 0 };

/// A gate after the last report of its store.
async fn gate() -> Gate {
    gate_with(StoreOptions::None).await
}

async fn gate_with(store: StoreOptions) -> Gate {
    gate_by(store, Rules::default()).await
}

async fn gate_by(store: StoreOptions, rules: Rules) -> Gate {
    let gate = Gate::start(Arc::new(GateOptions {
        store,
        rules,
        denied: Style::default(),
        on_revoke: OnRevoke::default(),
        ban_after: None,
        reap_idle: None,
        named: StoreName::default(),
    }));
    settle().await;
    gate.unwrap()
}

/// Lets every other task run until it waits.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Lets `peer` in as soon as the store is read.
async fn in_time(gate: &Gate, peer: Peer) -> Permit {
    let permit = async {
        loop {
            match gate.admit(peer).await {
                Ok(permit) => return permit,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), permit).await.expect("it is let in")
}

fn peer() -> Peer {
    Peer::Socket(address())
}

fn address() -> IpAddr {
    "203.0.113.7".parse().unwrap()
}

#[tokio::test]
async fn the_end_of_a_read_does_not_settle_a_change_during_it() {
    let gate = gate().await;
    for event in [Event::Begin, Event::Invalidated, END] {
        gate.shared().mirror.apply(event);
    }
    assert!(gate.shared().mirror.is_invalidated() && gate.certain(peer()).is_none());
    gate.shared().mirror.apply(Event::Begin);
    gate.shared().mirror.apply(END);
    assert!(!gate.shared().mirror.is_invalidated() && gate.certain(peer()).is_some());
}

#[tokio::test]
async fn a_change_before_the_store_answers_does_not_revoke() {
    let gate = gate().await;
    gate.shared().mirror.apply(Event::Invalidated);
    let waiting = gate.clone();
    let admitted = tokio::spawn(async move { waiting.admit(peer()).await });
    settle().await;
    let ip = address();
    gate.shared().mirror.apply(Event::Banned(ip.into(), Some(Expiry::Never)));
    gate.shared().mirror.apply(Event::Banned(ip.into(), None));
    gate.shared().mirror.apply(Event::Allowed(ip.into(), Some(Expiry::Never)));
    let permit = admitted.await.unwrap().unwrap();
    assert!(!permit.is_revoked());
    gate.shared().mirror.apply(Event::Allowed(ip.into(), None));
    assert!(permit.is_revoked());
}

#[tokio::test]
async fn an_address_that_stays_connected_does_not_look_idle() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gate");
    let internal = Peer::Socket("127.0.0.1".parse().unwrap());
    let ip = address();
    let store = StoreOptions::File(path.clone()).open().unwrap();
    let allow = Edit::Allow { member: ip.into(), lasting: None, note: None };
    store.edit(allow).await.unwrap();
    let rules = Rules { internal: Internal::Allow, ..Rules::default() };
    let gate = gate_by(StoreOptions::File(path), rules).await;
    let permits = [in_time(&gate, peer()).await, in_time(&gate, internal).await];
    let due = gate.shared().recorder.live_recorded().load(Ordering::Relaxed) + 3_600_000;
    // By then it is long ago that they came in and were noted for that.
    gate.shared().mirror.tick(UnixMillis(due - 30_000));
    gate.shared().mirror.tick(UnixMillis(due - 15_000));
    gate.shared().mirror.tick(UnixMillis(due));
    let seen = async |ip| store.address_record(ip, None).await.unwrap().seen;
    let noted = async {
        while seen(ip).await != Some(due / 1_000) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), noted).await.expect("it is noted");
    assert_eq!(seen(internal.ip().unwrap()).await, None, "internal addresses are never noted");
    drop(permits);
}

/// A day, for clocks that are set.
const DAY_MS: i64 = 86_400_000;

#[tokio::test]
async fn a_grant_ends_by_the_clock_as_it_was_set() {
    let gate = gate().await;
    let (ip, now) = (address(), gate.shared().mirror.clock.now());
    // The host started a day behind; the store's ends are of the right day.
    gate.shared().mirror.clock.set(now.moved_by(-DAY_MS));
    gate.shared()
        .mirror
        .apply(Event::Allowed(ip.into(), Some(Expiry::At(now.moved_by(-DAY_MS / 2)))));
    let permit = gate.admit(peer()).await.unwrap();
    gate.shared().mirror.follow_clock();
    assert!(permit.is_revoked());
    assert!(!gate.decide(peer()).is_allowed());
}

#[tokio::test]
async fn a_ban_holds_by_the_clock_as_it_was_set() {
    let gate = gate().await;
    let (ip, now) = (address(), gate.shared().mirror.clock.now());
    gate.shared().mirror.clock.set(now.moved_by(DAY_MS));
    gate.shared().mirror.apply(Event::Allowed(ip.into(), Some(Expiry::Never)));
    gate.shared()
        .mirror
        .apply(Event::Banned(ip.into(), Some(Expiry::At(now.moved_by(DAY_MS / 2)))));
    let permit = gate.admit(peer()).await.unwrap();
    gate.shared().mirror.follow_clock();
    assert!(permit.is_revoked());
    assert_eq!(gate.decide(peer()).verdict, Verdict::Denied(DenyReason::Banned));
}

#[tokio::test]
async fn setting_the_clock_does_not_make_a_store_staler() {
    let failure = FailurePolicy::Stale(Duration::from_secs(3_600));
    let rules = Rules { failure, ..Rules::default() };
    for (ahead, behind) in [(DAY_MS, 0), (0, DAY_MS)] {
        let gate = gate_by(StoreOptions::None, rules.clone()).await;
        let shared = gate.shared();
        let mirror = &shared.mirror;
        mirror.clock.set(mirror.clock.now().moved_by(ahead - behind));
        shared.recorder.live_recorded().store(mirror.clock.now().0, Ordering::Relaxed);
        mirror.apply(Event::Allowed(address().into(), Some(Expiry::Never)));
        mirror.apply(Event::Unavailable("gone".to_owned()));
        mirror.follow_clock();
        assert!(gate.decide(peer()).is_allowed());
        let now = mirror.clock.now();
        let Freshness::Unavailable { since: Some(since) } = mirror.read().freshness() else {
            panic!()
        };
        assert!(now.0.abs_diff(since.0) < 600_000, "away for {now} - {since}");
        let recorded = shared.recorder.live_recorded().load(Ordering::Relaxed);
        assert!(now.0.abs_diff(recorded) < 600_000);
    }
}

/// The act of a test's follower after it has reported that the store is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follows {
    /// It panics, as a fault in it would.
    Panics,
    /// It ends.
    Ends,
    /// It panics before it begins, in the mirror's own task.
    PanicsAtOnce,
    Well,
}

/// Has the mirror follow what `follow` says for the number of the attempt.
async fn attended(gate: &Gate, follow: impl Fn(usize) -> Follows + Send + Sync + 'static) {
    let (attempts, follow) = (Arc::new(AtomicU64::new(0)), Arc::new(follow));
    let follower = move |events: Reports, _| {
        let follows = follow(attempts.fetch_add(1, Ordering::SeqCst) as usize);
        assert_ne!(follows, Follows::PanicsAtOnce, "a mistake, made on purpose");
        async move {
            for event in [Event::Begin, END] {
                events.send(event).await.unwrap();
            }
            match follows {
                Follows::Ends => {}
                Follows::Well => events.closed().await,
                _ => panic!("a mistake, made on purpose"),
            }
        }
    };
    let mirror = Arc::clone(&gate.shared().mirror);
    let attend = move || Arc::clone(&mirror).attend(follower.clone());
    tokio::spawn(restarting("a test", attend));
    settle().await;
}

fn is_fresh(gate: &Gate) -> bool {
    gate.shared().mirror.read().freshness() == Freshness::Fresh
}

#[tokio::test]
async fn a_store_without_a_follower_is_unavailable() {
    for follows in [Follows::Panics, Follows::Ends, Follows::PanicsAtOnce] {
        let gate = gate().await;
        assert!(is_fresh(&gate));
        attended(&gate, move |_| follows).await;
        assert!(!is_fresh(&gate), "{follows:?}");
    }
}

/// Nothing that a gate needs for ever ends by a panic.
#[tokio::test]
async fn a_follower_or_mirror_that_failed_begins_again() {
    for follows in [Follows::Panics, Follows::Ends, Follows::PanicsAtOnce] {
        let gate = gate().await;
        attended(&gate, move |attempt| if attempt < 2 { follows } else { Follows::Well }).await;
        let read_again = async {
            while !is_fresh(&gate) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let read_again = tokio::time::timeout(Duration::from_secs(60), read_again).await;
        read_again.unwrap_or_else(|_| panic!("{follows:?}: it is never read again"));
    }
}

#[tokio::test]
async fn a_successor_rechecks_connections_from_before_it() {
    let before = gate_with(StoreOptions::None).await;
    let old = Arc::clone(&before.shared().mirror);
    old.apply(Event::Allowed(address().into(), Some(Expiry::Never)));
    let permit = before.admit(peer()).await.unwrap();
    let neighbour = before.another();
    let theirs = neighbour.admit(peer()).await.unwrap();
    let after = gate_with(StoreOptions::None).await;
    let new = Arc::clone(&after.shared().mirror);
    new.apply(Event::Allowed(address().into(), Some(Expiry::Never)));
    let after = after.succeeding(&before);
    settle().await;
    assert!(!permit.is_revoked() && after.decide(peer()).is_allowed());
    new.apply(Event::Allowed(address().into(), None));
    assert!(permit.is_revoked() && !theirs.is_revoked());
    old.apply(Event::Allowed(address().into(), None));
    assert!(theirs.is_revoked());
}

/// A tunnel goes on admitting for a while after another stands in its place.
#[tokio::test]
async fn a_connection_during_admission_is_rechecked_by_the_successor() {
    let before = gate().await;
    before.shared().mirror.apply(Event::Allowed(address().into(), Some(Expiry::Never)));
    let after = gate().await;
    let new = Arc::clone(&after.shared().mirror);
    let _after = after.succeeding(&before);
    assert!(before.admit(peer()).await.is_err(), "only the old one would let it in");
    new.apply(Event::Allowed(address().into(), Some(Expiry::Never)));
    let permit = before.admit(peer()).await.unwrap();
    new.apply(Event::Allowed(address().into(), None));
    assert!(permit.is_revoked());
}

/// Also who waits for the word of a store that is not asked any more.
#[tokio::test]
async fn a_peer_that_waits_for_the_old_store_is_decided_by_the_successor() {
    let before = gate().await;
    before.shared().mirror.apply(Event::Invalidated);
    let waiting = before.clone();
    let admitted = tokio::spawn(async move { waiting.admit(peer()).await });
    settle().await;
    let after = gate().await;
    after.shared().mirror.apply(Event::Allowed(address().into(), Some(Expiry::Never)));
    let _after = after.succeeding(&before);
    assert!(!admitted.await.unwrap().unwrap().is_revoked());
}

#[tokio::test]
async fn a_gate_ends_with_the_last_tunnel_that_has_it() {
    let gate = gate().await;
    let other = gate.another();
    gate.dismiss();
    assert!(!gate.shared().mirror.end.is_cancelled());
    other.dismiss();
    assert!(gate.shared().mirror.end.is_cancelled());
    let inner = Arc::downgrade(&gate.shared().mirror);
    drop((gate, other));
    settle().await;
    assert!(inner.upgrade().is_none(), "its tasks have ended too");
}

#[tokio::test]
async fn no_peer_waits_for_an_unavailable_store() {
    let gate = gate().await;
    gate.shared().mirror.apply(Event::Invalidated);
    gate.shared().mirror.apply(Event::Unavailable("gone".to_owned()));
    assert!(!gate.shared().mirror.is_invalidated());
    assert!(gate.admit(peer()).await.is_err());
}

/// While the set changed, an address is asked about once, and then it is denied at
/// once; a further change makes it a question again.
#[tokio::test]
async fn an_answered_peer_does_not_wait_until_the_set_changes_again() {
    let gate = gate().await;
    gate.shared().mirror.apply(Event::Invalidated);
    assert!(gate.certain(peer()).is_none());
    gate.shared().mirror.apply(Event::Answered(vec![address()]));
    assert_eq!(gate.certain(peer()).unwrap().verdict, Verdict::Denied(DenyReason::NotAllowed));
    gate.shared().mirror.apply(Event::Invalidated);
    assert!(gate.certain(peer()).is_none());
    gate.shared().mirror.apply(Event::Allowed(address().into(), Some(Expiry::Never)));
    assert!(gate.certain(peer()).unwrap().is_allowed());
}

/// A peer that finds no room among those that wait is denied by what is known.
#[tokio::test]
async fn more_than_may_wait_are_denied_at_once() {
    let gate = gate().await;
    gate.shared().mirror.apply(Event::Invalidated);
    let held: Vec<_> = (0..100).map_while(|_| gate.shared().mirror.query(address())).collect();
    assert!(held.len() < 100 && gate.certain(peer()).is_some());
    let began = Instant::now();
    assert_eq!(gate.admit(peer()).await.unwrap_err(), "not-allowed");
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    drop(held);
    assert!(gate.certain(peer()).is_none());
}
