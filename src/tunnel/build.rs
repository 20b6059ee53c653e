//! From options to a tunnel that can serve: limits that can be met, names that resolve.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::caller::Caller;
use super::capacity::Capacity;
use super::decrypt::Exit;
use super::encrypt::Entrance;
use super::memory::Memory;
use super::options::{Options, Role, by_service};
use super::pool::Pool;
use super::secure::{Doorkeeper, Terms};
use super::serve::{Tunnel, Way};
use super::shared::Shared;
use super::targets::Targets;
use crate::addr::ServiceName;
use crate::gate::Gate;
use crate::net::{ResolveError, Slots};
use crate::observe::metrics::Meters;

/// The longest pause between two looks at a target that is down, which never
/// hears of them.
const LOOK_AT_TARGETS: Duration = Duration::from_secs(5);

/// The same for far ends, where each is a handshake that may fail.
const LOOK_AT_FAR_ENDS: Duration = Duration::from_secs(30);

/// What a tunnel needs beside its options, some of which may not be there: the
/// addresses of its targets, a gate, what it counts into.
pub struct Parts {
    place: Where,
    gate: Option<Gate>,
    meters: Arc<Meters>,
}

enum Where {
    FarEnds(Arc<Targets>),
    Targets(BTreeMap<ServiceName, Arc<Targets>>, Arc<Memory>),
}

impl Parts {
    /// Resolves the targets of a tunnel that has the name of `meters`, and that goes by
    /// the process's `memory` of first messages.
    ///
    /// # Errors
    /// [`ResolveError`] when a name does not resolve, unless told to wait.
    pub async fn get(
        options: &Options,
        gate: Option<Gate>,
        meters: Arc<Meters>,
        memory: &Arc<Memory>,
    ) -> Result<Self, ResolveError> {
        let place = match &options.role {
            Role::Encrypt { targets, service, .. } => {
                let far_ends = Targets::start((service, targets), LOOK_AT_FAR_ENDS, options);
                Where::FarEnds(Arc::new(far_ends.await?))
            }
            Role::Decrypt { targets } => {
                let mut started = BTreeMap::new();
                for (service, addresses) in by_service(targets) {
                    let targets = Targets::start((service, &addresses), LOOK_AT_TARGETS, options);
                    started.insert(service.clone(), Arc::new(targets.await?));
                }
                Where::Targets(started, Arc::clone(memory))
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
        let terms =
            Terms::of(options.keys.clone(), options.suites, options.padding, options.heartbeat);
        let tasks = TaskTracker::new();
        let (service, is_lazy) = match &options.role {
            Role::Encrypt { service, lazy, .. } => (service.clone(), *lazy),
            Role::Decrypt { .. } => (ServiceName::default(), false),
        };
        let way = match parts.place {
            Where::FarEnds(far_ends) => Way::In(Arc::new(Entrance {
                callers: callers(&terms, &far_ends, before),
                far_ends,
                service,
                is_lazy,
                pool: Pool::new(
                    capacity.unopened,
                    options.name.clone(),
                    parts.meters.pool.clone(),
                    tasks.clone(),
                ),
            })),
            Where::Targets(targets, memory) => {
                if let Some(Way::Out(old)) = before.map(|before| &before.way) {
                    for (service, targets) in &targets {
                        if let Some(old) = old.targets.get(service) {
                            targets.succeed(old);
                        }
                    }
                }
                Way::Out(Arc::new(Exit {
                    door: Doorkeeper::new(terms, memory),
                    unopened: Slots::new(capacity.unopened),
                    targets,
                }))
            }
        };
        let gate = parts.gate.map(|gate| match before.and_then(Self::gate) {
            Some(old) => gate.succeeding(old),
            None => gate.another(),
        });
        let parts = (gate, parts.meters, tasks);
        let shared = Shared::new(options, capacity, parts, before.map(|before| &*before.shared));
        let tunnel = Self { shared: Arc::new(shared), way, listening: Mutex::default() };
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

/// How to call each far end; its clock is known if it was called before.
fn callers(terms: &Terms, far_ends: &Targets, before: Option<&Tunnel>) -> Vec<Caller> {
    let known = match before.map(|before| &before.way) {
        Some(Way::In(entrance)) => Some(entrance),
        _ => None,
    };
    let caller = |name: &str| match known.and_then(|entrance| entrance.caller_of(name)) {
        Some(old) => Caller::succeeding(terms.clone(), old),
        None => Caller::new(terms.clone()),
    };
    (0..far_ends.count()).map(|place| caller(&far_ends.at(place).name)).collect()
}
