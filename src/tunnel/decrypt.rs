//! The decrypt end, connection by connection: sealed in, plain out.
//!
//! ```text
//!   accept sealed -> place -> shake hands -> proven live (-> waits for Open)
//!                 -> slot -> dial the target -> Opened -> connected
//! ```
//!
//! The target is dialled with a [`Session`], and the acceptor's session exists
//! only once a record proved the dialer live. Until then a connection is a
//! stranger: it holds a place, not a slot, and hears nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;

use super::connected::Connected;
use super::introduce::Guest;
use super::looker::keep_beating;
use super::open::told;
use super::relay::{Start, dismiss, dismiss_behind};
use super::report::Report;
use super::rings::{self, Announced};
use super::secure::{Doorkeeper, Verdict, Visitor, next_event, poll_event};
use super::serve::Stay;
use super::shared::Shared;
use super::targets::{Target, Targets};
use super::unmade::Unmade;
use crate::addr::{ClientAddr, ServiceName};
use crate::net::{Slot, Slots, SourceRefusal, Stream};
use crate::proto::Session;
use crate::proto::inbound::Event;
use crate::proto::message::Open;
use crate::reason::CloseReason;

/// How long a live dialer may wait before it says Open.
pub(super) const UNOPENED: Duration = Duration::from_secs(60);

/// The interval at which a dialer that waits for a session or its target is looked at, and
/// how soon once something came.
const LOOK: Duration = Duration::from_millis(500);
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// What the decrypt end needs beyond what both ends do.
pub(super) struct Exit {
    pub(super) door: Doorkeeper,
    /// Tunnels that may wait to be opened.
    pub(super) unopened: Slots,
    pub(super) targets: BTreeMap<ServiceName, Arc<Targets>>,
}

/// A live dialer, and the connection that it came through.
pub(super) struct Host {
    sealed: Stream,
    guest: Guest,
    visitor: Visitor,
}

/// A connection that is from no live dialer.
pub(super) enum Stranger {
    /// It has ended.
    Ended,
    /// Its address may not come in any more, and gets what is denied.
    Revoked(Stream),
}

impl Exit {
    /// Finds out whether a connection is from a live dialer.
    ///
    /// # Errors
    /// What is left of one that is not.
    pub(super) async fn meet(
        &self,
        shared: &Shared,
        (mut sealed, guest): (Stream, Guest),
        stay: &Stay,
    ) -> Result<Box<Host>, Stranger> {
        match self.shake_hands(shared, (&mut sealed, &guest), stay).await {
            Ok(visitor) => {
                // The proof of one who was banned meanwhile forgives nothing.
                if let (Some(gate), Some(peer), false) =
                    (&shared.gate, guest.peer, guest.is_revoked())
                {
                    gate.succeeded(peer);
                }
                Ok(Box::new(Host { sealed, guest, visitor }))
            }
            Err(verdict) if guest.is_balancers && verdict.is_nothing() => {
                shared.probed(guest.client);
                sealed.reset();
                Err(Stranger::Ended)
            }
            Err(verdict) => {
                shared.refused_stranger(verdict, guest.client);
                shared.strike(verdict, &guest);
                if verdict.reason == CloseReason::Revoked {
                    return Err(Stranger::Revoked(sealed));
                }
                sealed.reset();
                Err(Stranger::Ended)
            }
        }
    }

    /// The handshake, as long as its place and the right of its address last.
    async fn shake_hands(
        &self,
        shared: &Shared,
        (sealed, guest): (&mut Stream, &Guest),
        stay: &Stay,
    ) -> Result<Visitor, Verdict> {
        let mut verdict = Verdict::from(CloseReason::HandshakeFailed);
        let began = Instant::now();
        let is_authentic = || {
            if guest.is_revoked() {
                return Err(CloseReason::Revoked);
            }
            stay.place.authenticate();
            Ok(())
        };
        let received = self.door.receive(sealed, &mut verdict, &is_authentic);
        let met = tokio::select! {
            biased;
            () = guest.revoked() => Err(Some(CloseReason::Revoked)),
            met = timeout_at(stay.deadline, received) => met.ok().flatten().ok_or(None),
            () = stay.place.displaced() => Err(Some(CloseReason::Displaced)),
            () = shared.last_call() => Err(None),
        };
        match met {
            Ok(visitor) => {
                shared.meters.handshake.done(began.into());
                Ok(visitor)
            }
            Err(reason) => {
                verdict.is_cut = reason.is_none() && shared.stop.is_cancelled();
                verdict.reason = reason.unwrap_or(verdict.reason);
                Err(verdict)
            }
        }
    }

