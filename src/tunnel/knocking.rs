//! Knocks of a dialer: before a connection, after one that was not let in, and when this host
//! moved.
//!
//! ```text
//!   knock if none counts -> dial -> shake hands -> session
//!     ^                      |           |
//!     +---- short pause -----+-----------+  refused, reset, ended without an answer
//! ```
//!
//! A gate that does not know this host yet is silent about it, as a firewall in front of it is. So
//! a connection that ends before the handshake is repeated, with a knock before it, but only here,
//! and not beyond the deadline that the first one had. Any other failure is final as it always was.

use std::convert::Infallible;
use std::future::pending;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rand::RngExt;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::dial_far_end::{Attempt, Background, CallError, CallLimits, Called, DialerHandshake};
use super::encrypt::EncryptEnd;
use super::unanswered::Unanswered;
use crate::knocker::{Knocker, Occasion, Schedule, now};
use crate::net::{self, DialError, HostChange, HostChanges, Stream, dial_after};
use crate::observe::KnockReason;
use crate::upstream::{ConnectFailure, DialOptions, Target};

/// Pauses before the repetitions of a call. A datagram may be lost, and a firewall may take a
/// moment.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];

/// Pauses before knocks are repeated while a connection is being made: a firewall that drops its
/// packets gets each right before the kernel sends the next one (after 1, 3 and 7 seconds).
const WHILE_DIALLING: [Duration; 3] =
    [Duration::from_millis(900), Duration::from_secs(2), Duration::from_secs(4)];

/// Further remedy where this end knocks.
const KNOCKED: &str = "; this end knocked, so check that --knock is on there, that the keys are the same, that both clocks are right, and that firewalls let UDP to that port pass";

/// Further remedy where it does not.
const NOT_KNOCKED: &str = "; if its gate opens by knocking, add --knock here";

/// Interval at which the clocks are compared, to notice that the machine slept.
const LOOK: Duration = Duration::from_secs(1);

impl DialerHandshake {
    /// Calls a far end: dials with `dial`, and shakes hands. Where it knocks, a connection that is
    /// not let in is repeated until the deadline of the first.
    ///
    /// # Errors
    /// [`CallError`] of the last connection.
    pub(super) async fn call<F>(
        &self,
        dial: impl Fn(Attempt) -> F,
        limits: CallLimits,
        background: &Background,
    ) -> Result<Called, CallError>
    where
        F: Future<Output = Result<Stream, DialError>>,
    {
        let Some(knocker) = self.knocker() else {
            return self.call_once(dial, limits, background).await;
        };
        let connected = OnceLock::new();
        let noted = |attempt| {
            let dialling = dial(attempt);
            let connected = &connected;
            async move {
                let stream = dialling.await?;
                connected.get_or_init(Instant::now);
                Ok(stream)
            }
        };
        let mut pauses = PAUSES.into_iter();
        let mut limits = limits;
        loop {
            let error = match self.call_once(noted, limits, background).await {
                Ok(called) => {
                    knocker.answered();
                    return Ok(called);
                }
                Err(error) => error,
            };
            let latest = connected.get().map_or(limits.deadline, |at| *at + limits.answer);
            let pause = pauses.next().filter(|_| is_as_if_denied(&error));
            match pause.filter(|pause| Instant::now() + *pause < latest) {
                Some(pause) => sleep(pause).await,
                None => return Err(error),
            }
            limits = CallLimits { deadline: latest, latest, is_repeated: true, ..limits };
        }
    }

    /// Connects to a far end, after a knock if it is time for one. The name is resolved once for
    /// both, and both leave from the same address.
    ///
    /// # Errors
    /// [`DialError`]
    pub(super) async fn connect(
        &self,
        far_end: &Target,
        options: &DialOptions,
        attempt: Attempt,
    ) -> Result<Stream, DialError> {
        let Some(knocker) = self.knocker() else {
            return far_end.connect(options, attempt.deadline).await;
        };
        let target = far_end.current()?;
        let occasion = if attempt.is_repeated { Occasion::Denied } else { Occasion::Wanted };
        let before = |to| knocker.before_dial(to, occasion);
        let DialOptions { bind, socket, .. } = options;
        tokio::select! {
            biased;
            dialled = dial_after(&target, *bind, socket, attempt.deadline, before) => dialled,
            never = repeat(knocker, &target) => match never {},
        }
    }
}

