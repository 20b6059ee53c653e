//! From options to a tunnel that can serve: limits that can be met, names that resolve.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::decrypt::Exit;
use super::encrypt::Entrance;
use super::options::{Limits, Options, PerSource, Role};
use super::pool::{self, Pool};
use super::secure::{Caller, Doorkeeper, Memory, Terms};
use super::serve::{Shared, Tunnel, Way};
use super::targets::Targets;
use crate::addr::{Address, ServiceName};
use crate::gate::Gate;
use crate::net::{
    Handshakes, PER_SESSION, RESERVED, ResolveError, Slots, SocketOptions, Sources,
    sessions_that_fit,
};
use crate::observe::failures::Failures;
use crate::observe::metrics::Meters;
use crate::proto::aead::suites_of_this_machine;

/// The longest pause between two looks at a target that is down, which never
/// hears of them.
const LOOK_AT_TARGETS: Duration = Duration::from_secs(5);

/// The same for far ends, where each is a handshake that may fail.
const LOOK_AT_FAR_ENDS: Duration = Duration::from_secs(30);

/// What this process can hold, given its file descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Sessions at once.
    pub sessions: usize,
    /// Peers at once that have proven nothing. At the dialer those that it waits
    /// for or sends away; zero without a gate and without load balancers.
    pub handshakes: usize,
    /// Tunnels without a session: at the dialer those of its pool, at the acceptor
    /// those that wait to be opened.
    pub unopened: usize,
    /// File descriptors.
    pub descriptors: u64,
}

/// Too few file descriptors for a single session.
#[derive(Debug, thiserror::Error)]
#[error("{0} file descriptors are too few for a session; raise the limit with ulimit -n")]
pub struct TooFewDescriptors(u64);

impl Capacity {
    /// What each of several tunnels in one process can hold. Where all together ask
    /// for more than there is, each gets a share of what it asks for.
    ///
    /// # Errors
    /// [`TooFewDescriptors`].
    pub fn of_all(plan: &[Options], descriptors: u64) -> Result<Vec<Self>, TooFewDescriptors> {
        let asked: Vec<u64> =
            plan.iter().map(|options| descriptors_for(options).min(descriptors)).collect();
        let total = asked.iter().sum::<u64>().max(descriptors);
        let share = |asked: u64| {
            // Rounded down, so that the sum stays below.
            let share = u128::from(descriptors) * u128::from(asked) / u128::from(total.max(1));
            u64::try_from(share).unwrap_or(descriptors)
        };
        let spare = |of: u64| if plan.len() == 1 { descriptors } else { share(of) };
        plan.iter().zip(asked).map(|(options, of)| Self::of(options, spare(of))).collect()
    }

    /// What `options` ask for, as far as `descriptors` allow. Strangers get at
    /// most a quarter of them, and tunnels without a session an eighth, so that
    /// they cannot take the sessions'.
    ///
    /// # Errors
    /// [`TooFewDescriptors`].
    pub fn of(options: &Options, descriptors: u64) -> Result<Self, TooFewDescriptors> {
        let part = |of: u64| usize::try_from(descriptors / of).unwrap_or(usize::MAX);
        let unopened = options.limits.unopened.min(part(8));
        let handshakes = match options.role {
            Role::Encrypt { .. } if options.gate.is_none() && options.proxy_from.is_empty() => 0,
            _ => options.limits.handshakes.min(part(4)),
        };
        // A pool makes some more before it lets as many go.
        let making = match options.role {
            Role::Encrypt { .. } if unopened > 0 => pool::AT_ONCE,
            _ => 0,
        };
        let fit = sessions_that_fit(descriptors, handshakes + unopened + making);
        if fit == 0 {
            return Err(TooFewDescriptors(descriptors));
        }
        let sessions = options.limits.sessions.map_or(fit, |asked| asked.min(fit));
        Ok(Self { sessions, handshakes, unopened, descriptors })
    }

