//! The tunnels of a process, by name, and how it is with all of them: what
//! status, metrics and readiness are read from.
//!
//! Whoever runs the tunnels tells it what there is; it starts and stops nothing.
//! A tunnel that was replaced stays in it, next to its successor of the same
//! name, until its last session has ended; both count into the same meters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::protocol::ReloadedReply;
use crate::gate::Stance;
use crate::observe::{Meters, Sessions};
use crate::tunnel::{Status, Tunnel};

/// The tunnels of a process.
pub struct Roster {
    /// When the process started: for people, and to measure by.
    pub started: (SystemTime, Instant),
    /// How many descriptors it may have open.
    pub descriptors: u64,
    sessions: Arc<Sessions>,
    inner: Mutex<Inner>,
}

struct Inner {
    phase: Phase,
    /// In the order in which they were added: a successor comes after whom it replaces.
    tunnels: Vec<Arc<Tunnel>>,
    meters: BTreeMap<String, Arc<Meters>>,
    reload: Option<Reload>,
}

/// How far the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not everything listens yet.
    Starting,
    /// Everything listens.
    Serving,
    /// No new connections are accepted.
    Draining,
}

/// How the last reload went.
#[derive(Clone, Debug)]
pub struct Reload {
    /// When.
    pub at: SystemTime,
    /// What was done, or why nothing was.
    pub result: Result<ReloadedReply, String>,
}

/// All tunnels of one name together.
pub(super) struct Named {
    pub(super) meters: Arc<Meters>,
    /// Of the newest, which shares its limits with those that it replaced.
    pub(super) status: Status,
}

impl Roster {
    /// No tunnel yet, in a process that may have so many `descriptors` open.
    pub fn new(descriptors: u64) -> Arc<Self> {
        Arc::new(Self {
            started: (SystemTime::now(), Instant::now()),
            descriptors,
            sessions: Arc::default(),
            inner: Mutex::new(Inner {
                phase: Phase::Starting,
                tunnels: vec![],
                meters: BTreeMap::new(),
                reload: None,
            }),
        })
    }

    /// What the tunnel `name` counts into: the same for whoever replaces it.
    pub fn meters(&self, name: &str) -> Arc<Meters> {
        let mut inner = self.lock();
        let new = || Meters::new(name, Arc::clone(&self.sessions));
        Arc::clone(inner.meters.entry(name.to_owned()).or_insert_with(new))
    }

    /// Enters a tunnel that serves.
    pub fn add(&self, tunnel: Arc<Tunnel>) {
        let mut inner = self.lock();
        inner.meters.insert(tunnel.name().to_owned(), Arc::clone(tunnel.meters()));
        inner.tunnels.push(tunnel);
    }

    /// Forgets the tunnels that are stopped and have ended, and, where that was the
    /// last one of its name, what it counted.
    pub fn prune(&self) {
        let mut inner = self.lock();
        let Inner { tunnels, meters, .. } = &mut *inner;
        tunnels.retain(|tunnel| !tunnel.is_finished());
        meters.retain(|name, _| tunnels.iter().any(|tunnel| tunnel.name() == name));
    }

    /// All tunnels, those that are replaced and drain included.
    pub fn tunnels(&self) -> Vec<Arc<Tunnel>> {
        self.lock().tunnels.clone()
    }

    /// The live sessions of all tunnels.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The process is that far.
    pub fn set_phase(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    /// How far the process is.
    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Notes how a reload went: what was done, or why nothing was.
    pub fn reloaded(&self, result: Result<ReloadedReply, String>) {
        self.lock().reload = Some(Reload { at: SystemTime::now(), result });
    }

    /// How the last reload went; `None` when there was none.
    pub fn last_reload(&self) -> Option<Reload> {
        self.lock().reload.clone()
    }

    /// Whether a new connection can be served, as far as this process knows
    /// without asking anybody.
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
        self.named().iter().filter(|named| !named.status.draining).try_for_each(Named::ready)
    }

    /// Of each name the newest tunnel, by name.
    pub(super) fn newest(&self) -> Vec<Arc<Tunnel>> {
        self.prune();
        let named = self.tunnels().into_iter().map(|tunnel| (tunnel.name().to_owned(), tunnel));
        named.collect::<BTreeMap<String, _>>().into_values().collect()
    }

    /// The tunnels by name.
    pub(super) fn named(&self) -> Vec<Named> {
        self.prune();
        let mut named: BTreeMap<String, Named> = BTreeMap::new();
        for tunnel in self.tunnels() {
            let (meters, status) = (Arc::clone(tunnel.meters()), tunnel.status());
            named.insert(tunnel.name().to_owned(), Named { meters, status });
        }
        named.into_values().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Named {
    fn ready(&self) -> Result<(), String> {
        let name = self.meters.tunnel();
        if self.status.listeners.is_empty() {
            return Err(format!("tunnel {name} does not listen"));
        }
        match &self.status.gate {
            Some(gate) if gate.policy == Stance::Closed => {
                let why = gate.unavailable.as_deref().unwrap_or("it is not read yet");
                Err(format!(
                    "the gate of tunnel {name} is closed, because its store is away: {why}"
                ))
            }
            _ => Ok(()),
        }
    }
}
