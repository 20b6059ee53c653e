//! What is left of a connection once both its sides are connected.
//!
//! A session may last for days and idle most of that time, so what it holds
//! decides how many a host can have. Whatever opened it (dials, handshakes,
//! timers) is a future of its own, and gone by now.

use std::pin::pin;
use std::time::Duration;

use super::introduce::{Farewell, or_ended};
use super::relay::{Start, relay};
use super::report::Report;
use crate::net::{Slot, SourceGuard, Stream};
use crate::observe::sessions::Live;
use crate::proto::Session;

/// A connection from its first relayed byte to its closing line.
pub(super) struct Connected {
    plain: Stream,
    sealed: Stream,
    session: Session,
    /// Boxed, because it is gone after the first bytes.
    start: Box<Start>,
    /// Ready when it has to end.
    farewell: Farewell,
    /// Where an operator sees it, and can end it.
    live: Live,
    _held: Held,
}

/// The slot of a session, and its count against its source.
pub(super) type Held = (Option<Slot>, Option<SourceGuard>);

impl Connected {
    /// Enters it among the live sessions.
    pub(super) fn new(
        report: Report,
        (plain, sealed): (Stream, Stream),
        (session, start, idle_timeout): (Session, Start, Option<Duration>),
        (farewell, held): (Farewell, Held),
    ) -> Box<Self> {
        let (live, start) = (report.enter(&session, idle_timeout), Box::new(start));
        Box::new(Self { plain, sealed, session, start, farewell, live, _held: held })
    }

    /// Relays to the end, and logs it.
    pub(super) async fn run(mut self: Box<Self>) {
        let ended = pin!(or_ended(&mut self.farewell, &self.live));
        let sides = (self.plain, &mut self.sealed);
        let session = (&mut self.session, self.live.traffic());
        let end = relay(sides, session, *self.start, ended).await;
        // Who reads the line may count on it that the connection is gone.
        drop(self.sealed);
        Report::of(&self.live).closed(&end);
    }
}
