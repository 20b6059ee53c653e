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

use super::relay::{Start, relay, say};
use super::report::Report;
use super::secure::{Doorkeeper, Visitor};
use super::serve::Shared;
use crate::addr::{ClientAddr, ServiceName};
use crate::net::{DialError, Handshakes, Resolver, Stream, dial};
use crate::proto::Session;
use crate::proto::inbound::Event;
use crate::proto::message::{Open, ResetReason};
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

/// A live dialer, and what is left of its handshake deadline.
struct Guest {
    sealed: Stream,
    peer: ClientAddr,
    visitor: Visitor,
    deadline: Instant,
}

/// Why a live dialer does not get its target: for the log, and for the dialer.
struct Refusal {
    reason: CloseReason,
    told: ResetReason,
    detail: String,
}

/// Serves one accepted connection.
pub(super) async fn serve(exit: &Exit, shared: &Shared, (mut sealed, peer): (Stream, ClientAddr)) {
    let deadline =
        Instant::now() + shared.timeout.mul_f64(1.0 + rand::rng().random_range(0.0..JITTER));
    match exit.meet(&mut sealed, deadline).await {
        Ok(visitor) => {
            // Strangers are many and need little: only a session pays for its memory.
            Box::pin(exit.host(shared, Guest { sealed, peer, visitor, deadline })).await;
        }
        Err(reason) => {
            shared.refused(reason, peer);
            sealed.reset();
        }
    }
}

impl Exit {
    /// The handshake, within a place among the unproven.
    async fn meet(&self, sealed: &mut Stream, deadline: Instant) -> Result<Visitor, CloseReason> {
        let mut place = self.handshakes.enter();
        let mut verdict = CloseReason::HandshakeFailed;
        let met = tokio::select! {
            biased;
            met = timeout_at(deadline, self.door.receive(sealed, &mut verdict)) => met.ok(),
            () = place.displaced() => Some(Err(CloseReason::Displaced)),
        };
        met.unwrap_or(Err(verdict))
    }

    /// The session of a live dialer.
    async fn host(&self, shared: &Shared, guest: Guest) {
        let Guest { mut sealed, peer, visitor, deadline } = guest;
        let Visitor { mut session, event, mut already_read } = visitor;
        let mut report = Report::new(peer);
        report.session = Some((session.key, session.suite));
        let opened = async {
            let slot =
                timeout_at(deadline, shared.slots.acquire()).await.map_err(|_| Refusal::full())?;
            let open = await_open(&mut sealed, &mut session, event, &mut already_read).await?;
            report.client = Some(open.client);
            report.service = open.service;
            let target = self.targets.get(&report.service).ok_or_else(Refusal::no_such_service)?;
            report.target.clone_from(&target.name);
            Ok((slot, target.dial(shared).await?))
        };
        match opened.await {
            Ok((_slot, plain)) => {
                let end = carry(shared, plain, (&mut sealed, &mut session), already_read).await;
                report.closed(&end);
            }
            Err(Refusal { reason, told, detail }) => {
                say(told, &mut sealed, &mut session).await;
                report.refused(reason, &detail);
            }
        }
    }
}

/// Opened, then relay.
async fn carry(
    shared: &Shared,
    mut plain: Stream,
    (sealed, session): (&mut Stream, &mut Session),
    already_read: Vec<u8>,
) -> super::relay::End {
    plain.reset_unless_finished();
    let mut first = vec![];
    session.outbound.opened(&mut first).expect("the second record of a session can be sealed");
    let start = Start { first, already_read };
    let end = relay((&mut plain, sealed), session, start, shared.cut()).await;
    if end.reason == CloseReason::Finished {
        plain.finish();
    }
    end
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
    let waited = timeout(UNOPENED, super::secure::next_event(sealed, session, already_read)).await;
    match waited {
        Ok(Ok(Event::Open(open))) => Ok(open),
        Ok(Ok(_)) | Ok(Err(_)) | Err(_) => Err(Refusal::unopened()),
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
    fn full() -> Self {
        Self {
            reason: CloseReason::LimitReached,
            told: ResetReason::LimitReached,
            detail: "no session ended within the handshake deadline; raise -n".to_owned(),
        }
    }

    fn unopened() -> Self {
        Self {
            reason: CloseReason::Unopened,
            told: ResetReason::Failed,
            detail: format!("the dialer did not open within {} s", UNOPENED.as_secs()),
        }
    }

    fn no_such_service() -> Self {
        Self {
            reason: CloseReason::NoSuchService,
            told: ResetReason::NoSuchService,
            detail: "add it with -t NAME=ADDRESS, or correct --service at the encrypt end"
                .to_owned(),
        }
    }

    fn target(error: &DialError) -> Self {
        let (reason, told) = match error {
            DialError::Timeout => (CloseReason::TargetTimeout, ResetReason::TargetTimeout),
            DialError::Unresolved(_) => {
                (CloseReason::TargetUnresolved, ResetReason::TargetUnresolved)
            }
            DialError::Local(_) => (CloseReason::LocalError, ResetReason::Failed),
            _ => (CloseReason::TargetRefused, ResetReason::TargetRefused),
        };
        Self { reason, told, detail: error.to_string() }
    }
}
