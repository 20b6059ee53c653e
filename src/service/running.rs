//! A running service of the process.

use std::sync::Arc;

use super::{
    Capacity, FirewallNeeds, HttpNeeds, Kind, KnockdNeeds, Prepared, ServiceOptions, WebNeeds,
};
use crate::firewall::Firewall;
use crate::frontend::Balancers;
use crate::gate::{EffectivePolicy, Gate};
use crate::httpgate::{self, HttpGate};
use crate::knock::{KnockReceiver, ReceiverParts};
use crate::knockd::{self, Knockd};
use crate::net::{AsyncListener, DatagramSocket, SocketOptions};
use crate::observe::Meters;
use crate::tunnel::{Level, Status, Tunnel};
use crate::web::{self, Application, Usage, WebParts, WebService, WebStatus};

/// A running service.
pub enum Service {
    /// A tunnel end.
    Tunnel(Arc<Tunnel>),
    /// Knocks over HTTP.
    Knockd(Arc<WebService<Knockd>>),
    /// A gate in front of a web server.
    Http(Arc<WebService<HttpGate>>),
    /// A firewall that follows a gate.
    Firewall(Arc<Firewall>),
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
    /// A firewall may not be as it should be.
    #[error("{name} is not in step: {cause}")]
    NotInStep {
        /// Kind and name of the service.
        name: String,
        /// The trouble with the firewall.
        cause: String,
    },
}

