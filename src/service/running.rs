//! A running service of the process.

use std::sync::Arc;

use super::{Capacity, Kind, Prepared, ServiceOptions};
use crate::gate::{EffectivePolicy, Gate};
use crate::net::{AsyncListener, DatagramSocket, SocketOptions};
use crate::observe::Meters;
use crate::tunnel::Tunnel;

/// A running service.
pub enum Service {
    /// A tunnel end.
    Tunnel(Arc<Tunnel>),
}

/// Cause of a service that cannot serve a new connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// It has no listener.
    #[error("{0} does not listen")]
    NoListener(String),
    /// Its gate denies by default, since its store is unavailable.
    #[error("the gate of {name} is closed, because its store is unavailable: {cause}")]
    GateClosed {
        /// Kind and name of the service.
        name: String,
        /// The trouble with the store.
        cause: String,
    },
}

impl Service {
    /// Starts a service, which replaces `before` if there is one: they share their limits, and the
    /// new gate judges the old connections. It accepts once [`Self::listen`] is called.
    pub fn start(
        options: &ServiceOptions,
        parts: Prepared,
        capacity: Capacity,
        before: Option<&Self>,
    ) -> Self {
        let (ServiceOptions::Tunnel(options), Prepared::Tunnel(parts), Capacity::Tunnel(capacity)) =
            (options, parts, capacity);
        let before = before.map(|Self::Tunnel(before)| &**before);
        let tunnel = Arc::new(Tunnel::new(options, parts, capacity, before));
        tunnel.begin();
        Self::Tunnel(tunnel)
    }

    /// Accepts on `listeners` from now on, until it is stopped.
    pub fn listen<'a>(
        &self,
        options: &ServiceOptions,
        listeners: impl Iterator<Item = &'a Arc<AsyncListener>>,
    ) {
        let Self::Tunnel(tunnel) = self;
        for listener in listeners {
            listener.set(&SocketOptions { keepalive: options.keepalive() });
            tunnel.serve(Arc::clone(listener));
        }
    }

    /// Reads knocks from `sockets` from now on, until it is stopped.
    pub fn read_knocks<'a>(&self, sockets: impl Iterator<Item = &'a Arc<DatagramSocket>>) {
        let Self::Tunnel(tunnel) = self;
        sockets.for_each(|socket| tunnel.read_knocks(Arc::clone(socket)));
    }

    /// Changes its limits. Present sessions stay.
    pub fn set_capacity(&self, capacity: Capacity) {
        let (Self::Tunnel(tunnel), Capacity::Tunnel(capacity)) = (self, capacity);
        tunnel.set_capacity(capacity);
    }

    /// Stops accepting. Sessions continue.
    pub fn stop(&self) {
        match self {
            Self::Tunnel(tunnel) => tunnel.stop(),
        }
    }

    /// Waits until every connection of a stopped service has ended.
    pub async fn finished(&self) {
        match self {
            Self::Tunnel(tunnel) => tunnel.finished().await,
        }
    }

    /// Returns true if it is stopped and every connection has ended.
    pub fn is_finished(&self) -> bool {
        match self {
            Self::Tunnel(tunnel) => tunnel.is_finished(),
        }
    }

    /// Ends all connections.
    pub fn cut(&self) {
        match self {
            Self::Tunnel(tunnel) => tunnel.cut(),
        }
    }

    /// Waits until [`Self::cut`] is called.
    pub async fn is_cut(&self) {
        match self {
            Self::Tunnel(tunnel) => tunnel.is_cut().await,
        }
    }

    /// Knocks at once at the gates of far ends, where it knocks at all.
    pub fn knock_again(&self) {
        match self {
            Self::Tunnel(tunnel) => tunnel.knock_again(),
        }
    }

    /// Logs everything that was counted and not logged yet.
    pub fn flush_log(&self) {
        match self {
            Self::Tunnel(tunnel) => tunnel.flush_failures(),
        }
    }

    /// Returns the number of sessions, those of its predecessors included.
    pub fn sessions(&self) -> usize {
        match self {
            Self::Tunnel(tunnel) => tunnel.sessions(),
        }
    }

    /// Returns the peak of its sessions.
    pub fn most_sessions(&self) -> usize {
        match self {
            Self::Tunnel(tunnel) => tunnel.most_sessions(),
        }
    }

    /// Returns its gate.
    pub fn gate(&self) -> Option<&Gate> {
        match self {
            Self::Tunnel(tunnel) => tunnel.gate(),
        }
    }

    /// Returns its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Tunnel(_) => Kind::Tunnel,
        }
    }

    /// Returns its name for operators.
    pub fn name(&self) -> &str {
        self.meters().tunnel()
    }

    /// Returns its counters.
    pub fn meters(&self) -> &Arc<Meters> {
        match self {
            Self::Tunnel(tunnel) => tunnel.meters(),
        }
    }

    /// Returns the tunnel that it is.
    pub fn as_tunnel(&self) -> Option<&Tunnel> {
        match self {
            Self::Tunnel(tunnel) => Some(tunnel),
        }
    }

    /// Checks that a new connection can be served, as far as the process knows without asking
    /// another. A draining service always passes.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn ready(&self) -> Result<(), NotReady> {
        let Self::Tunnel(tunnel) = self;
        let status = tunnel.status();
        let name = || format!("tunnel {}", self.name());
        match &status.gate {
            _ if status.draining => Ok(()),
            _ if status.listeners.is_empty() => Err(NotReady::NoListener(name())),
            Some(gate) if gate.policy == EffectivePolicy::Closed => {
                let cause =
                    gate.unavailable.clone().unwrap_or_else(|| "it is not read yet".to_owned());
                Err(NotReady::GateClosed { name: name(), cause })
            }
            _ => Ok(()),
        }
    }
}
