//! Targets of one service, or far ends of an encrypt end: the choice among them.
//!
//! ```text
//!   reach -> those that are not down, in order; then those that are
//!            each has a head start over the next, the first that works is used
//! ```
//!
//! Results are kept for later connections, and a change of health is one log line. For a single
//! target without checks nothing is kept: there is nothing to choose. `health_check`, not a client,
//! finds out whether a target that is down works again.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::dial_options::DialOptions;
use super::error::ConnectFailure;
use super::health_state::{Attempt, HealthRules, HealthState, HealthTable, State, Transition};
use super::probe::Check;
use super::target::Target;
use crate::addr::{Address, ServiceName};
use crate::net::{DialError, ResolveError, ResolveOptions, race};
use crate::reason::CloseReason;

/// Settings of one service's targets.
#[derive(Clone, Debug)]
pub struct UpstreamOptions<'a> {
    /// Name of the tunnel in the log, where a process has several.
    pub tunnel: Option<Arc<str>>,
    /// The service; empty for the default target, and for far ends the one that is asked for.
    pub service: &'a ServiceName,
    /// Addresses in their order, at least one.
    pub addresses: &'a [Address],
    /// Options of name resolution.
    pub resolve: ResolveOptions,
    /// Check that the targets have to pass; `None` looks only at those that are down.
    pub check: Option<Check>,
    /// Longest pause between two looks at a target that is down and has no check.
    pub longest_pause: Duration,
    /// Sessions on a target end when it goes down.
    pub ends_sessions: bool,
    /// Time limit of a connection to the first target that works.
    pub timeout: Duration,
}

/// Targets of one service in their order, with their health.
pub struct Targets {
    /// Name of the tunnel in the log, where a process has several.
    pub(super) tunnel: Option<Arc<str>>,
    service: ServiceName,
    id: TargetsId,
    all: Vec<Target>,
    table: Mutex<HealthTable>,
    /// Failures of a single target without checks, for operators.
    failing: Mutex<Option<Failing>>,
    /// Notified when one of them goes down.
    fell: Notify,
    /// Notified for the sessions of a target when it goes down, where they end then.
    falls: Mutex<Vec<Fall>>,
    ends_sessions: bool,
    pub(super) check: Option<Check>,
    /// Time that a target has before the next one is tried.
    pub(super) head_start: Duration,
}

/// Sender that tells the sessions on a target that it is down.
type Fall = Arc<watch::Sender<()>>;

/// Failures in a row without a success between them.
#[derive(Clone)]
struct Failing {
    since: Instant,
    /// Detail of the newest.
    detail: String,
}

/// Identity of the far ends of one tunnel, or of the targets of one service, within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetsId(pub u32);

/// Health of one of a service's targets, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetHealth {
    /// The service; empty for the default target, and for far ends the one that is asked for.
    pub service: ServiceName,
    /// Its place in the order of the service's targets, from 0.
    pub place: usize,
    /// Its address as it was written.
    pub target: Arc<str>,
    /// Its state; `None` for a single target without a check.
    pub state: Option<StateSince>,
    /// Time since which connections fail, where its state is not kept; `None` after a success.
    pub failing: Option<Instant>,
    /// Detail of its last failure, if it ever had one.
    pub last_error: Option<String>,
    /// New connections try it first.
    pub in_use: bool,
}

/// State of a target, and the moment when that began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSince {
    /// The state.
    pub state: State,
    /// Its beginning.
    pub since: Instant,
}

/// Failure of the dial of every target.
pub struct AllFailed {
    /// Place of the target that was tried first.
    pub first: usize,
    /// Its reason, and the details of all.
    pub failure: ConnectFailure,
}

// === impl Targets ===

impl Targets {
    /// Resolves the addresses.
    ///
    /// # Errors
    /// [`ResolveError`], unless the options say to wait.
    pub async fn start(options: UpstreamOptions<'_>) -> Result<Self, ResolveError> {
        let mut all = Vec::with_capacity(options.addresses.len());
        for address in options.addresses {
            all.push(Target::start(address, options.resolve).await?);
        }
        let every = options.check.as_ref().map(|check| check.every);
        let rules = HealthRules { every, longest_pause: options.longest_pause };
        // All attempts begin before the deadline, the last with as much time as the others.
        let shares = u32::try_from(all.len()).unwrap_or(u32::MAX).saturating_add(1);
        Ok(Self {
            tunnel: options.tunnel,
            service: options.service.clone(),
            id: TargetsId::new(),
            table: Mutex::new(HealthTable::new(all.len(), rules, Instant::now())),
            failing: Mutex::default(),
            falls: Mutex::new(all.iter().map(|_| Fall::default()).collect()),
            ends_sessions: options.ends_sessions,
            all,
            fell: Notify::new(),
            check: options.check,
            head_start: options.timeout / shares,
        })
    }

