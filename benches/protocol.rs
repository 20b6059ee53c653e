//! Cost of the protocol itself, without sockets: sealing and opening records by suite and size,
//! a whole handshake, and what strangers can cause.
//!
//! `cargo bench --bench protocol`
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot work must stop")]

#[path = "common/session.rs"]
mod session;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use knockpipe::keys::KeyRing;
use knockpipe::proto::Suite;
use knockpipe::proto::handshake::{Dialer, read_message1};
use knockpipe::proto::knock::{Knock, read_knock};
use knockpipe::proto::labels::PROLOGUE;
use knockpipe::proto::record::{DATA_OFFSET, MAX_DATA, MAX_RECORD};
use nix::time::{ClockId, clock_gettime};
use session::{hello, key, secret, session};

criterion_group!(benches, seal_and_open, handshake, knock);
criterion_main!(benches);

fn seal_and_open(c: &mut Criterion) {
    for suite in Suite::ALL {
        let mut group = c.benchmark_group(format!("seal and open, {suite}"));
        for len in [64, 1021, MAX_DATA] {
            let (mut dialer, mut acceptor) = session(suite);
            let mut slot = vec![0x5a; MAX_RECORD];
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(BenchmarkId::from_parameter(len), |b| {
                b.iter(|| {
                    slot[DATA_OFFSET] = 1;
                    let sealed = dialer.outbound.seal_data(&mut slot, len).unwrap();
                    black_box(acceptor.inbound.next(&mut slot[..sealed]).unwrap());
                });
            });
        }
    }
}

fn handshake(c: &mut Criterion) {
    c.bench_function("handshake, both ends", |b| b.iter(|| session(Suite::Aes256Gcm)));
    let other = KeyRing::new(vec![key(9)]).unwrap();
    let (_, message1) = Dialer::start(&key(1), hello(Suite::Aes256Gcm), secret(2));
    c.bench_function("message 1 under another key, refused", |b| {
        b.iter(|| read_message1(black_box(&other), PROLOGUE, black_box(&message1)).is_err());
    });
}

/// The processor's time, not that of the clock: other programs have a smaller part in it.
fn knock(c: &mut Criterion) {
    let mut group = c.benchmark_group("knock, CPU");
    let knock = Knock { clock_ms: 0, gate: None, ttl_s: None, label: None, address: None };
    let datagram = knock.seal(&key(1), secret(2));
    for keys in [1, 8] {
        let others = KeyRing::new((9..9 + keys).map(key).collect()).unwrap();
        group.bench_function(BenchmarkId::new("refused, keys of the ring", keys), |b| {
            let refuse = || read_knock(black_box(&others), black_box(&datagram)).is_err();
            b.iter_custom(|count| cpu_time_of(count, refuse));
        });
    }
    let ring = KeyRing::new(vec![key(1)]).unwrap();
    group.bench_function("read", |b| {
        let read = || read_knock(black_box(&ring), black_box(&datagram)).is_ok();
        b.iter_custom(|count| cpu_time_of(count, read));
    });
    group.bench_function("made", |b| {
        b.iter_custom(|count| cpu_time_of(count, || knock.seal(ring.first(), secret(2))));
    });
}

/// Returns the time of this thread on a processor for `count` calls of `work`.
fn cpu_time_of<T>(count: u64, work: impl Fn() -> T) -> Duration {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let start = now();
    for _ in 0..count {
        black_box(work());
    }
    now() - start
}
