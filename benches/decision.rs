//! The cost of a decision of the gate, without a process or a store around it.
//!
//! `cargo bench --bench decision`
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot work must stop")]

#[path = "common/gate.rs"]
mod gate;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use gate::{KINDS, Peers, full, member, read, v4_stranger};
use knockpipe::gate::{Expiry, Item, Peer, Rules, Snapshot, UnixMillis, decide};

criterion_group!(benches, one_member, million);
criterion_main!(benches);

fn one_member(c: &mut Criterion) {
    let snapshot = read(&[Item::Allowed(member(1).into(), Expiry::Never)]);
    let mut group = c.benchmark_group("a set of one address");
    let kinds: [(&str, Peers, bool); 2] =
        [("that address", |_| member(1), true), ("an IPv4 stranger", v4_stranger, false)];
    for (what, peers, allowed) in kinds {
        group.bench_function(what, |b| b.iter(decisions(&snapshot, peers, allowed)));
    }
}

fn million(c: &mut Criterion) {
    let snapshot = full();
    let mut group = c.benchmark_group("a million addresses, 10,000 networks, 10,000 bans");
    for (what, peers, allowed) in KINDS {
        group.bench_function(what, |b| b.iter(decisions(&snapshot, peers, allowed)));
    }
}

/// Each call decides about the next peer, so that no cache holds the answer.
fn decisions(snapshot: &Snapshot, peers: Peers, allowed: bool) -> impl FnMut() {
    let rules = Rules::default();
    let mut n = 0;
    move || {
        n = u32::wrapping_add(n, 1);
        let decision = decide(&rules, snapshot, black_box(Peer::Socket(peers(n))), UnixMillis(1));
        assert_eq!(decision.is_allowed(), allowed);
    }
}
