//! The decrypt end, connection by connection: sealed in, plain out.
//!
//! ```text
//!   accept sealed -> place -> shake hands -> proven live -> slot -> Open
//!                 -> dial the target -> Opened -> relay -> reason
//! ```
//!
//! The target is dialled with a [`Session`], and the acceptor's session exists
//! only once a record proved the dialer live. Until then a connection is a
//! stranger: it holds a place, not a slot, and hears nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::open::told;
use super::relay::{End, Start, dismiss, relay};
use super::report::Report;
use super::secure::{Doorkeeper, Visitor, next_event};
use super::serve::Shared;
use crate::addr::{ClientAddr, ServiceName};
use crate::net::{DialError, Handshakes, Resolver, SourceRefusal, Stream, dial};
use crate::proto::Session;
use crate::proto::inbound::Event;
use crate::proto::message::Open;
use crate::reason::CloseReason;

/// How long a live dialer may wait before it says Open.
const UNOPENED: Duration = Duration::from_secs(60);

/// A stranger is dropped up to this part of the handshake deadline later, so
/// that the moment tells nothing.
const JITTER: f64 = 0.25;

/// What the decrypt end needs beyond what both ends do.
pub(super) struct Exit {
    pub(super) door: Doorkeeper,
    pub(super) handshakes: Handshakes,
    pub(super) targets: BTreeMap<ServiceName, Target>,
}

/// Where a service is.
pub(super) struct Target {
    pub(super) resolver: Resolver,
    /// How the log names it.
    pub(super) name: String,
}

/// A live dialer.
struct Guest {
    sealed: Stream,
    peer: ClientAddr,
    visitor: Visitor,
}

/// Why a live dialer does not get its target: for the log, and in short for the dialer.
struct Refusal {
    reason: CloseReason,
    detail: String,
}

/// Serves one accepted connection.
pub(super) async fn serve(exit: &Exit, shared: &Shared, (mut sealed, peer): (Stream, ClientAddr)) {
    let deadline =
        Instant::now() + shared.timeout.mul_f64(1.0 + rand::rng().random_range(0.0..JITTER));
    match exit.meet(shared, &mut sealed, deadline).await {
        Ok(visitor) => {
            // Strangers are many and need little: only a session pays for its memory.
            Box::pin(exit.host(shared, Guest { sealed, peer, visitor })).await;
        }
        Err(reason) => {
            shared.refused(reason, peer);
            sealed.reset();
        }
    }
}

impl Exit {
    /// The handshake, within a place among the unproven.
    async fn meet(
        &self,
        shared: &Shared,
        sealed: &mut Stream,
        deadline: Instant,
    ) -> Result<Visitor, CloseReason> {
        let mut place = self.handshakes.enter();
        let mut verdict = CloseReason::HandshakeFailed;
        let met = tokio::select! {
            biased;
            met = timeout_at(deadline, self.door.receive(sealed, &mut verdict)) => met.ok(),
            () = place.displaced() => Some(Err(CloseReason::Displaced)),
            () = shared.last_call() => None,
        };
        met.unwrap_or(Err(verdict))
    }

    /// The session of a live dialer.
    async fn host(&self, shared: &Shared, guest: Guest) {
        let Guest { mut sealed, peer, visitor } = guest;
        let Visitor { mut session, event, mut already_read } = visitor;
        let mut report = Report::new(peer);
        report.session = Some((session.key, session.suite));
        let opened = async {
            let guest = shared.enter(peer).map_err(|error| Refusal::source(&error))?;
            // As long as it takes: a client that waits here is one that the
            // backlog would hold, had it not come before the last slot was taken.
            let held = (guest, shared.slot().await);
            let open = await_open(&mut sealed, &mut session, event, &mut already_read).await?;
            report.client = Some(open.client);
            report.service = open.service;
            let target = self.targets.get(&report.service).ok_or_else(Refusal::no_such_service)?;
            report.target = Some(target.name.clone());
            Ok((held, target.dial(shared).await?))
        };
        let opened = tokio::select! {
            opened = opened => opened,
            reason = shared.cut() => Err(Refusal::ended(reason)),
        };
        match opened {
            Ok((_held, plain)) => {
                let end = carry(shared, plain, (&mut sealed, &mut session), already_read).await;
                report.closed(&end);
            }
            Err(Refusal { reason, detail }) => {
                dismiss(&mut sealed, &mut session, reason).await;
                report.refused(reason, &detail);
            }
        }
    }
}

/// Opened, then relay.
async fn carry(
    shared: &Shared,
    plain: Stream,
    (sealed, session): (&mut Stream, &mut Session),
    already_read: Vec<u8>,
) -> End {
    plain.reset_unless_finished();
    let mut first = vec![];
    session.outbound.opened(&mut first).expect("the second record of a session can be sealed");
    let start = Start { first, already_read };
    relay((plain, sealed), session, start, shared.cut()).await
}

/// The Open that came first, or that follows a Confirm in time.
async fn await_open(
    sealed: &mut Stream,
    session: &mut Session,
    first: Event,
    already_read: &mut Vec<u8>,
) -> Result<Open, Refusal> {
    if let Event::Open(open) = first {
        return Ok(open);
    }
    match timeout(UNOPENED, next_event(sealed, session, already_read)).await {
        Ok(Ok(Event::Open(open))) => Ok(open),
        Ok(Ok(Event::Reset(reason))) => Err(Refusal::ended(told(reason))),
        Ok(Ok(_)) => Err(Refusal::ended(CloseReason::ProtocolError)),
        Ok(Err(reason)) => Err(Refusal::ended(reason)),
        Err(_) => Err(Refusal::ended(CloseReason::Unopened)),
    }
}

impl Target {
    async fn dial(&self, shared: &Shared) -> Result<Stream, Refusal> {
        let dialled = async {
            let deadline = Instant::now() + shared.timeout;
            dial(&self.resolver.current()?, shared.bind, &shared.socket, deadline).await
        };
        dialled.await.map_err(|error| Refusal::target(&error))
    }
}

impl Refusal {
    fn source(error: &SourceRefusal) -> Self {
        Self { reason: CloseReason::SourceLimit, detail: error.to_string() }
    }

    /// It ended, or had to, before there was a target.
    fn ended(reason: CloseReason) -> Self {
        Self { reason, detail: "before the target was connected".to_owned() }
    }

    fn no_such_service() -> Self {
        Self {
            reason: CloseReason::NoSuchService,
            detail: "add the service here with -t NAME=ADDRESS (or -t ADDRESS for those that name none), or correct --service there"
                .to_owned(),
        }
    }

    fn target(error: &DialError) -> Self {
        let reason = match error {
            DialError::Timeout => CloseReason::TargetTimeout,
            DialError::Unresolved(_) => CloseReason::TargetUnresolved,
            DialError::Local(_) => CloseReason::LocalError,
            DialError::Refused { .. } | DialError::Unreachable { .. } => CloseReason::TargetRefused,
        };
        Self { reason, detail: error.to_string() }
    }
}