    /// Says what was asked for and cannot be met.
    pub fn warn_if_less_than(&self, options: &Options) {
        let Self { sessions, handshakes, unopened, descriptors } = *self;
        let tunnel = options.name.as_deref();
        if let Some(asked) = options.limits.sessions.filter(|asked| *asked > sessions) {
            tracing::warn!(
                tunnel,
                asked,
                sessions,
                descriptors,
                detail = "raise ulimit -n, or lower -n",
                "not enough file descriptors for the limit of sessions"
            );
        }
        let asked = options.limits.handshakes;
        if matches!(options.role, Role::Decrypt { .. }) && asked > handshakes {
            tracing::warn!(
                tunnel,
                asked,
                handshakes,
                descriptors,
                detail = "raise ulimit -n, or lower --max-handshakes",
                "not enough file descriptors for the limit of handshakes"
            );
        }
        let asked = options.limits.unopened;
        if asked > unopened {
            let detail = match options.role {
                Role::Encrypt { .. } => "raise ulimit -n, or lower --pool",
                Role::Decrypt { .. } => "raise ulimit -n, or lower --max-unopened",
            };
            tracing::warn!(
                tunnel,
                asked,
                unopened,
                descriptors,
                detail,
                "not enough file descriptors for as many warm tunnels"
            );
        }
    }
}

/// What a tunnel needs beside its options, some of which may not be there: the
/// addresses of its targets, a gate, what it counts into.
pub struct Parts {
    place: Where,
    gate: Option<Gate>,
    meters: Arc<Meters>,
}

enum Where {
    FarEnds(Arc<Targets>),
    /// What strangers say is remembered from here on, also before they are served.
    Targets(BTreeMap<ServiceName, Arc<Targets>>, Arc<Memory>),
}

/// How many descriptors a tunnel would like to have.
fn descriptors_for(options: &Options) -> u64 {
    let Limits { sessions, handshakes, unopened, .. } = options.limits;
    let Some(sessions) = sessions else { return u64::MAX };
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let unproven = count(handshakes + unopened + pool::AT_ONCE);
    let asked = RESERVED + count(sessions).saturating_mul(PER_SESSION) + unproven;
    // Strangers and unopened tunnels get theirs only as a part of all.
    asked.max(4 * count(handshakes)).max(8 * count(unopened))
}

impl Parts {
    /// Resolves the targets of a tunnel that has the name of `meters`.
    ///
    /// # Errors
    /// [`ResolveError`] when a name does not resolve, unless told to wait.
    pub async fn get(
        options: &Options,
        gate: Option<Gate>,
        meters: Arc<Meters>,
    ) -> Result<Self, ResolveError> {
        let place = match &options.role {
            Role::Encrypt { targets, service } => {
                let far_ends = Targets::start((service, targets), LOOK_AT_FAR_ENDS, options);
                Where::FarEnds(Arc::new(far_ends.await?))
            }
            Role::Decrypt { targets } => {
                let mut started = BTreeMap::new();
                for (service, addresses) in by_service(targets) {
                    let targets = Targets::start((service, &addresses), LOOK_AT_TARGETS, options);
                    started.insert(service.clone(), Arc::new(targets.await?));
                }
                Where::Targets(started, Memory::begin())
            }
        };
        Ok(Self { place, gate, meters })
    }
}

impl Tunnel {
    /// A tunnel that holds what `capacity` says. Whoever has a slot, a place or a
    /// count of `before`, in whose place it serves, goes on having it here, and
    /// who was let in is judged by its gate.
    pub fn new(options: &Options, parts: Parts, capacity: Capacity, before: Option<&Self>) -> Self {
        let terms = Terms {
            keys: options.keys.clone(),
            suites: options.suites.and(suites_of_this_machine()),
            padding: options.padding,
        };
        let service = match &options.role {
            Role::Encrypt { service, .. } => service.clone(),
            Role::Decrypt { .. } => ServiceName::default(),
        };
        let way = match parts.place {
            Where::FarEnds(far_ends) => Way::In(Arc::new(Entrance {
                callers: callers(&terms, &far_ends, before),
                far_ends,
                service,
                pool: Pool::new(capacity.unopened, options.name.clone(), parts.meters.pool.clone()),
            })),
            Where::Targets(targets, memory) => Way::Out(Arc::new(Exit {
                door: door(terms, memory, before),
                unopened: Slots::new(capacity.unopened),
                targets,
            })),
        };
        let gate = parts.gate.map(|gate| match before.and_then(Self::gate) {
            Some(old) => gate.succeeding(old),
            None => gate.another(),
        });
        let shared = Arc::new(shared(options, capacity, (gate, parts.meters), before));
        let (tasks, listening) = (TaskTracker::new(), Mutex::default());
        let tunnel = Self { shared, way, tasks, listening };
        tunnel.set_capacity(capacity);
        tunnel
    }