    /// Takes over the sessions of `old`, as far as their targets are among these.
    pub fn succeed(&self, old: &Self) {
        let mut falls = self.falls();
        let old_falls = old.falls();
        for (target, fall) in self.all.iter().zip(&mut *falls) {
            let known = old.all.iter().position(|known| known.name == target.name);
            if let Some(known) = known.and_then(|place| old_falls.get(place)) {
                *fall = Arc::clone(known);
            }
        }
    }

    /// Returns a future that resolves when the target at `place` goes down from now on; `None`
    /// where sessions do not end for that.
    pub fn fall_of(&self, place: usize) -> Option<impl Future<Output = ()> + Send + use<>> {
        let mut fall = self.ends_sessions.then(|| self.falls()[place].subscribe())?;
        Some(async move {
            if fall.changed().await.is_err() {
                // That target is no longer watched.
                std::future::pending().await
            }
        })
    }

    fn falls(&self) -> MutexGuard<'_, Vec<Fall>> {
        self.falls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the identity of these targets in the process.
    pub fn id(&self) -> TargetsId {
        self.id
    }

    /// Returns the target at a place in the order of the configuration.
    pub fn at(&self, place: usize) -> &Target {
        &self.all[place]
    }

    /// Returns the number of targets.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Returns true where their health is kept.
    pub fn is_watched(&self) -> bool {
        self.all.len() > 1 || self.check.is_some()
    }

    /// Returns true when a connection that has the choice may use this target.
    pub fn is_wanted(&self, place: usize) -> bool {
        let table = self.table();
        table.in_use().is_none() || table.all()[place].state != State::Down
    }

    /// Returns the place of the target that the next connection tries first.
    pub fn first(&self) -> usize {
        self.table().in_use().unwrap_or_default()
    }

    /// Finds the first target that `attempt` succeeds with, and returns its place too. `last` is
    /// the place of the one to try after all others that are not down.
    ///
    /// # Errors
    /// [`AllFailed`] when it succeeds with none.
    pub async fn reach<T, F>(
        &self,
        last: Option<usize>,
        attempt: impl Fn(usize) -> F,
    ) -> Result<(usize, T), AllFailed>
    where
        F: Future<Output = Result<T, ConnectFailure>>,
    {
        let order = if self.is_watched() { self.order(last) } else { vec![0] };
        let first = order[0];
        let began = Instant::now();
        let raced = race(order, self.head_start, attempt).await;
        for &place in &raced.overtaken {
            let seconds = self.head_start.as_secs_f64();
            let detail = format!("no answer within {seconds:.1} s, and the next one had");
            self.failed(place, &ConnectFailure::new(CloseReason::NoAnswer, detail), began);
        }
        for (place, failure) in &raced.failed {
            self.failed(*place, failure, began);
        }
        match raced.won {
            Some((place, reached)) => {
                self.learn(place, Ok(()), |table, now| table.succeeded(place, now));
                Ok((place, reached))
            }
            None => Err(self.all_failed(first, raced.failed)),
        }
    }

    /// Returns the places in the order of attempts, `last` behind all that are not down.
    fn order(&self, last: Option<usize>) -> Vec<usize> {
        let table = self.table();
        let mut order = table.order();
        let is_down = |place: usize| table.all()[place].state == State::Down;
        order.sort_by_key(|place| (is_down(*place), Some(*place) == last));
        order
    }

    fn all_failed(&self, first: usize, failed: Vec<(usize, ConnectFailure)>) -> AllFailed {
        let reason = failed.iter().find(|(place, _)| *place == first);
        let reason = reason.map_or(CloseReason::LocalError, |(_, failure)| failure.reason);
        let detail = match &failed[..] {
            [(_, failure)] => failure.detail.clone(),
            several => {
                let named = |(place, failure): &(usize, ConnectFailure)| {
                    format!("{}: {}", self.all[*place].name, failure.detail)
                };
                several.iter().map(named).collect::<Vec<_>>().join(" | ")
            }
        };
        AllFailed { first, failure: ConnectFailure { reason, detail } }
    }

