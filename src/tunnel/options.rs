//! Settings of one tunnel. The command line makes them; nothing here knows their origin.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::handshake::HandshakeConfig;
use crate::addr::{Address, BindAddress, ServiceName, Source};
use crate::frontend::{Balancers, PerSource};
use crate::gate::{GateOptions, Member};
use crate::keys::KeyRing;
use crate::knock::ReceiverOptions;
use crate::knocker::KnockWish;
use crate::net::{ResolveOptions, SocketOptions};
use crate::observe::SentKnockMeters;
use crate::proto::heartbeat::Heartbeat;
use crate::proto::{Padding, SuiteSet};
use crate::proxy_protocol;
use crate::upstream::probe::Check;
use crate::upstream::{DialOptions, UpstreamOptions};

/// One tunnel end: its sources, targets, keys and limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Its name in the log, where a process has several.
    pub name: Option<Arc<str>>,
    /// The end, with its targets.
    pub role: Role,
    /// Places to accept connections at; at least one.
    pub sources: Vec<Source>,
    /// Keys: the first is used to dial, all are accepted.
    pub keys: KeyRing,
    /// Local address of outgoing connections.
    pub bind: Option<BindAddress>,
    /// Limits of connections at once.
    pub limits: Limits,
    /// Deadline of a dial, and separately of a handshake in total.
    pub timeout: Duration,
    /// Interval at which target names are resolved again; `None` is never.
    pub resolve_every: Option<Duration>,
    /// Start although names do not resolve yet, and retry every second.
    pub wait_for_dns: bool,
    /// TCP keepalive on every connection.
    pub keepalive: bool,
    /// Block that records are padded to.
    pub padding: Padding,
    /// Record suites that may be used.
    pub suites: SuiteSet,
    /// Longest time without a heartbeat on a session; `None` disables them.
    pub heartbeat: Option<Heartbeat>,
    /// Longest time that a session may be without application data; `None` is for ever.
    pub idle_timeout: Option<Duration>,
    /// Time that sessions have to finish after the first signal.
    pub drain: Duration,
    /// The gate, which decides by address; `None` admits every client.
    pub gate: Option<Arc<GateOptions>>,
    /// Receiver of knocks, which needs a gate (acceptor only).
    pub knock: Option<Arc<ReceiverOptions>>,
    /// Load balancers that may, and must, announce their clients' addresses.
    pub proxy_from: Arc<Balancers>,
    /// Checks of the targets of a service (acceptor only).
    pub checks: BTreeMap<ServiceName, Check>,
    /// Sessions on a target that goes down are ended (acceptor only).
    pub close_on_target_down: bool,
    /// Version of the PROXY header that tells the target the client's address (acceptor only).
    pub proxy_to_target: Option<proxy_protocol::Version>,
    /// Valid but suspicious settings, for the log.
    pub warnings: Vec<ConfigWarning>,
}

/// Valid but suspicious settings, logged at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigWarning {
    /// A rule of the gate covers very many addresses.
    WideRule {
        /// The flag that it came with.
        flag: &'static str,
        /// The addresses that it covers.
        net: Member,
    },
    /// The gate's store is the service behind the gate.
    StoreIsTarget,
    /// A target that gets PROXY headers sees clients without an address as connections from its own
    /// loopback, which it may trust.
    LocalClients {
        /// The target.
        target: Address,
    },
}

/// End of a tunnel.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// The dialer: plain in, sealed out.
    Encrypt {
        /// The far ends, at least one; the first that works is used.
        targets: Vec<Address>,
        /// The service asked for there; empty is its default target.
        service: ServiceName,
        /// The far end is asked for the service only once the client has sent something, or was
        /// silent for a while.
        lazy: bool,
        /// Text of the knocks at the gates of the far ends, if it knocks.
        knock: Option<KnockWish>,
    },
    /// The acceptor: sealed in, plain out.
    Decrypt {
        /// Targets by service name; the empty name is the default target. Of several
        /// with one name the first that works is used.
        targets: Vec<(ServiceName, Address)>,
    },
}

impl Role {
    /// `encrypt` or `decrypt`.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Encrypt { .. } => "encrypt",
            Self::Decrypt { .. } => "decrypt",
        }
    }

    /// Returns whether it knocks at the gates of far ends.
    pub fn knocks(&self) -> bool {
        matches!(self, Self::Encrypt { knock: Some(_), .. })
    }

    /// Returns the addresses that it dials: all far ends, or the targets of all services.
    pub fn targets(&self) -> Vec<&Address> {
        match self {
            Self::Encrypt { targets, .. } => targets.iter().collect(),
            Self::Decrypt { targets } => targets.iter().map(|(_, target)| target).collect(),
        }
    }
}