    /// What becomes of a live dialer: a session at once, or once it asks for one.
    pub(super) async fn welcome(
        self: Arc<Self>,
        shared: Arc<Shared>,
        host: Box<Host>,
    ) -> Option<Box<Connected>> {
        let Host { mut sealed, guest, mut visitor } = *host;
        let open = match std::mem::replace(&mut visitor.event, Event::Confirmed) {
            Event::Open(open) => Ok(open),
            // Kept or drained is only what was opened: here revoked is over.
            _ => tokio::select! {
                biased;
                () = guest.revoked() => Err(CloseReason::Revoked),
                reason = shared.cut() => Err(reason),
                open = self.await_open(&mut sealed, &mut visitor) => open,
                () = shared.stop.cancelled() => Err(CloseReason::Shutdown),
            },
        };
        // It may have lost its right between the accept and its first word.
        let open = match open {
            Ok(_) if guest.is_revoked() => Err(CloseReason::Revoked),
            open => open,
        };
        match open {
            Ok(open) => self.host(&shared, (sealed, guest, visitor, open)).await,
            Err(reason) => {
                report_unopened(&shared, &guest, &visitor.session, reason);
                dismiss(&mut sealed, &mut visitor.session, reason).await;
                None
            }
        }
    }

    /// The Open that follows a Confirm in time.
    async fn await_open(
        &self,
        sealed: &mut Stream,
        Visitor { session, already_read, .. }: &mut Visitor,
    ) -> Result<Open, CloseReason> {
        let _waiting = self.unopened.try_acquire().ok_or(CloseReason::LimitReached)?;
        match timeout(UNOPENED, next_event(sealed, session, already_read)).await {
            Ok(Ok(Event::Open(open))) => Ok(open),
            Ok(Ok(Event::Reset(reason))) => Err(told(reason)),
            Ok(Ok(_)) => Err(CloseReason::ProtocolError),
            Ok(Err(reason)) => Err(reason),
            Err(_) => Err(CloseReason::Unopened),
        }
    }

    /// Connects a live dialer that said Open to its target. `None` when that
    /// cannot be; the dialer and the log were told.
    async fn host(
        &self,
        shared: &Arc<Shared>,
        (mut sealed, guest, visitor, open): (Stream, Guest, Visitor, Open),
    ) -> Option<Box<Connected>> {
        let Visitor { mut session, mut already_read, .. } = visitor;
        let guest = Arc::new(guest);
        let mut farewell = shared.farewell(&guest);
        let mut report = Report::new(shared, guest.client);
        report.session = Some((session.key, session.suite));
        report.client = Some(open.client);
        report.service = open.service;
        let announced = Announced::new(open.client, &sealed);
        let opened = async {
            // Before it waits for a slot, which a ring may have taken.
            if let (Some(targets), Some(announced)) = (self.targets.get(&report.service), announced)
            {
                report.target = Some(Arc::clone(&targets.at(targets.first()).name));
                rings::refuse_ring(targets.id, announced)?;
            }
            let source = shared.enter(guest.client).map_err(|error| too_many(&error))?;
            let slot = slot(shared, &sealed, &guest).await?;
            if sealed.is_ended_by_peer() {
                return Err(ended(CloseReason::Truncated));
            }
            if guest.is_revoked() {
                return Err(ended(CloseReason::Revoked));
            }
            let targets = self.targets.get(&report.service).ok_or_else(no_such_service)?;
            report.target = Some(Arc::clone(&targets.at(targets.first()).name));
            let dialled = std::time::Instant::now();
            let (place, plain) = tokio::select! {
                biased;
                made = targets.dial(shared, open.client) => made?,
                () = gone(&sealed) => return Err(ended(CloseReason::Truncated)),
            };
            let passes = |announced| rings::passes(targets.id, announced, dialled, &plain);
            let held = (Some(slot), source, announced.and_then(passes));
            report.target = Some(Arc::clone(&targets.at(place).name));
            Ok((held, plain, targets.fall_of(place)))
        };
        // It may take longer than the dialer waits for a sign of life.
        let mut first = vec![];
        let opened = tokio::select! {
            biased;
            reason = &mut farewell => Err(ended(reason)),
            opened = opened => opened,
            never = keep_beating(&sealed, &mut session, &mut first) => match never {},
        };
        match opened {
            Ok((held, plain, fall)) => {
                if let Some(fall) = fall {
                    farewell = Box::pin(async move {
                        tokio::select! {
                            reason = farewell => reason,
                            () = fall => CloseReason::TargetDown,
                        }
                    });
                }
                plain.reset_unless_finished();
                let opened = session.outbound.opened(&mut first);
                opened.expect("one of the first records of a session can be sealed");
                let start = Start { first, already_read };
                let (sides, session) = ((plain, sealed), (session, start, shared.idle_timeout));
                Some(Connected::new(report, sides, session, (farewell, held)))
            }
            Err(why) => {
                let reason = match why.reason {
                    CloseReason::Truncated => {
                        last_word((&mut sealed, &mut session, &mut already_read))
                    }
                    reason => reason,
                };
                dismiss_behind(first, (&mut sealed, &mut session), reason).await;
                match reason {
                    CloseReason::Loop => report.refused_as_all(shared, &why),
                    reason => report.refused(reason, &why.detail),
                }
                None
            }
        }
    }
}

