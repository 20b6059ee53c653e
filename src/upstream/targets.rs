//! The targets of one service, or the far ends of an encrypt end: which of them
//! a connection gets.
//!
//! ```text
//!   reach -> those that are not down, in order; then those that are
//!            each has a head start over the next, the first that works is used
//! ```
//!
//! What was learnt of a target is kept for the connections that follow, and a
//! change of it is one log line. A single target without checks keeps nothing:
//! there is nothing to choose. Whether one that is down works again is for
//! `health` to find out, not for a client.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::dialling::Dialling;
use super::options::Options;
use super::rings::TargetsId;
use super::unmade::Unmade;
use crate::addr::{Address, ServiceName};
use crate::net::{
    DialError, News, ResolveError, ResolveOptions, Resolver, Rules, Standing, Standings, State,
    Stream, race,
};
use crate::probe::Check;
use crate::reason::CloseReason;

/// Targets of one service in their order, and what is known of them.
pub(super) struct Targets {
    /// The name of the tunnel, where it has one.
    pub(super) tunnel: Option<Arc<str>>,
    service: ServiceName,
    pub(super) id: TargetsId,
    all: Vec<Target>,
    standings: Mutex<Standings>,
    /// Since when connections fail to get to the only target, of which nothing else is
    /// kept, and why; for operators.
    failing: Mutex<Option<(Instant, String)>>,
    /// One of them is down since a moment ago.
    fell: Notify,
    /// The same, for the sessions on each of them, where these are to end then.
    falls: Mutex<Vec<Fall>>,
    ends_sessions: bool,
    pub(super) check: Option<Check>,
    /// What a target has before the next one is tried.
    pub(super) head_start: Duration,
}

/// Tells the sessions on a target that it is down.
type Fall = Arc<watch::Sender<()>>;

/// Where one is.
pub(super) struct Target {
    resolver: Resolver,
    /// How the log names it.
    pub(super) name: Arc<str>,
}

/// How one of a service's targets is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetHealth {
    /// The service; empty for the default target, and for far ends the one that is asked for.
    pub service: ServiceName,
    /// Its place in the order of the service's targets, from 0.
    pub place: usize,
    /// Its address as it was written.
    pub target: Arc<str>,
    /// What it is taken for, and since when; `None` for a single target without a
    /// check, of which nothing is kept.
    pub state: Option<(State, Instant)>,
    /// Since when connections do not get there, where its state is not kept; `None`
    /// after one that did.
    pub failing: Option<Instant>,
    /// Why it failed last, if it ever did.
    pub last_error: Option<String>,
    /// Whether connections go there first.
    pub in_use: bool,
}

/// No target could be had.
pub(super) struct Unreached {
    /// The one that was tried first.
    pub(super) first: usize,
    /// What became of that one, and the details of all.
    pub(super) why: Unmade,
}

impl Targets {
    /// Resolves `addresses`, which are in order and at least one.
    ///
    /// # Errors
    /// [`ResolveError`], unless told to wait.
    pub(super) async fn start(
        (service, addresses): (&ServiceName, &[Address]),
        longest_pause: Duration,
        options: &Options,
    ) -> Result<Self, ResolveError> {
        let how = ResolveOptions { every: options.resolve_every, wait: options.wait_for_dns };
        let mut all = Vec::with_capacity(addresses.len());
        for address in addresses {
            let resolver = Resolver::start(address.clone(), how).await?;
            all.push(Target { resolver, name: address.to_string().into() });
        }
        // An encrypt end has no checks.
        let check = options.checks.get(service).cloned();
        let every = check.as_ref().map(|check| check.every);
        let rules = Rules { every, longest_pause };
        // All have begun before the deadline, the last with as much time as the others.
        let shares = u32::try_from(all.len()).unwrap_or(u32::MAX).saturating_add(1);
        Ok(Self {
            tunnel: options.name.clone(),
            service: service.clone(),
            id: TargetsId::new(),
            standings: Mutex::new(Standings::new(all.len(), rules, Instant::now())),
            failing: Mutex::default(),
            falls: Mutex::new(all.iter().map(|_| Fall::default()).collect()),
            ends_sessions: options.close_on_target_down,
            all,
            fell: Notify::new(),
            check,
            head_start: options.timeout / shares,
        })
    }

