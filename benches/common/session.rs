//! A session without sockets, for the benchmarks of the protocol.

use knockpipe::addr::{ClientAddr, ServiceName};
use knockpipe::keys::{Key, KeyRing};
use knockpipe::proto::handshake::{Dialer, First, read_message1};
use knockpipe::proto::hello::{Extensions, Hello, Welcome};
use knockpipe::proto::labels::PROLOGUE;
use knockpipe::proto::message::Open;
use knockpipe::proto::{Padding, Session, Suite, SuiteSet};
use knockpipe::secret::Secret;

/// Both ends after the handshake and Open.
pub(crate) fn session(suite: Suite) -> (Session, Session) {
    let ring = KeyRing::new(vec![key(1)]).unwrap();
    let (dialer, message1) = Dialer::start(ring.first(), hello(suite), secret(2));
    let received = read_message1(&ring, PROLOGUE, &message1).unwrap();
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

pub(crate) fn hello(suite: Suite) -> Hello {
    let extensions = Extensions::default();
    Hello { suites: SuiteSet::only(suite), padding: Padding::NONE, clock_ms: 0, extensions }
}

pub(crate) fn key(byte: u8) -> Key {
    Key::new(secret(byte))
}

pub(crate) fn secret(byte: u8) -> Secret<32> {
    Secret::take(&mut [byte; 32])
}
