//! What a tunnel can tell about itself at any moment: read from its limits, its
//! targets, its pool and its gate when somebody asks, and kept nowhere.

use std::sync::{Arc, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::options::Balancers;
use super::serve::{Tunnel, Way};
use super::targets::TargetHealth;
use crate::gate::{Gate, GateStatus};
use crate::keys::KeyId;
use crate::net::{AsyncListener, Handshakes, Slots};
use crate::observe::Meters;

/// A tunnel at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// `encrypt` or `decrypt`.
    pub mode: &'static str,
    /// No new connections are accepted.
    pub draining: bool,
    /// Its socket.
    pub listeners: Vec<String>,
    /// Where it forwards, and how that is doing.
    pub targets: Vec<TargetHealth>,
    /// The public names of its keys, in order.
    pub keys: Vec<KeyId>,
    /// Sessions.
    pub sessions: Level,
    /// Connections that have proven nothing and are waited for.
    pub handshakes: Level,
    /// Tunnels that wait to be opened (acceptor only).
    pub unopened: Option<Level>,
    /// Warm tunnels (dialer with a pool only): how many, of how many.
    pub pool: Option<(usize, usize)>,
    /// The gate, where there is one.
    pub gate: Option<GateStatus>,
}

/// How full a limit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// So many now.
    pub now: usize,
    /// So many at once at most, so far.
    pub most: usize,
    /// So many there may be.
    pub limit: usize,
}

impl Level {
    fn of_slots(slots: &Slots) -> Self {
        Self { now: slots.used(), most: slots.high_water(), limit: slots.limit() }
    }

    fn of_places(places: &Handshakes) -> Self {
        Self { now: places.used(), most: places.high_water(), limit: places.limit() }
    }
}

impl Tunnel {
    /// Its name.
    pub fn name(&self) -> &str {
        self.shared.meters.tunnel()
    }

    /// What it counts.
    pub fn meters(&self) -> &Arc<Meters> {
        &self.shared.meters
    }

    /// The load balancers that have to announce their clients to it.
    pub fn balancers(&self) -> &Balancers {
        &self.shared.proxy_from
    }

    /// What can be said of it now.
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        let (mode, keys, unopened, pool) = match &self.way {
            Way::In(entrance) => {
                let pool = Some(entrance.pool.warm()).filter(|(_, size)| *size > 0);
                ("encrypt", entrance.callers[0].key_ids(), None, pool)
            }
            Way::Out(exit) => {
                let unopened = Level::of_slots(&exit.unopened);
                ("decrypt", exit.door.key_ids(), Some(unopened), None)
            }
        };
        Status {
            mode,
            draining: shared.stop.is_cancelled(),
            listeners: self.listening().clone(),
            targets: self.health(),
            keys,
            sessions: Level::of_slots(&shared.slots),
            handshakes: Level::of_places(&shared.places),
            unopened,
            pool,
            gate: shared.gate.as_ref().map(Gate::status),
        }
    }

    /// Notes that it listens there.
    pub(super) fn listens(&self, listener: &AsyncListener) {
        self.listening().push(listener.local());
    }

    /// Notes that it does not listen there any more.
    pub(super) fn listens_no_more(&self, listener: &AsyncListener) {
        let address = listener.local();
        let mut listening = self.listening();
        if let Some(place) = listening.iter().position(|other| *other == address) {
            listening.remove(place);
        }
    }

    fn listening(&self) -> MutexGuard<'_, Vec<String>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