impl DialerHandshake {
    /// Returns the failure of a call, with what to check where this end knocks.
    pub(super) fn failure(&self, error: CallError) -> ConnectFailure {
        let advice = match (&error, self.knocker()) {
            // What answers there has no gate.
            (CallError::Unanswered(Unanswered::Spoke(_) | Unanswered::Babbled), _) => "",
            (CallError::Unanswered(_), None) => NOT_KNOCKED,
            (CallError::Unanswered(_), Some(_)) => KNOCKED,
            // No knock has left for a name without an address.
            (CallError::Dial(DialError::Unresolved(_) | DialError::Local(_)), _) => "",
            (CallError::Dial(_), Some(_)) => KNOCKED,
            (CallError::Dial(_) | CallError::Local, _) => "",
        };
        let mut failure = ConnectFailure::from(error);
        failure.detail += advice;
        failure
    }
}

/// Local addresses of the ways to the addresses of one far end.
type Sources = Vec<Option<IpAddr>>;

/// Repeats knocks while a connection is being made.
async fn repeat(knocker: &Knocker, target: &net::Target) -> Infallible {
    for pause in WHILE_DIALLING {
        sleep(pause).await;
        knocker.knock(target, Occasion::Denied, KnockReason::Retry);
    }
    pending().await
}

/// Returns whether a call failed as it does where a gate, or a firewall in front of it, does not
/// let this host in.
fn is_as_if_denied(error: &CallError) -> bool {
    match error {
        CallError::Dial(DialError::Refused { .. } | DialError::Unreachable { .. }) => true,
        // The local address went away between the datagram and the connection.
        CallError::Dial(DialError::Local(error)) => error.kind() == ErrorKind::AddrNotAvailable,
        CallError::Unanswered(unanswered) => {
            matches!(unanswered, Unanswered::Ended(_) | Unanswered::Reset(_))
        }
        CallError::Dial(DialError::Timeout | DialError::Unresolved(_)) | CallError::Local => false,
    }
}

impl EncryptEnd {
    /// Knocks at once when this host has other addresses, has slept, or is asked to, until `stop`;
    /// and while there are warm tunnels also before the grant ends. Otherwise connections knock.
    pub(super) async fn keep_knocking(self: Arc<Self>, stop: impl Future<Output = ()>) {
        let Some(knocker) = self.knocker(0) else { return };
        let watching = async {
            let mut schedule = Schedule::begun(knocker.lasting(), now());
            let mut changes = HostChanges::watch().unwrap_or_else(|error| {
                let detail = "after a change of addresses the next connection knocks";
                warn!(%error, detail, "cannot watch the addresses of this host");
                HostChanges::unwatched()
            });
            // Read once changes are watched, so that none is between the two.
            let mut sources = self.sources();
            loop {
                tokio::select! {
                    change = changes.next() => {
                        let before = std::mem::replace(&mut sources, self.sources());
                        self.leave_behind(&before, &sources);
                        if change == HostChange::Address || before != sources {
                            schedule.event(KnockReason::AddressChange, now());
                        }
                    }
                    () = self.knock_again.notified() => {
                        schedule.event(KnockReason::Request, now());
                    }
                    () = sleep(schedule.wait(now()).min(LOOK)) => {}
                }
                if let Some(reason) = schedule.due(now()) {
                    self.knock(reason);
                    schedule.sent(now(), rand::rng().random_range(0.0..1.0));
                }
            }
        };
        tokio::select! {
            () = stop => {}
            () = watching => {}
        }
    }

    /// Knocks at all far ends.
    fn knock(&self, reason: KnockReason) {
        if reason == KnockReason::Renewal && self.pool.warm().size == 0 {
            return;
        }
        for place in 0..self.far_ends.count() {
            let Ok(target) = self.far_ends.at(place).current() else { continue };
            let Some(knocker) = self.knocker(place) else { continue };
            knocker.knock(&target, Occasion::Changed, reason);
            if reason == KnockReason::Resume {
                // The far ends have ended warm tunnels meanwhile.
                self.pool.distrust(place, Instant::now());
            }
        }
    }

    /// Closes warm tunnels to the far ends that are reached from another address now.
    fn leave_behind(&self, before: &[Sources], now: &[Sources]) {
        let moved = before.iter().zip(now).enumerate().filter(|(_, (before, now))| before != now);
        moved.for_each(|(place, _)| self.pool.distrust(place, Instant::now()));
    }

    /// Returns the local addresses of the ways to each far end.
    fn sources(&self) -> Vec<Sources> {
        let of_far_end = |place| {
            let target = self.far_ends.at(place).current().ok()?;
            Some(self.knocker(place)?.sources(&target))
        };
        (0..self.far_ends.count()).map(|place| of_far_end(place).unwrap_or_default()).collect()
    }

    fn knocker(&self, far_end: usize) -> Option<&Knocker> {
        self.dialers.get(far_end).and_then(DialerHandshake::knocker)
    }
}
