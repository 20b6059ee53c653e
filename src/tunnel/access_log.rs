//! The closing line of a connection: the one place that says how it went.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::looker::look_after;
use super::relay::End;
use super::shared::Shared;
use super::unmade::Unmade;
use crate::addr::{ClientAddr, ServiceName};
use crate::keys::KeyId;
use crate::observe::failures::Told;
use crate::observe::metrics::Meters;
use crate::observe::pulse::Pulse;
use crate::observe::sessions::{Facts, Live};
use crate::proto::{Session, Suite};
use crate::reason::CloseReason;

/// What is known about a connection so far; becomes one log line.
pub(super) struct Report {
    began: Instant,
    /// The tunnel's name, where there are several.
    tunnel: Option<Arc<str>>,
    meters: Arc<Meters>,
    /// Who connected to this end.
    peer: ClientAddr,
    /// At the acceptor, who connected to the dialer.
    pub(super) client: Option<ClientAddr>,
    /// Where this end forwards to, once that is known.
    pub(super) target: Option<Arc<str>>,
    /// The service in Open.
    pub(super) service: ServiceName,
    /// The key and suite of the session, once there is one.
    pub(super) session: Option<(KeyId, Suite)>,
}

impl Report {
    /// A connection from `peer` through the tunnel of `shared` begins.
    pub(super) fn new(shared: &Shared, peer: ClientAddr) -> Self {
        Self {
            began: Instant::now(),
            tunnel: shared.name.clone(),
            meters: Arc::clone(&shared.meters),
            peer,
            client: None,
            target: None,
            service: ServiceName::default(),
            session: None,
        }
    }

    /// Its session begins to relay: from now on operators see it, and all of this is there.
    pub(super) fn enter(self, session: &Session, idle_timeout: Option<Duration>) -> Live {
        let &Session { key, suite, heartbeats, .. } = session;
        let Self { began: accepted, tunnel, meters, peer, client, target, service, .. } = self;
        let target = target.unwrap_or_default();
        let named = (!service.is_empty()).then(|| tracing::field::display(&service));
        let told = client.map(tracing::field::display);
        tracing::debug!(
            tunnel = tunnel.as_deref(), %peer, client = told, %target, service = named, %key,
            %suite, "opened"
        );
        let facts = Facts { tunnel, accepted, peer, client, target, service, key, suite };
        let live = meters.enter(facts, Pulse::new(heartbeats, idle_timeout));
        look_after(&live);
        live
    }

    /// What [`Self::enter`] put there.
    pub(super) fn of(live: &Live) -> Self {
        let facts = live.facts().clone();
        let Facts { tunnel, accepted: began, peer, client, target, service, key, suite } = facts;
        let (meters, session) = (Arc::clone(live.meters()), Some((key, suite)));
        Self { began, tunnel, meters, peer, client, target: Some(target), service, session }
    }

    /// It ends before anything was relayed; `detail` is for the operator.
    pub(super) fn refused(self, reason: CloseReason, detail: &dyn Display) {
        let end = End { reason, sent: 0, received: 0, ratchets: 0 };
        self.log(&end, Some(detail), Level::of(reason));
    }

    /// As [`Self::refused`], where the cause was told a moment ago and a line `refused`
    /// counts this one, as its meter does.
    fn repeated(self, reason: CloseReason, detail: &dyn Display) {
        let Self { tunnel, meters, peer, target, .. } = self;
        meters.refused.count(reason);
        let target = target.map(tracing::field::display);
        tracing::debug!(tunnel = tunnel.as_deref(), %peer, target, %reason, %detail, "not opened");
    }

    /// As [`Self::refused`], for a cause that all connections of a tunnel have in common:
    /// the first of them is told in full, the others are counted, and none is both.
    pub(super) fn refused_as_all(self, shared: &Shared, Unmade { reason, detail }: &Unmade) {
        match shared.tell_unless_first(*reason, self.peer) {
            Told::Now => self.refused(*reason, detail),
            Told::Later => self.repeated(*reason, detail),
        }
    }

    /// It ends after relaying.
    pub(super) fn closed(self, end: &End) {
        let detail = told_by_the_far_end(end.reason).map(|text| text as &dyn Display);
        self.log(end, detail, Level::of(end.reason));
    }

    fn log(self, end: &End, detail: Option<&dyn Display>, level: Level) {
        let Self { began, tunnel, meters, peer, client, target, service, session } = self;
        meters.closed.count(end.reason);
        meters.ratchets.inc_by(end.ratchets);
        let tunnel = tunnel.as_deref();
        let (client, target) =
            (client.map(tracing::field::display), target.map(tracing::field::display));
        let service = (!service.is_empty()).then(|| tracing::field::display(service));
        let key = session.map(|(key, _)| tracing::field::display(key));
        let suite = session.map(|(_, suite)| tracing::field::display(suite));
        let detail = detail.map(tracing::field::display);
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let End { reason, sent, received, .. } = end;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    tunnel, %peer, client, target, service, key, suite, %reason, sent, received,
                    duration_ms, detail, "closed"
                )
            };
        }
        match level {
            Level::Ordinary => line!(info),
            Level::Telling => line!(warn),
        }
    }
}

/// What to do about a reason that ends a session only because the far end said so.
pub(super) fn told_by_the_far_end(reason: CloseReason) -> Option<&'static &'static str> {
    Some(match reason {
        CloseReason::TargetRefused => {
            &"the decrypt end's target refuses, or its host cannot be reached from there, as the log there tells; start the service, or correct -t there"
        }
        CloseReason::TargetTimeout => {
            &"the decrypt end gets no answer from its target in time; look at the firewall and the load there"
        }
        CloseReason::TargetUnresolved => {
            &"the decrypt end cannot resolve its target's name; look at name service there"
        }
        CloseReason::NoSuchService => {
            &"the decrypt end has no such service; correct --service, or add it there with -t NAME=ADDRESS"
        }
        CloseReason::LimitReached => {
            &"the decrypt end has no session for this host: --max-per-source there, or too many wait for its -n"
        }
        _ => return None,
    })
}

/// How much an operator should care.
#[derive(Clone, Copy)]
enum Level {
    /// The applications ended it.
    Ordinary,
    /// Something is wrong.
    Telling,
}

impl Level {
    fn of(reason: CloseReason) -> Self {
        match reason {
            CloseReason::Finished
            | CloseReason::PlainReset
            | CloseReason::PeerReset
            | CloseReason::PeerShutdown
            | CloseReason::IdleTimeout
            | CloseReason::Kicked
            | CloseReason::Unopened
            | CloseReason::Shutdown => Self::Ordinary,
            _ => Self::Telling,
        }
    }
}
