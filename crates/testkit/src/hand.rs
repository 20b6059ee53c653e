//! Both ends of the protocol, driven by hand: peers that hold a right key and misbehave on purpose.
//!
//! The protocol's own crate seals and opens for them. The test decides what they send, when, and
//! with which clock and suites.

use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knockpipe_base::addr::{ClientAddr, ServiceName};
use knockpipe_base::secret::Secret;
use knockpipe_proto::handshake::{Dialer, First, MESSAGE_LEN, Message, Received, read_message1};
use knockpipe_proto::hello::{Extensions, Hello, Welcome};
use knockpipe_proto::inbound::Event;
use knockpipe_proto::keys::{Key, KeyRing, file};
use knockpipe_proto::labels::PROLOGUE;
use knockpipe_proto::message::{Open, ResetReason};
use knockpipe_proto::outbound::Outbound;
use knockpipe_proto::record::{DATA_OFFSET, MAX_RECORD};
use knockpipe_proto::{Padding, PeerError, Session, SuiteSet};
use rand::TryRng;
use rand::rngs::SysRng;

use crate::address::{Addr, Kind};
use crate::data::Noise;
use crate::wait::NEVER;
use crate::wire::{Listener, Wire};

/// A first message under a right key.
pub struct Call {
    dialer: Dialer,
    message: Message,
}

/// A session with the program under test at the other end.
pub struct Hand {
    wire: Wire,
    session: Session,
    /// Bytes that were read and not opened yet.
    unread: Vec<u8>,
}

/// A decrypt end that the test controls.
pub struct Acceptor {
    listener: Listener,
    ring: KeyRing,
}

// === impl Call ===

impl Call {
    /// Makes the message of an honest dialer.
    pub fn new(key: &Path) -> Self {
        Self::with(key, 0, SuiteSet::BOTH)
    }

    /// Makes the message of a dialer with `suites` and a clock `ahead` seconds ahead.
    pub fn with(key: &Path, ahead: i64, suites: SuiteSet) -> Self {
        let clock_ms = unix_ms().checked_add_signed(ahead * 1000).expect("a time after 1970");
        let extensions = Extensions::default();
        let hello = Hello { suites, padding: Padding::default(), clock_ms, extensions };
        let (dialer, message) = Dialer::start(&read_key(key), hello, ephemeral());
        Self { dialer, message }
    }

    /// Returns the bytes to send.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Sends it to a decrypt end that answers.
    #[track_caller]
    pub fn shake(self, to: &Addr) -> Hand {
        let wire = Wire::connect(to).unwrap_or_else(|e| panic!("cannot reach {to}: {e}"));
        self.shake_over(wire)
    }

    /// Sends it over a connection to a decrypt end that answers.
    #[track_caller]
    pub fn shake_over(self, wire: Wire) -> Hand {
        self.try_shake_over(wire).expect("an answer")
    }

    /// Sends it over a connection; `None` when that ends without an answer.
    #[track_caller]
    pub fn try_shake_over(self, mut wire: Wire) -> Option<Hand> {
        wire.write_all(&self.message).ok()?;
        wire.read_limit(NEVER);
        let mut answer: Message = [0; MESSAGE_LEN];
        wire.read_exact(&mut answer).ok()?;
        let (session, _) = self.dialer.finish(answer).expect("an answer under the same key");
        Some(Hand { wire, session, unread: Vec::new() })
    }
}

// === impl Hand ===

impl Hand {
    /// Dials, completes the handshake, and sends nothing more.
    #[track_caller]
    pub fn dial(to: &Addr, key: &Path) -> Self {
        Call::new(key).shake(to)
    }

    pub fn confirm(&mut self) {
        self.say(Outbound::confirm);
    }

    /// Asks for the default target.
    pub fn open(&mut self) {
        let open = Open { service: ServiceName::default(), client: ClientAddr::Unix };
        self.say(|outbound, out| outbound.open(&open, out));
    }

    pub fn opened(&mut self) {
        self.say(Outbound::opened);
    }

    pub fn data(&mut self, bytes: &[u8]) {
        self.say(|outbound, out| {
            let mut slot = vec![0; MAX_RECORD];
            slot[DATA_OFFSET..DATA_OFFSET + bytes.len()].copy_from_slice(bytes);
            let len = outbound.seal_data(&mut slot, bytes.len())?;
            out.extend_from_slice(&slot[..len]);
            Ok(())
        });
    }

    pub fn fin(&mut self) {
        self.say(Outbound::fin);
    }

    pub fn reset(&mut self, reason: ResetReason) {
        self.say(|outbound, out| outbound.reset(reason, out));
    }

    /// Sends a record that was not sealed.
    #[track_caller]
    pub fn garbage(&mut self) {
        let record = [&[1, 0][..], &Noise::new(1).bytes(256)].concat();
        self.wire.write_all(&record).unwrap_or_else(|e| panic!("cannot send: {e}"));
    }

    #[track_caller]
    fn say(&mut self, what: impl FnOnce(&mut Outbound, &mut Vec<u8>) -> Result<(), PeerError>) {
        let mut record = Vec::new();
        what(&mut self.session.outbound, &mut record).expect("a young session can seal");
        self.wire.write_all(&record).unwrap_or_else(|e| panic!("cannot send: {e}"));
    }