/// Runs the same expression on whichever service this is.
macro_rules! on_each {
    ($self:expr, $service:ident => $body:expr) => {
        match $self {
            Service::Tunnel($service) => $body,
            Service::Knockd($service) => $body,
            Service::Http($service) => $body,
            Service::Firewall($service) => $body,
        }
    };
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
        match (options, parts, capacity) {
            (
                ServiceOptions::Tunnel(options),
                Prepared::Tunnel(parts),
                Capacity::Tunnel(capacity),
            ) => {
                let before = before.and_then(Self::as_tunnel);
                let tunnel = Arc::new(Tunnel::new(options, parts, capacity, before));
                tunnel.begin();
                Self::Tunnel(tunnel)
            }
            (ServiceOptions::Knockd(options), Prepared::Knockd(needs), Capacity::Web(capacity)) => {
                let before = match before {
                    Some(Self::Knockd(before)) => Some(&**before),
                    _ => None,
                };
                let service = Arc::new(start_knockd(options, needs, capacity, before));
                service.begin();
                Self::Knockd(service)
            }
            (ServiceOptions::Http(options), Prepared::Http(needs), Capacity::Web(capacity)) => {
                let before = match before {
                    Some(Self::Http(before)) => Some(&**before),
                    _ => None,
                };
                let service = Arc::new(start_http(options, needs, capacity, before));
                service.begin();
                Self::Http(service)
            }
            (ServiceOptions::Firewall(options), Prepared::Firewall(needs), Capacity::None) => {
                let FirewallNeeds { gate, meters } = needs;
                let before = match before {
                    Some(Self::Firewall(before)) => Some(&**before),
                    _ => None,
                };
                let gate = gate.map(|gate| gate.another()).expect("its options have a gate");
                let service = Arc::new(Firewall::new(options, gate, meters, before));
                service.begin(options);
                Self::Firewall(service)
            }
            _ => unreachable!("options, parts and capacity are of one kind"),
        }
    }

    /// Accepts on `listeners` from now on, until it is stopped.
    pub fn listen<'a>(
        &self,
        options: &ServiceOptions,
        listeners: impl Iterator<Item = &'a Arc<AsyncListener>>,
    ) {
        for listener in listeners {
            listener.set(&SocketOptions { keepalive: options.keepalive() });
            match self {
                Self::Tunnel(tunnel) => tunnel.serve(Arc::clone(listener)),
                Self::Knockd(service) => service.serve(Arc::clone(listener)),
                Self::Http(service) => service.serve(Arc::clone(listener)),
                Self::Firewall(_) => {}
            }
        }
    }

    /// Reads knocks from `sockets` from now on, until it is stopped.
    pub fn read_knocks<'a>(&self, sockets: impl Iterator<Item = &'a Arc<DatagramSocket>>) {
        for socket in sockets {
            match self {
                Self::Tunnel(tunnel) => tunnel.read_knocks(Arc::clone(socket)),
                Self::Knockd(service) => service.read_knocks(Arc::clone(socket)),
                Self::Http(_) | Self::Firewall(_) => {}
            }
        }
    }

    /// Changes its limits. Present sessions stay.
    pub fn set_capacity(&self, capacity: Capacity) {
        match (self, capacity) {
            (Self::Tunnel(tunnel), Capacity::Tunnel(capacity)) => tunnel.set_capacity(capacity),
            (Self::Knockd(service), Capacity::Web(capacity)) => service.set_capacity(capacity),
            (Self::Http(service), Capacity::Web(capacity)) => service.set_capacity(capacity),
            (Self::Firewall(_), Capacity::None) => {}
            _ => unreachable!("service and capacity are of one kind"),
        }
    }

    /// Leaves what it would take away at its end to another process, which goes on with it.
    pub fn leave(&self) {
        if let Self::Firewall(service) = self {
            service.leave();
        }
    }

    /// Stops accepting. Sessions continue.
    pub fn stop(&self) {
        on_each!(self, service => service.stop());
    }

    /// Waits until every connection of a stopped service has ended.
    pub async fn finished(&self) {
        on_each!(self, service => service.finished().await);
    }

    /// Returns true if it is stopped and every connection has ended.
    pub fn is_finished(&self) -> bool {
        on_each!(self, service => service.is_finished())
    }

    /// Ends all connections.
    pub fn cut(&self) {
        on_each!(self, service => service.cut());
    }

    /// Waits until [`Self::cut`] is called.
    pub async fn is_cut(&self) {
        on_each!(self, service => service.is_cut().await);
    }

    /// Knocks at once at the gates of far ends, where it knocks at all.
    pub fn knock_again(&self) {
        self.as_tunnel().into_iter().for_each(Tunnel::knock_again);
    }

    /// Logs everything that was counted and not logged yet.
    pub fn flush_log(&self) {
        match self {
            Self::Tunnel(tunnel) => tunnel.flush_failures(),
            Self::Knockd(service) => service.flush_failures(),
            Self::Http(service) => service.flush_failures(),
            Self::Firewall(_) => {}
        }
    }

    /// Returns the number of sessions, those of its predecessors included.
    pub fn sessions(&self) -> usize {
        match self {
            Self::Tunnel(tunnel) => tunnel.sessions(),
            Self::Knockd(service) => service.sessions(),
            Self::Http(service) => service.sessions(),
            Self::Firewall(_) => 0,
        }
    }

    /// Returns the peak of its sessions.
    pub fn most_sessions(&self) -> usize {
        match self {
            Self::Tunnel(tunnel) => tunnel.most_sessions(),
            Self::Knockd(service) => service.most_sessions(),
            Self::Http(service) => service.most_sessions(),
            Self::Firewall(_) => 0,
        }
    }

    /// Returns its gate.
    pub fn gate(&self) -> Option<&Gate> {
        match self {
            Self::Tunnel(tunnel) => tunnel.gate(),
            Self::Knockd(service) => service.gate(),
            Self::Http(service) => service.gate(),
            Self::Firewall(service) => Some(service.gate()),
        }
    }

    /// Returns its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Tunnel(_) => Kind::Tunnel,
            Self::Knockd(_) => Kind::Knockd,
            Self::Http(_) => Kind::Http,
            Self::Firewall(_) => Kind::Firewall,
        }
    }

    /// Returns its name for operators.
    pub fn name(&self) -> &str {
        self.meters().tunnel()
    }

    /// Returns its counters.
    pub fn meters(&self) -> &Arc<Meters> {
        on_each!(self, service => service.meters())
    }

    /// Returns the load balancers that have to announce their clients.
    pub fn balancers(&self) -> &Balancers {
        on_each!(self, service => service.balancers())
    }

    /// Returns the tunnel that it is.
    pub fn as_tunnel(&self) -> Option<&Tunnel> {
        match self {
            Self::Tunnel(tunnel) => Some(tunnel),
            Self::Knockd(_) | Self::Http(_) | Self::Firewall(_) => None,
        }
    }

    /// Takes a snapshot of it.
    pub fn status(&self) -> Status {
        match self {
            Self::Tunnel(tunnel) => tunnel.status(),
            Self::Knockd(service) => of_web(Kind::Knockd, service.status()),
            Self::Http(service) => of_web(Kind::Http, service.status()),
            Self::Firewall(service) => of_firewall(service),
        }
    }

    /// Checks that a new connection can be served, as far as the process knows without asking
    /// another. A draining service always passes.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn ready(&self) -> Result<(), NotReady> {
        let status = self.status();
        let name = || format!("{} {}", self.kind().as_str(), self.name());
        if let Some(firewall) = &status.firewall {
            let cause = firewall.trouble.clone().filter(|_| !status.draining);
            return cause.map_or(Ok(()), |cause| Err(NotReady::NotInStep { name: name(), cause }));
        }
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

