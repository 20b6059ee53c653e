//! Cost of the protocol itself, without sockets: sealing and opening records by suite and size,
//! and a whole handshake.
//!
//! `cargo bench --bench protocol`
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot work must stop")]

#[path = "common/session.rs"]
mod session;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use knockpipe::keys::KeyRing;
use knockpipe::proto::Suite;
use knockpipe::proto::handshake::{Dialer, read_message1};
use knockpipe::proto::labels::PROLOGUE;
use knockpipe::proto::record::{DATA_OFFSET, MAX_DATA, MAX_RECORD};
use session::{hello, key, secret, session};

criterion_group!(benches, seal_and_open, handshake);
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
