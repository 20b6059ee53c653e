//! What is left of a connection once both its sides are connected.
//!
//! A session may last for days and idle most of that time, so what it holds
//! decides how many a host can have. Whatever opened it (dials, handshakes,
//! timers) is a future of its own, and gone by now.

use std::mem::take;
use std::pin::pin;

use super::introduce::{Farewell, or_kicked};
use super::relay::{Start, relay};
use super::report::Report;
use crate::net::{Slot, SourceGuard, Stream};
use crate::observe::sessions::Live;
use crate::proto::Session;

/// A connection from its first relayed byte to its closing line.
pub(super) struct Connected {
    pub(super) plain: Stream,
    pub(super) sealed: Stream,
    pub(super) session: Session,
    pub(super) start: Start,
    /// Ready when it has to end.
    pub(super) farewell: Farewell,
    pub(super) report: Report,
    /// Where an operator sees it, and can end it.
    pub(super) live: Live,
    /// Its slot, and its count against its source.
    pub(super) _held: (Option<Slot>, Option<SourceGuard>),
}

impl Connected {
    /// Relays to the end, and logs it.
    pub(super) async fn run(mut self: Box<Self>) {
        let start = take(&mut self.start);
        let ended = pin!(or_kicked(self.farewell.as_mut(), &self.live));
        let sides = (self.plain, &mut self.sealed);
        let end = relay(sides, (&mut self.session, self.live.traffic()), start, ended).await;
        // Who reads the line may count on it that the connection is gone.
        drop(self.sealed);
        self.report.closed(&end);
    }
}