/// A slot for a live dialer, however long that takes, while it is there and may come in.
/// As many may wait as there are places for that.
async fn slot(shared: &Shared, sealed: &Stream, guest: &Guest) -> Result<Slot, Unmade> {
    if let Some(slot) = shared.try_slot() {
        return Ok(slot);
    }
    let place = shared.places.wait_for_session(guest.client.source());
    let _place = place.ok_or_else(|| {
        let detail = "too many wait for a session; raise -n, or --max-handshakes for more to wait";
        Unmade::new(CloseReason::LimitReached, detail)
    })?;
    tokio::select! {
        biased;
        // Kept or drained is only what was connected.
        () = guest.revoked() => Err(ended(CloseReason::Revoked)),
        slot = shared.slot() => Ok(slot),
        () = gone(sealed) => Err(ended(CloseReason::Truncated)),
    }
}

/// Resolves when the dialer has ended its direction, and wants no target any more.
async fn gone(sealed: &Stream) {
    // Something comes before the end, mostly a moment before, or the end itself.
    let _ = sealed.unquiet().await;
    let mut pause = FIRST_LOOK;
    while !sealed.is_ended_by_peer() {
        sleep(pause).await;
        pause = (pause * 2).min(LOOK);
    }
}

/// The reason why a dialer that waits for its target has ended its direction.
fn last_word(
    (sealed, session, already_read): (&mut Stream, &mut Session, &mut Vec<u8>),
) -> CloseReason {
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match poll_event(&mut cx, sealed, session, already_read) {
            // What its client had sent already goes nowhere.
            Poll::Ready(Ok(Event::Data(_) | Event::Fin)) => {}
            Poll::Ready(Ok(Event::Reset(reason))) => return told(reason),
            Poll::Ready(Err(reason)) => return reason,
            Poll::Ready(Ok(_)) | Poll::Pending => return CloseReason::Truncated,
        }
    }
}

/// A pool comes and goes without a line of its own for each tunnel; what ends
/// a whole pool at once is counted.
fn report_unopened(shared: &Shared, guest: &Guest, session: &Session, reason: CloseReason) {
    let client = guest.client;
    debug!(%client, %reason, "a tunnel that was never opened has ended");
    match reason {
        CloseReason::Unopened | CloseReason::PeerShutdown | CloseReason::Shutdown => {
            shared.meters.closed.count(reason);
        }
        CloseReason::Truncated
        | CloseReason::PeerLost
        | CloseReason::LimitReached
        | CloseReason::Revoked => drop(shared.refused(reason, client)),
        _ => {
            let mut report = Report::new(shared, client);
            report.session = Some((session.key, session.suite));
            report.refused(reason, &"before it asked for a service");
        }
    }
}

impl Targets {
    /// A connection to one of the targets, to which the client's address is announced
    /// where that is wanted.
    async fn dial(&self, shared: &Shared, client: ClientAddr) -> Result<(usize, Stream), Unmade> {
        let deadline = Instant::now() + shared.timeout;
        let reached =
            self.reach(None, |place| self.at(place).connect(shared, client, deadline)).await;
        reached.map_err(|unreached| unreached.why)
    }
}

impl Target {
    async fn connect(
        &self,
        shared: &Shared,
        client: ClientAddr,
        deadline: Instant,
    ) -> Result<Stream, Unmade> {
        let began = Instant::now();
        let dialled = self.dial(&shared.dialling, deadline).await;
        let mut plain = dialled.map_err(|error| Unmade::target(&error))?;
        shared.meters.dial.done(began.into());
        shared.dialling.announce(client, &mut plain, deadline).await?;
        Ok(plain)
    }
}

/// It ended, or had to, before there was a target.
fn ended(reason: CloseReason) -> Unmade {
    Unmade::new(reason, "before the target was connected")
}

fn too_many(error: &SourceRefusal) -> Unmade {
    Unmade::new(CloseReason::SourceLimit, error.to_string())
}

fn no_such_service() -> Unmade {
    Unmade::new(
        CloseReason::NoSuchService,
        "add the service here with -t NAME=ADDRESS (or -t ADDRESS for those that name none), or correct --service there",
    )
}