    /// Notes that a connection that began at `began` failed.
    pub fn failed(&self, place: usize, failure: &ConnectFailure, began: Instant) {
        self.learn(place, Err(failure), |table, now| {
            table.failed(place, &failure.detail, Attempt { began, ended: now })
        });
    }

    /// Warns if a target cannot be reached, while the person who started this end still watches.
    /// Its health stays unchanged: the target may just start later. A unix socket is not probed,
    /// since its listener would see a connection.
    pub(super) async fn warn_if_unreachable(
        &self,
        place: usize,
        options: &DialOptions,
        deadline: tokio::time::Instant,
    ) {
        let target = &self.all[place];
        if matches!(target.address(), Address::Unix(_)) {
            return;
        }
        // A name that does not resolve yet, and a lack of this host, have their own log lines.
        let error = match target.probe_port(options, deadline).await {
            Ok(()) | Err(DialError::Unresolved(_) | DialError::Local(_)) => return,
            Err(error) => error,
        };
        let tunnel = self.tunnel.as_deref();
        let target = &*target.name;
        let service = (!self.service.is_empty()).then(|| tracing::field::display(&self.service));
        warn!(tunnel, target, service, %error, "target unreachable at start; clients still try it");
    }

    /// Notes the result of a check, or of a look at a target that is down.
    pub(super) fn checked(&self, place: usize, found: Result<(), &ConnectFailure>) {
        self.learn(place, found, |table, now| {
            table.checked(place, found.map_err(|failure| &*failure.detail), now)
        });
    }

    /// Waits until a check or look is needed, and returns the pause until the next check of a
    /// target, or the next look at one that is down.
    pub(super) async fn pause(&self, place: usize) -> Duration {
        loop {
            let fell = self.fell.notified();
            if let Some(pause) = { self.table().pause(place) } {
                return pause;
            }
            fell.await;
        }
    }

    /// Returns the health of each of them, in order.
    pub fn health(&self) -> Vec<TargetHealth> {
        let table = self.table();
        let in_use = table.in_use();
        let failing = self.failing().clone();
        let newest = failing.as_ref().map(|failing| &failing.detail);
        let all = self.all.iter().zip(table.all()).enumerate();
        all.map(|(place, (target, HealthState { state, since, last_error, .. }))| TargetHealth {
            service: self.service.clone(),
            place,
            target: Arc::clone(&target.name),
            state: self.is_watched().then_some(StateSince { state: *state, since: *since }),
            failing: failing.as_ref().map(|failing| failing.since),
            last_error: last_error.as_ref().or(newest).cloned(),
            in_use: in_use == Some(place),
        })
        .collect()
    }

    /// Changes the health of a target by a result, and logs a transition.
    fn learn(
        &self,
        place: usize,
        found: Result<(), &ConnectFailure>,
        change: impl FnOnce(&mut HealthTable, Instant) -> Option<Transition>,
    ) {
        // A shortage on this host says nothing about a target.
        let is_ours = found.is_err_and(|failure| failure.reason == CloseReason::LocalError);
        if is_ours {
            return;
        }
        if !self.is_watched() {
            return self.note_of_the_only_one(found);
        }
        let (transition, error, using) = {
            let mut table = self.table();
            let Some(transition) = change(&mut table, Instant::now()) else { return };
            let error = table.all()[place].last_error.clone().unwrap_or_default();
            (transition, error, table.in_use().map(|place| &*self.all[place].name))
        };
        let tunnel = self.tunnel.as_deref();
        let target = &*self.all[place].name;
        let service = (!self.service.is_empty()).then(|| tracing::field::display(&self.service));
        match transition {
            Transition::Down => {
                self.fell.notify_waiters();
                if self.ends_sessions {
                    self.falls()[place].send_replace(());
                }
                let detail = using.is_none().then_some("no other is up, so it is still tried");
                warn!(tunnel, target, service, error, using, detail, "target is down");
            }
            Transition::Up(after) => {
                let down_s = after.as_secs();
                info!(tunnel, target, service, using, down_s, "target is up again");
            }
        }
    }

    /// Keeps the first of failures in a row, with the newest detail.
    fn note_of_the_only_one(&self, found: Result<(), &ConnectFailure>) {
        let mut failing = self.failing();
        *failing = found.err().map(|failure| {
            let since = failing.take().map_or_else(Instant::now, |failing| failing.since);
            Failing { since, detail: failure.detail.clone() }
        });
    }

    fn failing(&self) -> MutexGuard<'_, Option<Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, HealthTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl TargetsId ===

impl TargetsId {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}