    /// Goes on for the sessions of `old`, as far as their targets are among these.
    pub(super) fn succeed(&self, old: &Self) {
        let (mut falls, olds) = (self.falls(), old.falls());
        for (target, fall) in self.all.iter().zip(&mut *falls) {
            let known = old.all.iter().position(|known| known.name == target.name);
            if let Some(known) = known.and_then(|place| olds.get(place)) {
                *fall = Arc::clone(known);
            }
        }
    }

    /// Resolves when the target at `place` goes down from now on; `None` where sessions do
    /// not end for that.
    pub(super) fn fall_of(&self, place: usize) -> Option<impl Future<Output = ()> + Send + use<>> {
        let mut fall = self.ends_sessions.then(|| self.falls()[place].subscribe())?;
        Some(async move {
            if fall.changed().await.is_err() {
                // Nobody looks at that target any more.
                std::future::pending().await
            }
        })
    }

    fn falls(&self) -> MutexGuard<'_, Vec<Fall>> {
        self.falls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The target at a place in the order of the configuration.
    pub(super) fn at(&self, place: usize) -> &Target {
        &self.all[place]
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Whether there is anything to learn about them.
    pub(super) fn is_watched(&self) -> bool {
        self.all.len() > 1 || self.check.is_some()
    }

    /// Whether a connection may go there while it has the choice.
    pub(super) fn is_wanted(&self, place: usize) -> bool {
        let standings = self.standings();
        standings.in_use().is_none() || standings.all()[place].state != State::Down
    }

    /// The target that the next connection tries first.
    pub(super) fn first(&self) -> usize {
        self.standings().in_use().unwrap_or_default()
    }

    /// The first target that `attempt` succeeds with, and its place. `last` is the one that
    /// is tried after all others that are not down.
    ///
    /// # Errors
    /// [`Unreached`] when it succeeds with none.
    pub(super) async fn reach<T, F>(
        &self,
        last: Option<usize>,
        attempt: impl Fn(usize) -> F,
    ) -> Result<(usize, T), Unreached>
    where
        F: Future<Output = Result<T, Unmade>>,
    {
        let order = if self.is_watched() { self.order(last) } else { vec![0] };
        let first = order[0];
        let began = Instant::now();
        let raced = race(order, self.head_start, attempt).await;
        for &place in &raced.overtaken {
            let seconds = self.head_start.as_secs_f64();
            let detail = format!("no answer within {seconds:.1} s, and the next one had");
            self.failed(place, &Unmade::new(CloseReason::NoAnswer, detail), began);
        }
        for (place, why) in &raced.failed {
            self.failed(*place, why, began);
        }
        match raced.won {
            Some((place, reached)) => {
                self.learn(place, Ok(()), |standings, now| standings.worked(place, now));
                Ok((place, reached))
            }
            None => Err(self.unreached(first, raced.failed)),
        }
    }

    /// The targets in the order in which they are tried, `last` behind all that are not down.
    fn order(&self, last: Option<usize>) -> Vec<usize> {
        let standings = self.standings();
        let mut order = standings.order();
        let is_down = |place: usize| standings.all()[place].state == State::Down;
        order.sort_by_key(|place| (is_down(*place), Some(*place) == last));
        order
    }

    fn unreached(&self, first: usize, failed: Vec<(usize, Unmade)>) -> Unreached {
        let reason = failed.iter().find(|(place, _)| *place == first);
        let reason = reason.map_or(CloseReason::LocalError, |(_, why)| why.reason);
        let detail = match &failed[..] {
            [(_, why)] => why.detail.clone(),
            several => {
                let named = |(place, why): &(usize, Unmade)| {
                    format!("{}: {}", self.all[*place].name, why.detail)
                };
                several.iter().map(named).collect::<Vec<_>>().join(" | ")
            }
        };
        Unreached { first, why: Unmade { reason, detail } }
    }

    /// A connection that began then did not get through.
    pub(super) fn failed(&self, place: usize, why: &Unmade, began: Instant) {
        self.learn(place, Err(why), |standings, now| {
            standings.failed(place, &why.detail, (began, now))
        });
    }

    /// Warns where nobody can be reached at a target, while whoever started this end is
    /// still there to read it. Nothing is learnt of it: the target may just be later.
    /// A unix socket is left alone, since its listener would see a connection.
    pub(super) async fn warn_if_away(
        &self,
        place: usize,
        dialling: &Dialling,
        deadline: tokio::time::Instant,
    ) {
        let target = &self.all[place];
        if matches!(target.resolver.address(), Address::Unix(_)) {
            return;
        }
        // What does not resolve yet has a line of its own, and what this host lacks too.
        let error = match target.touch(dialling, deadline).await {
            Ok(()) | Err(DialError::Unresolved(_) | DialError::Local(_)) => return,
            Err(error) => error,
        };
        let (tunnel, target) = (self.tunnel.as_deref(), &*target.name);
        let service = (!self.service.is_empty()).then(|| tracing::field::display(&self.service));
        warn!(tunnel, target, service, %error, "cannot be reached at the start; clients still try");
    }

    /// What a check or a look at it has found.
    pub(super) fn checked(&self, place: usize, found: Result<(), &Unmade>) {
        self.learn(place, found, |standings, now| {
            standings.checked(place, found.map_err(|why| &*why.detail), now)
        });
    }

    /// Until the next check of a target, or the next look at one that is down.
    pub(super) async fn pause(&self, place: usize) -> Duration {
        loop {
            let fell = self.fell.notified();
            if let Some(pause) = { self.standings().pause(place) } {
                return pause;
            }
            fell.await;
        }
    }

    /// How each of them is doing, in order.
    pub(super) fn health(&self) -> Vec<TargetHealth> {
        let standings = self.standings();
        let in_use = standings.in_use();
        let (failing, why) = self.failing().clone().unzip();
        let all = self.all.iter().zip(standings.all()).enumerate();
        all.map(|(place, (target, Standing { state, since, last_error, .. }))| TargetHealth {
            service: self.service.clone(),
            place,
            target: Arc::clone(&target.name),
            state: self.is_watched().then_some((*state, *since)),
            failing,
            last_error: last_error.clone().or_else(|| why.clone()),
            in_use: in_use == Some(place),
        })
        .collect()
    }

    /// Changes what is known by what was found, and tells what is new.
    fn learn(
        &self,
        place: usize,
        found: Result<(), &Unmade>,
        change: impl FnOnce(&mut Standings, Instant) -> Option<News>,
    ) {
        // What this host lacks says nothing about a target.
        let is_ours = found.is_err_and(|why| why.reason == CloseReason::LocalError);
        if is_ours {
            return;
        }
        if !self.is_watched() {
            return self.learn_of_the_only_one(found);
        }
        let (news, error, using) = {
            let mut standings = self.standings();
            let Some(news) = change(&mut standings, Instant::now()) else { return };
            let error = standings.all()[place].last_error.clone().unwrap_or_default();
            (news, error, standings.in_use().map(|place| &*self.all[place].name))
        };
        let (tunnel, target) = (self.tunnel.as_deref(), &*self.all[place].name);
        let service = (!self.service.is_empty()).then(|| tracing::field::display(&self.service));
        match (news, using) {
            (News::Down, using) => {
                self.fell.notify_waiters();
                if self.ends_sessions {
                    self.falls()[place].send_replace(());
                }
                let detail = using.is_none().then_some("no other is up, so it is still tried");
                warn!(tunnel, target, service, error, using, detail, "target is down");
            }
            (News::Up(after), using) => {
                let down_s = after.as_secs();
                info!(tunnel, target, service, using, down_s, "target is up again");
            }
        }
    }

    /// Keeps the first of failures that nothing came between, with the newest cause.
    fn learn_of_the_only_one(&self, found: Result<(), &Unmade>) {
        let mut failing = self.failing();
        *failing = found.err().map(|why| {
            let since = failing.take().map_or_else(Instant::now, |(since, _)| since);
            (since, why.detail.clone())
        });
    }

    fn failing(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn standings(&self) -> MutexGuard<'_, Standings> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target {
    /// A connection to it.
    ///
    /// # Errors
    /// [`DialError`].
    pub(super) async fn dial(
        &self,
        dialling: &Dialling,
        deadline: tokio::time::Instant,
    ) -> Result<Stream, DialError> {
        dialling.dial(&self.resolver.current()?, deadline).await
    }

    /// Whether somebody listens there, who hears nothing of it.
    ///
    /// # Errors
    /// [`DialError`].
    pub(super) async fn touch(
        &self,
        dialling: &Dialling,
        deadline: tokio::time::Instant,
    ) -> Result<(), DialError> {
        dialling.touch(&self.resolver.current()?, deadline).await
    }
}