fn start_knockd(
    options: &knockd::Options,
    needs: KnockdNeeds,
    capacity: web::Capacity,
    before: Option<&WebService<Knockd>>,
) -> WebService<Knockd> {
    let KnockdNeeds { web: WebNeeds { gate, meters }, memory } = needs;
    let gate = gate.map(|gate| succeeding(&gate, before)).expect("its options have a gate");
    let before_it = before.map(|before| &**before.application());
    let application = Knockd::new(options, gate.clone(), Arc::clone(&meters), before_it);
    let application = Arc::new(application);
    let gate = Some(gate);
    let parts = WebParts { gate: gate.clone(), asks_at_accept: false, meters, application };
    let service = WebService::new(&options.web, parts, capacity, before);
    let receiver = options.signed.as_ref().zip(gate).map(|(signed, gate)| {
        let frontend = service.frontend();
        KnockReceiver::new(ReceiverParts {
            tunnel: options.web.name.clone(),
            options: Arc::clone(&signed.receiver),
            keys: signed.keys.clone(),
            check_fresh: Box::new(move |message, sent_ms| memory.check(message, sent_ms)),
            gate,
            meters: Arc::clone(&frontend.meters),
            stop: frontend.stop.clone(),
            tasks: frontend.tasks.clone(),
        })
    });
    service.with_knocks(receiver)
}

fn start_http(
    options: &httpgate::Options,
    needs: HttpNeeds,
    capacity: web::Capacity,
    before: Option<&WebService<HttpGate>>,
) -> WebService<HttpGate> {
    let HttpNeeds { web: WebNeeds { gate, meters }, targets } = needs;
    let gate = gate.map(|gate| succeeding(&gate, before)).expect("its options have a gate");
    let parts = httpgate::Parts { gate: gate.clone(), meters: Arc::clone(&meters), targets };
    let before_it = before.map(|before| &**before.application());
    let application = Arc::new(HttpGate::new(options, parts, before_it));
    let asks_at_accept = options.asks_at_accept();
    let parts = WebParts { gate: Some(gate), asks_at_accept, meters, application };
    WebService::new(&options.web, parts, capacity, before)
}

/// Returns the gate of a service that replaces `before`: it judges the connections that were
/// admitted there.
fn succeeding<A: Application>(gate: &Gate, before: Option<&WebService<A>>) -> Gate {
    match before.and_then(WebService::gate) {
        Some(old) => gate.succeeding(old),
        None => gate.another(),
    }
}

/// Returns the snapshot of a service of HTTP in the form that all services have.
fn of_web(kind: Kind, status: WebStatus) -> Status {
    let level = |Usage { now, most, limit }| Level { now, most, limit };
    Status {
        mode: kind.as_str(),
        draining: status.draining,
        listeners: status.listeners,
        targets: status.targets,
        keys: vec![],
        sessions: level(status.connections),
        handshakes: level(status.handshakes),
        unopened: None,
        pool: None,
        is_knocking: false,
        gate: status.gate,
        knock_listeners: status.knock_listeners,
        firewall: None,
    }
}

/// Returns the snapshot of a firewall in the form that all services have.
fn of_firewall(service: &Firewall) -> Status {
    let none = Level { now: 0, most: 0, limit: 0 };
    Status {
        mode: Kind::Firewall.as_str(),
        draining: service.is_draining(),
        listeners: vec![],
        targets: vec![],
        keys: vec![],
        sessions: none,
        handshakes: none,
        unopened: None,
        pool: None,
        is_knocking: false,
        gate: Some(service.gate().status()),
        knock_listeners: None,
        firewall: Some(service.status()),
    }
}
