//! Instructions of sealing, opening and handshakes, as callgrind counts them: the same number on a
//! busy machine, so that a regression shows.
//!
//! `make bench-instructions`
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot work must stop")]
#![allow(missing_docs, unused_qualifications, reason = "that is what the macros write")]

#[path = "common/session.rs"]
mod session;

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use knockpipe::keys::KeyRing;
use knockpipe::proto::handshake::{Dialer, read_message1};
use knockpipe::proto::knock::{Knock, read_knock};
use knockpipe::proto::labels::PROLOGUE;
use knockpipe::proto::record::{DATA_OFFSET, MAX_DATA, MAX_RECORD};
use knockpipe::proto::{Session, Suite};
use session::{hello, key, secret, session};

/// Both ends, and a record with `len` bytes of data.
struct Record {
    dialer: Session,
    acceptor: Session,
    slot: Vec<u8>,
    len: usize,
}

fn plain(suite: Suite, len: usize) -> Record {
    let (dialer, acceptor) = session(suite);
    let mut record = Record { dialer, acceptor, slot: vec![0x5a; MAX_RECORD], len };
    // The first use of a suite also looks at the processor.
    let sealed = record.dialer.outbound.seal_data(&mut record.slot, len).unwrap();
    record.acceptor.inbound.next(&mut record.slot[..sealed]).unwrap();
    record
}

fn sealed(suite: Suite, len: usize) -> Record {
    let mut record = plain(suite, len);
    record.slot[DATA_OFFSET] = 1;
    record.len = record.dialer.outbound.seal_data(&mut record.slot, len).unwrap();
    record
}

#[library_benchmark]
#[bench::chacha_64(plain(Suite::ChaCha20Poly1305, 64))]
#[bench::chacha_1021(plain(Suite::ChaCha20Poly1305, 1021))]
#[bench::chacha_16381(plain(Suite::ChaCha20Poly1305, MAX_DATA))]
#[bench::aes_64(plain(Suite::Aes256Gcm, 64))]
#[bench::aes_1021(plain(Suite::Aes256Gcm, 1021))]
#[bench::aes_16381(plain(Suite::Aes256Gcm, MAX_DATA))]
fn seal(mut record: Record) -> Record {
    black_box(record.dialer.outbound.seal_data(&mut record.slot, record.len).unwrap());
    record
}

#[library_benchmark]
#[bench::chacha_64(sealed(Suite::ChaCha20Poly1305, 64))]
#[bench::chacha_1021(sealed(Suite::ChaCha20Poly1305, 1021))]
#[bench::chacha_16381(sealed(Suite::ChaCha20Poly1305, MAX_DATA))]
#[bench::aes_64(sealed(Suite::Aes256Gcm, 64))]
#[bench::aes_1021(sealed(Suite::Aes256Gcm, 1021))]
#[bench::aes_16381(sealed(Suite::Aes256Gcm, MAX_DATA))]
fn open(mut record: Record) -> Record {
    black_box(record.acceptor.inbound.next(&mut record.slot[..record.len]).unwrap());
    record
}

#[library_benchmark]
#[bench::both_ends(Suite::Aes256Gcm)]
fn handshake(suite: Suite) -> (Session, Session) {
    session(suite)
}

/// Returns a first message under a key that is not in the ring.
fn stranger() -> (KeyRing, Vec<u8>) {
    let (_, message1) = Dialer::start(&key(1), hello(Suite::Aes256Gcm), secret(2));
    (KeyRing::new(vec![key(9)]).unwrap(), message1.to_vec())
}

#[library_benchmark]
#[bench::message_1(stranger())]
fn refuse((ring, message1): (KeyRing, Vec<u8>)) -> KeyRing {
    assert!(read_message1(black_box(&ring), PROLOGUE, black_box(&message1)).is_err());
    ring
}

/// Returns a knock under a key that is not in the ring.
fn strangers_knock() -> (KeyRing, Vec<u8>) {
    let knock = Knock { clock_ms: 0, gate: None, ttl_s: None, label: None, address: None };
    (KeyRing::new(vec![key(9)]).unwrap(), knock.seal(&key(1), secret(2)).to_vec())
}

#[library_benchmark]
#[bench::knock(strangers_knock())]
fn refuse_datagram((ring, knock): (KeyRing, Vec<u8>)) -> KeyRing {
    assert!(read_knock(black_box(&ring), black_box(&knock)).is_err());
    ring
}

library_benchmark_group!(
    name = protocol,
    benchmarks = [seal, open, handshake, refuse, refuse_datagram]
);
main!(library_benchmark_groups = protocol);