    /// Waits for the next event from the other end.
    #[track_caller]
    pub fn hear(&mut self) -> Event {
        self.wire.read_limit(NEVER);
        loop {
            let opened = self.session.inbound.next(&mut self.unread);
            if let Some((event, len)) =
                opened.expect("the program under test keeps to the protocol")
            {
                self.unread.drain(..len);
                return event;
            }
            self.read_more();
        }
    }

    /// Waits for the next record, which must be Data, and returns its content.
    #[track_caller]
    pub fn hear_data(&mut self) -> Vec<u8> {
        self.wire.read_limit(NEVER);
        loop {
            let opened = self.session.inbound.next(&mut self.unread);
            match opened.expect("the program under test keeps to the protocol") {
                Some((Event::Data(range), len)) => {
                    let data = self.unread[range].to_vec();
                    self.unread.drain(..len);
                    return data;
                }
                Some((event, _)) => panic!("{event:?} is no data"),
                None => self.read_more(),
            }
        }
    }

    /// Returns the socket, for reading bytes without opening records.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    #[track_caller]
    fn read_more(&mut self) {
        let mut buffer = [0; 4096];
        match self.wire.read(&mut buffer) {
            Ok(n @ 1..) => self.unread.extend_from_slice(&buffer[..n]),
            other => panic!("it said nothing more: {other:?}"),
        }
    }

    /// Returns the socket, without the session.
    pub fn into_wire(self) -> Wire {
        self.wire
    }
}

// === impl Acceptor ===

impl Acceptor {
    /// Listens on loopback.
    pub fn start(key: &Path) -> Self {
        let listener = Listener::bind(&Kind::Tcp4.fresh(Path::new("/"), ""));
        let listener = listener.expect("loopback has free ports");
        let ring = KeyRing::new(vec![read_key(key)]).expect("one key makes a ring");
        Self { listener, ring }
    }

    pub fn addr(&self) -> Addr {
        self.listener.addr()
    }

    /// Accepts the next dialer, and its Open.
    #[track_caller]
    pub fn accept(&self) -> Hand {
        let (hand, first) = self.accept_any();
        assert!(matches!(first, Event::Open(_)), "{first:?} comes first");
        hand
    }

    /// Accepts the next dialer, and its Confirm: a tunnel for a pool.
    #[track_caller]
    pub fn accept_warm(&self) -> Hand {
        let (hand, first) = self.accept_any();
        assert_eq!(first, Event::Confirmed);
        hand
    }

    /// Accepts the next dialer, and returns its first event.
    #[track_caller]
    pub fn accept_any(&self) -> (Hand, Event) {
        self.accept_after(|| {})
    }

    /// Accepts the next dialer, with `pause` between its first message and the answer.
    #[track_caller]
    pub fn accept_after(&self, pause: impl FnOnce()) -> (Hand, Event) {
        let asked = self.hear();
        pause();
        asked.answer(0)
    }

    /// Waits for the next dialer that has sent its first message.
    #[track_caller]
    pub fn hear(&self) -> Asked {
        self.listener.accept_limit(NEVER);
        let mut wire = self.listener.accept().unwrap_or_else(|e| panic!("no dialer: {e}"));
        let message = wire.expect_bytes(MESSAGE_LEN);
        let message = Message::try_from(message).expect("as long as asked for");
        let received =
            read_message1(&self.ring, PROLOGUE, &message).expect("a dialer with this key");
        Asked { wire, received }
    }
}

/// A dialer that waits for an answer; it is reset when this is dropped.
pub struct Asked {
    wire: Wire,
    received: Received,
}

impl Asked {
    /// Returns the dialer's estimate of our clock, in seconds ahead of this host's clock.
    pub fn ahead(&self) -> f64 {
        (self.received.hello().clock_ms as f64 - unix_ms() as f64) / 1000.0
    }

    /// Hangs up without an answer.
    pub fn reset(self) {
        self.wire.reset();
    }

    /// Answers with a clock that is `ahead` seconds ahead, and waits for the first record.
    #[track_caller]
    pub fn answer(self, ahead: i64) -> (Hand, Event) {
        let Self { mut wire, received } = self;
        let clock_ms = unix_ms().checked_add_signed(ahead * 1000).expect("a time after 1970");
        let welcome =
            Welcome::answering(received.hello(), SuiteSet::BOTH, Padding::default(), clock_ms);
        let welcome = welcome.expect("the dialer has a suite");
        let (mut unconfirmed, answer) =
            received.answer(&welcome, ephemeral()).expect("the dialer has a proper public key");
        wire.write_all(&answer).unwrap_or_else(|e| panic!("cannot answer: {e}"));
        let mut unread = Vec::new();
        loop {
            unread.extend(wire.expect_bytes(1));
            match unconfirmed.confirm(&mut unread).expect("an authentic first record") {
                First::Incomplete(same) => unconfirmed = same,
                First::Confirmed(session, event, _) => {
                    return (Hand { wire, session, unread: Vec::new() }, event);
                }
            }
        }
    }
}

pub(crate) fn read_key(path: &Path) -> Key {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file::parse(&bytes).expect("keygen wrote it")
}

pub(crate) fn ephemeral() -> Secret<32> {
    Secret::filled_by(|bytes| SysRng.try_fill_bytes(bytes).expect("the system has randomness"))
}

pub(crate) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(now.as_millis()).expect("it is not that late")
}
