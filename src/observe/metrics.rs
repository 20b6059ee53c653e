//! Counters of a running tunnel: numbers that only grow, and durations.
//!
//! A tunnel holds its [`Meters`] for its whole life, so that counting is an addition and never a
//! lookup. They outlive a tunnel that is replaced under the same name. Values that can be read from
//! the limits, the pool or the gate on request are not counted here a second time;
//! `admin::exposition` writes all of them.

use std::sync::Arc;
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::http_knocks::HttpKnockMeters;
use super::http_requests::{HttpRequestMeters, VerifyMeters};
use super::liveness::Liveness;
use super::received_knocks::ReceivedKnockMeters;
use super::sent_knocks::SentKnockMeters;
use super::sessions::{ByteCount, Keyed, LiveSession, SessionInfo, Sessions, Traffic};
use crate::reason::CloseReason;

/// Upper ends of the histograms' buckets in seconds: from memory and a local
/// network to the longest usual deadline.
const SECONDS: [f64; 14] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Counters of one tunnel. Clones of a counter are the same counter.
#[derive(Debug)]
pub struct Meters {
    tunnel: Arc<str>,
    /// Log lines show the name.
    is_named: bool,
    sessions: Arc<Sessions>,
    /// Connections that were accepted.
    pub accepted: Counter,
    /// Connections that ended with their own log line.
    pub closed: ByReason,
    /// Connections that ended before their peer was known.
    pub refused: ByReason,
    /// Seconds of handshakes that succeeded.
    pub handshake: Timer,
    /// Seconds of dials that succeeded.
    pub dial: Timer,
    /// Seconds until the gate allowed or denied a client.
    pub gate: Timer,
    /// Counters of the pool.
    pub pool: PoolMeters,
    /// Datagrams that arrived for knocks, by what became of them.
    pub received_knocks: ReceivedKnockMeters,
    /// Knocks over HTTP, by what became of them.
    pub http_knocks: HttpKnockMeters,
    /// Requests over HTTP, by their answers.
    pub http_requests: HttpRequestMeters,
    /// Questions of proxies, by their answers.
    pub verified: VerifyMeters,
    /// Counters of the knocks that it sends.
    pub sent_knocks: Arc<SentKnockMeters>,
    /// Record keys that were replaced by their successor, in sessions that ended.
    pub ratchets: Counter,
    ended: Traffic,
}

/// A counter for each reason.
#[derive(Debug)]
pub struct ByReason([Counter; CloseReason::ALL.len()]);

/// A histogram of durations.
#[derive(Debug)]
pub struct Timer(Histogram);

/// Counters of warm tunnels.
#[derive(Clone, Debug, Default)]
pub struct PoolMeters {
    /// Clients that got one.
    pub taken: Counter,
    /// Clients that found none.
    pub missed: Counter,
    /// Tunnels that could not be made, or that the far end ended.
    pub failed: Counter,
}

impl Meters {
    /// Creates counters at zero for the only tunnel of a process, which log lines do not name, with
    /// its sessions in `sessions`.
    pub fn new(name: &str, sessions: Arc<Sessions>) -> Arc<Self> {
        Self::with_name(name, false, sessions)
    }

    /// Creates counters for a tunnel that log lines name if `is_named`.
    pub fn with_name(name: &str, is_named: bool, sessions: Arc<Sessions>) -> Arc<Self> {
        Arc::new(Self {
            tunnel: Arc::from(name),
            is_named,
            sessions,
            accepted: Counter::default(),
            closed: ByReason::default(),
            refused: ByReason::default(),
            handshake: Timer::default(),
            dial: Timer::default(),
            gate: Timer::default(),
            pool: PoolMeters::default(),
            received_knocks: ReceivedKnockMeters::default(),
            http_knocks: HttpKnockMeters::default(),
            http_requests: HttpRequestMeters::default(),
            verified: VerifyMeters::default(),
            sent_knocks: Arc::default(),
            ratchets: Counter::default(),
            ended: Traffic::default(),
        })
    }

    /// Returns the tunnel's name.
    pub fn tunnel(&self) -> &str {
        &self.tunnel
    }

    /// Returns the tunnel's name in the log, where there are several.
    pub fn logged_name(&self) -> Option<&str> {
        self.is_named.then_some(&*self.tunnel)
    }

    /// Registers a session that begins to relay.
    pub fn enter(
        self: &Arc<Self>,
        info: SessionInfo,
        keyed: Keyed,
        pulse: Liveness,
    ) -> LiveSession {
        self.sessions.enter(self, info, keyed, pulse)
    }

    /// Returns the stream bytes (sent, received) so far.
    pub fn bytes(&self) -> (u64, u64) {
        self.sessions.bytes(self)
    }

    pub(super) fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Adds the counts of an ended session. The caller holds the lock of the sessions.
    pub(super) fn ended(&self, traffic: &Traffic) {
        let add = |total: &ByteCount, more: &ByteCount| total.add(more.get());
        add(&self.ended.sent, &traffic.sent);
        add(&self.ended.received, &traffic.received);
    }

    pub(super) fn ended_bytes(&self) -> (u64, u64) {
        (self.ended.sent.get(), self.ended.received.get())
    }
}

impl Default for ByReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl ByReason {
    /// Counts one.
    pub fn count(&self, reason: CloseReason) {
        self.0[reason as usize].inc();
    }

    /// Returns the number of connections that ended for `reason`.
    pub fn get(&self, reason: CloseReason) -> u64 {
        self.0[reason as usize].get()
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self(Histogram::new(SECONDS))
    }
}

impl Timer {
    /// Measures something that began at `began` and is done.
    pub fn done(&self, began: Instant) {
        self.0.observe(began.elapsed().as_secs_f64());
    }

    /// Returns the measurements.
    pub fn histogram(&self) -> &Histogram {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_of_its_own() {
        let counts = ByReason::default();
        for reason in CloseReason::ALL {
            counts.count(reason);
        }
        counts.count(CloseReason::Kicked);
        for reason in CloseReason::ALL {
            assert_eq!(counts.get(reason), 1 + u64::from(reason == CloseReason::Kicked));
        }
    }
}
