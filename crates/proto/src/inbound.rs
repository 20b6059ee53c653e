//! Records from the other end after the handshake, and the order in which they may come.
//!
//! ```text
//!   at the acceptor:  Confirm? -> Open -> Data* -> Fin
//!   at the dialer:    Opened -> Data* -> Fin
//!   at both:          Reset at any time after the first record, and then nothing
//! ```
//!
//! If both ends agreed on a heartbeat, Data without data may also come before Opened.

use std::ops::Range;

use super::message::{Kind, Open, ResetReason};
use super::record::Opener;
use super::{PeerError, Side};

/// Record from the other end that is authentic and in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The dialer is live and will open later.
    Confirmed,
    /// The dialer wants the target.
    Open(Open),
    /// The target is connected.
    Opened,
    /// Stream bytes, by their place in the buffer.
    Data(Range<usize>),
    /// The other end's stream is complete.
    Fin,
    /// The other end aborts.
    Reset(ResetReason),
}

/// Opens and checks the records of the receiving direction.
pub struct Inbound {
    opener: Opener,
    expect: Expect,
    /// The other end sends heartbeats, also before it may send data.
    beats: bool,
}

/// Records that may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// The acceptor's first: Confirm or Open.
    First,
    /// Open, after Confirm.
    Open,
    /// Opened.
    Opened,
    /// Data or Fin.
    Data,
    /// Only a Reset: the stream is complete.
    AfterFin,
    /// Nothing more.
    AfterReset,
}

impl Inbound {
    pub(super) fn ratchets(&self) -> u64 {
        self.opener.ratchets()
    }

    /// Creates the receiving direction of `side`; with `beats` if the other end sends heartbeats.
    pub(super) fn new(side: Side, opener: Opener, beats: bool) -> Self {
        let expect = match side {
            Side::Acceptor => Expect::First,
            Side::Dialer => Expect::Opened,
        };
        Self { opener, expect, beats }
    }

    /// Opens the record at the front of `buf` in place. Returns the event and the length of the
    /// record on the wire, or `None` while it is not complete.
    ///
    /// # Errors
    /// [`PeerError`] for a record that is not authentic or not in its place; the connection must
    /// end.
    pub fn next(&mut self, buf: &mut [u8]) -> Result<Option<(Event, usize)>, PeerError> {
        let Some(opened) = self.opener.open(buf)? else {
            return Ok(None);
        };
        let kind = Kind::from_id(opened.kind).ok_or(PeerError::Misbehaved)?;
        let (event, expect) = match (kind, self.expect) {
            (Kind::Confirm, Expect::First) => (Event::Confirmed, Expect::Open),
            (Kind::Open, Expect::First | Expect::Open) => {
                (Event::Open(Open::decode(&buf[opened.data])?), Expect::Data)
            }
            (Kind::Opened, Expect::Opened) => (Event::Opened, Expect::Data),
            (Kind::Data, Expect::Data) => (Event::Data(opened.data), Expect::Data),
            (Kind::Data, Expect::Opened) if self.beats && opened.data.is_empty() => {
                (Event::Data(opened.data), Expect::Opened)
            }
            (Kind::Fin, Expect::Data) => (Event::Fin, Expect::AfterFin),
            (Kind::Reset, Expect::Open | Expect::Opened | Expect::Data | Expect::AfterFin) => {
                let [reason] = buf[opened.data] else {
                    return Err(PeerError::Misbehaved);
                };
                (Event::Reset(ResetReason::from_id(reason)), Expect::AfterReset)
            }
            _ => return Err(PeerError::Misbehaved),
        };
        self.expect = expect;
        Ok(Some((event, opened.wire_len)))
    }

    /// Returns true if the other end has aborted: nothing more is to be sent to it.
    pub fn is_aborted(&self) -> bool {
        self.expect == Expect::AfterReset
    }

    /// Returns true if the stream is complete, so that the end of the connection is no truncation.
    pub fn is_finished(&self) -> bool {
        self.expect == Expect::AfterFin
    }
}
