//! Registry of the process's services, the source of status, metrics and readiness.
//!
//! The supervisor adds services; the registry starts and stops none. A service that was replaced
//! stays in it, next to its successor of the same name, until its last session has ended; both use
//! the same counters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::protocol::ReloadedReply;
use crate::observe::{Meters, Sessions};
use crate::service::{Kind, Service};
use crate::tunnel::Status;

/// The services of a process.
pub struct Registry {
    /// Start of the process.
    pub started: Started,
    /// Number of descriptors that it may have open.
    pub descriptors: u64,
    sessions: Arc<Sessions>,
    inner: Mutex<Inner>,
}

/// A moment, by the wall clock and by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// For people.
    pub at: SystemTime,
    /// For durations.
    pub instant: Instant,
}

struct Inner {
    phase: Phase,
    /// In the order in which they were added: a successor comes after its predecessor.
    services: Vec<Arc<Service>>,
    meters: BTreeMap<String, Arc<Meters>>,
    reload: Option<Reload>,
}

/// Phase of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not everything listens yet.
    Starting,
    /// Everything listens.
    Serving,
    /// No new connections are accepted.
    Draining,
}

/// Outcome of the last reload.
#[derive(Clone, Debug)]
pub struct Reload {
    /// Its end.
    pub at: SystemTime,
    /// The changes, or the reason why nothing was changed.
    pub result: Result<ReloadedReply, String>,
}

/// All tunnels of one name together.
pub(super) struct TunnelView {
    pub(super) kind: Kind,
    pub(super) meters: Arc<Meters>,
    /// Status of the newest, which shares its limits with its predecessors.
    pub(super) status: Status,
}

impl Registry {
    /// Creates a registry without services, in a process with this limit of open `descriptors`.
    pub fn new(descriptors: u64) -> Arc<Self> {
        Arc::new(Self {
            started: Started { at: SystemTime::now(), instant: Instant::now() },
            descriptors,
            sessions: Arc::default(),
            inner: Mutex::new(Inner {
                phase: Phase::Starting,
                services: vec![],
                meters: BTreeMap::new(),
                reload: None,
            }),
        })
    }

    /// Returns the counters of the service `name`, which log lines name if `is_named`: the same
    /// ones for its successors.
    pub fn meters(&self, name: &str, is_named: bool) -> Arc<Meters> {
        let mut inner = self.lock();
        let new = || Meters::with_name(name, is_named, Arc::clone(&self.sessions));
        Arc::clone(inner.meters.entry(name.to_owned()).or_insert_with(new))
    }

    /// Adds a running service.
    pub fn add(&self, service: Arc<Service>) {
        let mut inner = self.lock();
        inner.meters.insert(service.name().to_owned(), Arc::clone(service.meters()));
        inner.services.push(service);
    }

    /// Removes the services that are stopped and have ended, with the counters of a name without
    /// services.
    pub fn prune(&self) {
        let mut inner = self.lock();
        let Inner { services, meters, .. } = &mut *inner;
        services.retain(|service| !service.is_finished());
        meters.retain(|name, _| services.iter().any(|service| service.name() == name));
    }

    /// Returns the live sessions of all services.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Sets the phase of the process.
    pub fn set_phase(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    /// Returns the phase of the process.
    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Records the outcome of a reload: the changes, or the reason why nothing was changed.
    pub fn reloaded(&self, result: Result<ReloadedReply, String>) {
        self.lock().reload = Some(Reload { at: SystemTime::now(), result });
    }

    /// Returns the outcome of the last reload; `None` when there was none.
    pub fn last_reload(&self) -> Option<Reload> {
        self.lock().reload.clone()
    }

    /// Checks that a new connection can be served, as far as this process knows
    /// without asking another.
    ///
    /// # Errors
    /// The reason.
    pub fn ready(&self) -> Result<(), String> {
        match self.phase() {
            Phase::Starting => return Err("starting: not everything listens yet".to_owned()),
            Phase::Draining => {
                return Err("draining: new connections have to go elsewhere".to_owned());
            }
            Phase::Serving => {}
        }
        self.newest().iter().try_for_each(|service| service.ready().map_err(|why| why.to_string()))
    }

    /// Returns the newest service of each name, by name.
    pub(super) fn newest(&self) -> Vec<Arc<Service>> {
        self.prune();
        let services = self.lock().services.clone();
        let named = services.into_iter().map(|service| (service.name().to_owned(), service));
        named.collect::<BTreeMap<String, _>>().into_values().collect()
    }

    /// Returns the tunnels by name.
    pub(super) fn tunnels(&self) -> Vec<TunnelView> {
        let newest = self.newest();
        newest.iter().map(|service| TunnelView::of(service)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TunnelView {
    fn of(service: &Service) -> Self {
        let meters = Arc::clone(service.meters());
        Self { kind: service.kind(), meters, status: service.status() }
    }
}
