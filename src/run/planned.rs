//! A running service, and the next set of services: those that stay unchanged, and everything that
//! the others need.
//!
//! The next set is prepared without a change to the running services, so that it can be dropped.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::changed_flags::changed;
use super::knock_sockets::KnockSockets;
use super::listeners::SourceListeners;
use crate::admin::protocol::ChangedReply;
use crate::net::AsyncListener;
use crate::service::{Capacity, Prepared, Service, ServiceOptions};

/// A running service.
pub(super) struct RunningService {
    pub(super) options: ServiceOptions,
    pub(super) capacity: Capacity,
    pub(super) service: Arc<Service>,
    /// Its predecessors, oldest first, as long as they have sessions.
    pub(super) predecessors: Vec<Weak<Service>>,
    pub(super) listeners: Vec<SourceListeners>,
    pub(super) knocks: Vec<KnockSockets>,
}

/// A service of the next set.
pub(super) enum Planned {
    /// The running service at this place, unchanged.
    Same {
        /// Its index among the running services.
        place: usize,
        /// Its share may have changed.
        capacity: Capacity,
    },
    /// A new service, with everything that it needs.
    New(Box<PreparedService>),
}

/// A service that can start.
pub(super) struct PreparedService {
    /// Index of the service that it replaces.
    pub(super) before: Option<usize>,
    pub(super) options: ServiceOptions,
    pub(super) capacity: Capacity,
    pub(super) parts: Prepared,
    pub(super) listeners: Vec<SourceListeners>,
    pub(super) knocks: Vec<KnockSockets>,
    /// It has a source that its predecessor could not listen on.
    pub(super) has_new_listener: bool,
}

impl RunningService {
    /// Changes its share of the descriptors, although nothing else changed.
    pub(super) fn resize(&mut self, capacity: Capacity) {
        if capacity != self.capacity {
            self.capacity = capacity;
            self.service.set_capacity(capacity);
            capacity.warn_if_less_than(&self.options);
        }
    }
}

impl Planned {
    /// Returns the longest time that a new service waits for its gate.
    pub(super) fn patience(&self) -> Duration {
        match self {
            Self::New(prepared) => prepared.options.timeout(),
            Self::Same { .. } => Duration::ZERO,
        }
    }
}

impl PreparedService {
    /// Starts the service, which accepts from now on.
    pub(super) fn start(self, before: Option<&RunningService>) -> RunningService {
        let Self { options, capacity, parts, listeners, knocks, .. } = self;
        let before = before.map(|before| &*before.service);
        let service = Arc::new(Service::start(&options, parts, capacity, before));
        service.read_knocks(knocks.iter().flat_map(|place| &place.sockets));
        service.listen(&options, sockets(&listeners));
        RunningService { options, capacity, service, predecessors: vec![], listeners, knocks }
    }

    /// Names the settings in which it differs from the one that it replaces.
    pub(super) fn changes_from(&self, before: &RunningService) -> ChangedReply {
        ChangedReply {
            tunnel: self.options.display_name().to_owned(),
            settings: changed(&before.options, &self.options, self.has_new_listener),
        }
    }
}

/// Lists the sockets of several sources.
pub(super) fn sockets(listeners: &[SourceListeners]) -> impl Iterator<Item = &Arc<AsyncListener>> {
    listeners.iter().flat_map(|source| &source.listeners)
}
