//! The closing line of a connection, and its counters.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::heartbeat::look_after;
use super::relay::End;
use super::reset_reasons::remote_advice;
use crate::addr::ClientAddr;
use crate::frontend::Frontend;
use crate::observe::failures::Logged;
use crate::observe::liveness::Liveness;
use crate::observe::metrics::Meters;
use crate::observe::sessions::{Keyed, LiveSession, SessionInfo};
use crate::proto::Session;
use crate::reason::CloseReason;
use crate::upstream::ConnectFailure;

/// Log of one connection: collects the facts for the one line when it ends.
pub(super) struct SessionLog {
    meters: Arc<Meters>,
    pub(super) info: SessionInfo,
    /// Key and suite of the session, once there is one.
    pub(super) keyed: Option<Keyed>,
}

/// Fields of a closing line.
struct Line<'a> {
    meters: &'a Meters,
    info: &'a SessionInfo,
    keyed: Option<Keyed>,
    end: &'a End,
    /// Explanation for the operator.
    detail: Option<&'a dyn Display>,
}

impl SessionLog {
    /// Begins the log of a connection from `peer`.
    pub(super) fn new(frontend: &Frontend, peer: ClientAddr) -> Self {
        let info = SessionInfo {
            accepted: Instant::now(),
            peer,
            client: None,
            target: None,
            service: Default::default(),
        };
        Self { meters: Arc::clone(&frontend.meters), info, keyed: None }
    }

    /// Registers the session as live, as it begins to relay.
    pub(super) fn enter(self, session: &Session, idle_timeout: Option<Duration>) -> LiveSession {
        let &Session { key, suite, heartbeats, .. } = session;
        let SessionInfo { peer, client, target, service, .. } = &self.info;
        let service = (!service.is_empty()).then(|| tracing::field::display(service));
        let client = client.map(tracing::field::display);
        let target = target.as_deref().unwrap_or_default();
        tracing::debug!(
            tunnel = self.meters.logged_name(),
            %peer, client, %target, service, %key, %suite, "opened"
        );
        let pulse = Liveness::new(heartbeats, idle_timeout);
        let live = self.meters.enter(self.info, Keyed { key, suite }, pulse);
        look_after(&live);
        live
    }

    /// Logs the end of a connection before anything was relayed.
    pub(super) fn refused(self, reason: CloseReason, detail: &dyn Display) {
        let end = End { reason, sent: 0, received: 0, ratchets: 0 };
        let Self { meters, info, keyed } = &self;
        Line { meters, info, keyed: *keyed, end: &end, detail: Some(detail) }.write();
    }

    /// Does the same as [`Self::refused`] where the cause was logged a moment ago: the summary line
    /// and the counter include this connection.
    fn repeated(self, reason: CloseReason, detail: &dyn Display) {
        self.meters.refused.count(reason);
        let SessionInfo { peer, target, .. } = self.info;
        let tunnel = self.meters.logged_name();
        let target = target.map(tracing::field::display);
        tracing::debug!(tunnel, %peer, target, %reason, %detail, "not opened");
    }

    /// Does the same as [`Self::refused`] for a cause that affects all connections of a tunnel: the
    /// first of them is logged in full, the others are only counted.
    pub(super) fn refused_as_all(self, frontend: &Frontend, failure: &ConnectFailure) {
        let ConnectFailure { reason, detail } = failure;
        match frontend.count_failure(*reason, self.info.peer) {
            Logged::Now => self.refused(*reason, detail),
            Logged::Summarised => self.repeated(*reason, detail),
        }
    }

    /// Logs the end of a session that was relayed.
    pub(super) fn closed(live: &LiveSession, end: &End) {
        let advice = remote_advice(end.reason);
        Line {
            meters: live.meters(),
            info: live.info(),
            keyed: Some(live.keyed()),
            end,
            detail: advice.as_ref().map(|advice| advice as &dyn Display),
        }
        .write();
    }
}

impl Line<'_> {
    fn write(self) {
        let End { reason, sent, received, ratchets } = self.end;
        self.meters.closed.count(*reason);
        self.meters.ratchets.inc_by(*ratchets);
        let SessionInfo { accepted, peer, client, target, service } = self.info;
        let tunnel = self.meters.logged_name();
        let client = client.map(tracing::field::display);
        let target = target.as_ref().map(tracing::field::display);
        let service = (!service.is_empty()).then(|| tracing::field::display(service));
        let key = self.keyed.map(|keyed| tracing::field::display(keyed.key));
        let suite = self.keyed.map(|keyed| tracing::field::display(keyed.suite));
        let detail = self.detail.map(tracing::field::display);
        let duration_ms = u64::try_from(accepted.elapsed().as_millis()).unwrap_or(u64::MAX);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    tunnel, %peer, client, target, service, key, suite, %reason, sent, received,
                    duration_ms, detail, "closed"
                )
            };
        }
        match Severity::of(*reason) {
            Severity::Info => line!(info),
            Severity::Warn => line!(warn),
        }
    }
}

/// Severity of a closing line.
#[derive(Clone, Copy)]
enum Severity {
    /// The applications ended the connection.
    Info,
    /// Something is wrong.
    Warn,
}

impl Severity {
    fn of(reason: CloseReason) -> Self {
        match reason {
            CloseReason::Finished
            | CloseReason::PlainReset
            | CloseReason::PeerReset
            | CloseReason::PeerShutdown
            | CloseReason::IdleTimeout
            | CloseReason::Kicked
            | CloseReason::Unopened
            | CloseReason::Shutdown => Self::Info,
            _ => Self::Warn,
        }
    }
}
