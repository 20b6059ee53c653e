//! Services that accept no more, until the last of their sessions has ended.
//!
//! A service that was replaced waits for as long as its sessions take. One that was removed has a
//! deadline, for its own sessions and for those of the services that it replaced: they hold its
//! slots, and its gate judges them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::admin::Registry;
use crate::service::{Service, ServiceOptions};

/// Longest time in which sessions that were cut may tell the far end why.
const GOODBYES: Duration = Duration::from_secs(2);

/// All services that drain.
pub(super) struct Draining {
    registry: Arc<Registry>,
    all: Vec<Entry>,
    /// Each resolves to the number of sessions that were cut.
    families: JoinSet<usize>,
    sessions_cut: usize,
}

struct Entry {
    service: Weak<Service>,
    /// It has no successor that would count its sessions.
    is_last: bool,
}

/// A service that was removed, with its predecessors.
struct Family {
    /// In the order in which they served.
    services: Vec<Arc<Service>>,
    name: Option<Arc<str>>,
    /// Time in which their sessions may finish.
    drain: Duration,
}

impl Draining {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, all: vec![], families: JoinSet::new(), sessions_cut: 0 }
    }

    /// Stops a service that has a successor. Its sessions continue.
    pub(super) fn replaced(&mut self, service: Arc<Service>) {
        service.stop();
        self.add(&service, false);
        let registry = Arc::clone(&self.registry);
        self.families.spawn(async move {
            service.finished().await;
            drop(service);
            registry.prune();
            0
        });
    }

    /// Stops a service that has no successor. Its sessions, and those of its
    /// `predecessors`, may finish within the drain of its `options`.
    pub(super) fn removed(
        &mut self,
        service: Arc<Service>,
        predecessors: &[Weak<Service>],
        options: &ServiceOptions,
    ) {
        service.stop();
        let mut services: Vec<_> = predecessors.iter().filter_map(Weak::upgrade).collect();
        self.add(&service, true);
        services.push(service);
        let family = Family { services, name: options.name().cloned(), drain: options.drain() };
        let registry = Arc::clone(&self.registry);
        self.families.spawn(async move {
            let cut = family.drain().await;
            drop(family);
            registry.prune();
            cut
        });
    }

    fn add(&mut self, service: &Arc<Service>, is_last: bool) {
        self.all.retain(|entry| entry.service.strong_count() > 0);
        self.all.push(Entry { service: Arc::downgrade(service), is_last });
    }

    /// Removes the sessions that were cut so far from the count.
    pub(super) fn forget_cuts(&mut self) {
        while self.families.try_join_next().is_some() {}
    }

    /// Waits until all have ended. Cancel safe.
    pub(super) async fn finished(&mut self) {
        while let Some(cut) = self.families.join_next().await {
            self.sessions_cut += cut.unwrap_or(0);
        }
    }

    /// Ends all sessions now.
    pub(super) async fn cut(&mut self) {
        for Entry { service, is_last } in &self.all {
            let Some(service) = service.upgrade() else { continue };
            self.sessions_cut += if *is_last { service.sessions() } else { 0 };
            service.cut();
        }
        self.finished().await;
    }

    /// Returns the number of sessions that could not finish.
    pub(super) fn sessions_cut(&self) -> usize {
        self.sessions_cut
    }
}

impl Family {
    /// Waits until all of them have ended. Returns the number of sessions that the
    /// deadline cut.
    async fn drain(&self) -> usize {
        let Some(last) = self.services.last() else { return 0 };
        let mut finished = std::pin::pin!(self.finished());
        let sessions_cut = tokio::select! {
            biased;
            () = &mut finished => return close(last, 0),
            () = last.is_cut() => 0,
            sessions_cut = self.cut_when_late(last) => sessions_cut,
        };
        // Best effort: the far ends should get the reason.
        let _ = timeout(GOODBYES, finished).await;
        close(last, sessions_cut)
    }

    async fn finished(&self) {
        for service in &self.services {
            service.finished().await;
        }
    }

    /// Ends the remaining sessions at the deadline. Returns their number.
    async fn cut_when_late(&self, last: &Service) -> usize {
        sleep(self.drain).await;
        let tunnel = self.name.as_deref();
        warn!(tunnel, drain_s = self.drain.as_secs_f64(), "drain deadline reached: ending now");
        // Slots are shared, so these are the sessions of all of them.
        let sessions = last.sessions();
        self.services.iter().for_each(|service| service.cut());
        sessions
    }
}

/// Ends the last of a family. Passes `sessions_cut` on.
fn close(last: &Service, sessions_cut: usize) -> usize {
    last.flush_log();
    if let Some(gate) = last.gate() {
        gate.dismiss();
    }
    sessions_cut
}
