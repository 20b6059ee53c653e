//! What the protocol itself costs, without sockets: sealing and opening records
//! by suite and size, and a whole handshake.
//!
//! `cargo bench --bench protocol`
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot work must stop")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use knockpipe::addr::{ClientAddr, ServiceName};
use knockpipe::keys::{Key, KeyRing};
use knockpipe::proto::handshake::{Dialer, First, read_message1};
use knockpipe::proto::hello::{Hello, Welcome};
use knockpipe::proto::message::Open;
use knockpipe::proto::record::{DATA_OFFSET, MAX_DATA, MAX_RECORD};
use knockpipe::proto::{Padding, Session, Suite, SuiteSet};
use knockpipe::secret::Secret;

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
        b.iter(|| read_message1(black_box(&other), black_box(&message1)).is_err());
    });
}

/// Both ends after the handshake and Open.
fn session(suite: Suite) -> (Session, Session) {
    let ring = KeyRing::new(vec![key(1)]).unwrap();
    let (dialer, message1) = Dialer::start(ring.first(), hello(suite), secret(2));
    let received = read_message1(&ring, &message1).unwrap();
    let welcome = Welcome::answering(received.hello(), SuiteSet::BOTH, Padding::NONE, 0).unwrap();
    let (unconfirmed, message2) = received.answer(&welcome, secret(3)).unwrap();
    let (mut dialer, _) = dialer.finish(message2).unwrap();
    let open = Open { service: ServiceName::default(), client: ClientAddr::Unix };
    let mut first = vec![];
    dialer.outbound.open(&open, &mut first).unwrap();
    match unconfirmed.confirm(&mut first).unwrap() {
        First::Confirmed(acceptor, _, _) => (dialer, acceptor),
        First::Incomplete(_) => unreachable!("Open is complete"),
    }
}

fn hello(suite: Suite) -> Hello {
    Hello { suites: SuiteSet::only(suite), padding: Padding::NONE, clock_ms: 0 }
}

fn key(byte: u8) -> Key {
    Key::new(secret(byte))
}

fn secret(byte: u8) -> Secret<32> {
    Secret::take(&mut [byte; 32])
}