    /// Changes how many sessions, strangers and warm tunnels there may be. Sessions
    /// and strangers that are there stay.
    pub fn set_capacity(&self, capacity: Capacity) {
        self.shared.slots.set_limit(capacity.sessions);
        self.shared.places.set_limit(capacity.handshakes);
        match &self.way {
            Way::In(entrance) => entrance.pool.set_size(capacity.unopened),
            Way::Out(exit) => exit.unopened.set_limit(capacity.unopened),
        }
    }

    /// The gate that it asks.
    pub fn gate(&self) -> Option<&Gate> {
        self.shared.gate.as_ref()
    }
}

/// The targets of each service, in the order in which they were given.
fn by_service(targets: &[(ServiceName, Address)]) -> BTreeMap<&ServiceName, Vec<Address>> {
    let mut by_service = BTreeMap::<_, Vec<_>>::new();
    for (service, address) in targets {
        by_service.entry(service).or_default().push(address.clone());
    }
    by_service
}

/// How to call each far end; its clock is known if it was called before.
fn callers(terms: &Terms, far_ends: &Targets, before: Option<&Tunnel>) -> Vec<Caller> {
    let known = match before.map(|before| &before.way) {
        Some(Way::In(entrance)) => Some(entrance),
        _ => None,
    };
    let caller = |name: &str| {
        let old = known.and_then(|entrance| entrance.caller_of(name));
        let terms = terms.clone();
        old.map_or_else(|| Caller::new(terms.clone()), |old| Caller::succeeding(terms.clone(), old))
    };
    (0..far_ends.count()).map(|place| caller(&far_ends.at(place).name)).collect()
}

fn door(terms: Terms, memory: Arc<Memory>, before: Option<&Tunnel>) -> Doorkeeper {
    match before.map(|before| &before.way) {
        Some(Way::Out(exit)) => Doorkeeper::succeeding(terms, &exit.door),
        _ => Doorkeeper::new(terms, memory),
    }
}

/// Whoever holds a slot, a place or a count of `before` goes on holding it here.
fn shared(
    options: &Options,
    capacity: Capacity,
    (gate, meters): (Option<Gate>, Arc<Meters>),
    before: Option<&Tunnel>,
) -> Shared {
    let per_source = options.limits.per_source;
    let before = before.map(|before| &*before.shared);
    let (arrivals, guests) = sources(per_source, before);
    Shared {
        name: options.name.clone(),
        slots: before.map_or_else(|| Slots::new(capacity.sessions), |before| before.slots.clone()),
        places: before
            .map_or_else(|| Handshakes::new(capacity.handshakes), |before| before.places.clone()),
        limit_reached: Notify::new(),
        arrivals,
        guests,
        per_source,
        failures: before.map_or_else(
            || Arc::new(Failures::of(options.name.clone())),
            |before| Arc::clone(&before.failures),
        ),
        meters,
        gate,
        proxy_to_target: options.proxy_to_target,
        proxy_from: Arc::clone(&options.proxy_from),
        drain: options.drain,
        socket: SocketOptions { keepalive: options.keepalive },
        bind: options.bind,
        timeout: options.timeout,
        stop: CancellationToken::new(),
        cut: CancellationToken::new(),
    }
}

/// Who counts connections per second, and who sessions at once: those that
/// counted before, so that a new limit forgets nobody.
fn sources(
    limit: Option<PerSource>,
    before: Option<&Shared>,
) -> (Option<Sources>, Option<Sources>) {
    if let Some(before) = before.filter(|before| before.per_source == limit) {
        return (before.arrivals.clone(), before.guests.clone());
    }
    let going_on = |old: Option<&Sources>, sessions, rate| match old {
        Some(old) => {
            old.set_limits(sessions, rate);
            old.clone()
        }
        None => Sources::new(sessions, rate, Instant::now()),
    };
    let arrivals = limit.and_then(|per| per.per_second).map(|rate| {
        let old = before.and_then(|before| before.arrivals.as_ref());
        going_on(old, usize::MAX, Some(rate))
    });
    let guests = limit.map(|per| {
        let old = before.and_then(|before| before.guests.as_ref());
        going_on(old, per.sessions, None)
    });
    (arrivals, guests)
}