/// Limits of connections at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions; `None` is as many as file descriptors allow.
    pub sessions: Option<usize>,
    /// Unproven handshakes (acceptor only).
    pub handshakes: usize,
    /// Tunnels without a session: at the dialer the size of its pool, at the
    /// acceptor those that may wait to be opened.
    pub unopened: usize,
    /// Allowance of one source address; `None` is no limit.
    pub per_source: Option<PerSource>,
}

/// One tunnel that carries standard input and output; always the dialer.
#[derive(Clone, Debug)]
pub struct PipeOptions {
    /// The far end.
    pub target: Address,
    /// The service asked for there; empty is its default target.
    pub service: ServiceName,
    /// Keys: the first is used to dial.
    pub keys: KeyRing,
    /// Local address of the connection.
    pub bind: Option<BindAddress>,
    /// Deadline of the dial, and separately of the handshake in total.
    pub timeout: Duration,
    /// TCP keepalive on the connection.
    pub keepalive: bool,
    /// Block that records are padded to.
    pub padding: Padding,
    /// Record suites that may be used.
    pub suites: SuiteSet,
    /// Longest time without a heartbeat; `None` disables them.
    pub heartbeat: Option<Heartbeat>,
    /// Longest time that the session may be without application data; `None` is for ever.
    pub idle_timeout: Option<Duration>,
    /// Text of the knocks at the far end's gate, if it knocks.
    pub knock: Option<KnockWish>,
}

/// Settings of the knocks at a far end, beside the key.
#[derive(Clone)]
pub(super) struct SentKnockOptions {
    pub(super) wish: KnockWish,
    pub(super) bind: Option<BindAddress>,
    /// Name of the tunnel in the log, where a process has several.
    pub(super) tunnel: Option<Arc<str>>,
    pub(super) meters: Arc<SentKnockMeters>,
}

impl Options {
    /// Returns the settings of the targets of one service, or of its far ends.
    pub(super) fn upstream<'a>(
        &self,
        service: &'a ServiceName,
        addresses: &'a [Address],
        longest_pause: Duration,
    ) -> UpstreamOptions<'a> {
        UpstreamOptions {
            tunnel: self.name.clone(),
            service,
            addresses,
            resolve: ResolveOptions { every: self.resolve_every, wait: self.wait_for_dns },
            // An encrypt end has no checks.
            check: self.checks.get(service).cloned(),
            longest_pause,
            ends_sessions: self.close_on_target_down,
            timeout: self.timeout,
        }
    }

    /// Returns the options of its dials.
    pub(super) fn dial_options(&self) -> DialOptions {
        let socket = SocketOptions { keepalive: self.keepalive };
        DialOptions { bind: self.bind, socket, proxy: self.proxy_to_target }
    }

    /// Returns the settings of its handshakes.
    pub(super) fn handshake(&self) -> HandshakeConfig {
        HandshakeConfig::of(self.keys.clone(), self.suites, self.padding, self.heartbeat)
    }

    /// Returns the settings of its knocks, which `meters` counts, if it knocks.
    pub(super) fn knocks(&self, meters: Arc<SentKnockMeters>) -> Option<SentKnockOptions> {
        let Role::Encrypt { knock: Some(wish), .. } = &self.role else { return None };
        let wish = wish.clone();
        Some(SentKnockOptions { wish, bind: self.bind, tunnel: self.name.clone(), meters })
    }
}

impl PipeOptions {
    /// Returns the options of its dial.
    pub(super) fn dial_options(&self) -> DialOptions {
        let socket = SocketOptions { keepalive: self.keepalive };
        DialOptions { bind: self.bind, socket, proxy: None }
    }

    /// Returns the settings of its handshake.
    pub(super) fn handshake(&self) -> HandshakeConfig {
        HandshakeConfig::of(self.keys.clone(), self.suites, self.padding, self.heartbeat)
    }

    /// Returns the settings of its knocks, if it knocks.
    pub(super) fn knocks(&self) -> Option<SentKnockOptions> {
        let wish = self.knock.clone()?;
        Some(SentKnockOptions { wish, bind: self.bind, tunnel: None, meters: Arc::default() })
    }
}

/// Sorts targets by service, in the order in which they were given.
pub(super) fn by_service(
    targets: &[(ServiceName, Address)],
) -> BTreeMap<&ServiceName, Vec<Address>> {
    let mut by_service = BTreeMap::<_, Vec<_>>::new();
    for (service, address) in targets {
        by_service.entry(service).or_default().push(address.clone());
    }
    by_service
}
