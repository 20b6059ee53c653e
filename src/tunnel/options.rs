//! What one tunnel is told to do. The command line builds it; nothing here
//! knows where it came from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::addr::{Address, BindAddress, ClientAddr, ServiceName, Source};
use crate::gate::{GateOptions, Member, Nets};
use crate::keys::KeyRing;
use crate::probe::Check;
use crate::proto::heartbeat::Heartbeat;
use crate::proto::{Padding, SuiteSet};
use crate::proxy_protocol;

/// One tunnel end: where it listens, where it forwards, with which keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What the log calls it, where a process has several.
    pub name: Option<Arc<str>>,
    /// Which end this is, and its target or targets.
    pub role: Role,
    /// Where to accept connections; at least one.
    pub sources: Vec<Source>,
    /// The keys: the first dials, all are accepted.
    pub keys: KeyRing,
    /// Local address of outgoing connections.
    pub bind: Option<BindAddress>,
    /// How many of what at once.
    pub limits: Limits,
    /// Deadline of a dial, and separately of a handshake in total.
    pub timeout: Duration,
    /// How often target names are resolved again; `None` is never.
    pub resolve_every: Option<Duration>,
    /// Start although names do not resolve yet, and retry every second.
    pub wait_for_dns: bool,
    /// TCP keepalive on every connection.
    pub keepalive: bool,
    /// Block that records are padded to.
    pub padding: Padding,
    /// Record suites that may be used.
    pub suites: SuiteSet,
    /// The longest time without a sign of life on a session; `None` asks for none.
    pub heartbeat: Option<Heartbeat>,
    /// How long a session may be without application data; `None` is for ever.
    pub idle_timeout: Option<Duration>,
    /// How long sessions may finish after the first signal.
    pub drain: Duration,
    /// Who may come in, by address; `None` lets everybody in.
    pub gate: Option<Arc<GateOptions>>,
    /// Load balancers that may, and must, announce their clients' addresses.
    pub proxy_from: Arc<Balancers>,
    /// How the targets of a service are checked (acceptor only).
    pub checks: BTreeMap<ServiceName, Check>,
    /// Sessions on a target that goes down are ended (acceptor only).
    pub close_on_target_down: bool,
    /// How the target is told the client's address (acceptor only).
    pub proxy_to_target: Option<proxy_protocol::Version>,
    /// What the operator should look at twice.
    pub remarks: Vec<Remark>,
}

/// Load balancers, by where they connect from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Balancers {
    /// Their addresses.
    pub nets: Nets<()>,
    /// A peer that comes through a unix socket is one.
    pub unix: bool,
}

impl Balancers {
    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.nets.is_empty() && !self.unix
    }

    /// Whether `peer` is one.
    pub fn contain(&self, peer: ClientAddr) -> bool {
        match peer {
            ClientAddr::Ip(address) => self.nets.lookup(address.ip()).is_some(),
            ClientAddr::Unix => self.unix,
            ClientAddr::Pipe | ClientAddr::Nameless => false,
        }
    }
}

/// What is allowed, but seldom meant: for the first lines of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// A rule of the gate covers very many addresses.
    WideRule {
        /// The flag that it came with.
        flag: &'static str,
        /// What it covers.
        net: Member,
    },
    /// The gate's store is the service behind the gate.
    StoreIsTarget,
    /// A target that is told its clients has those without an address come from its own
    /// loopback, which it may trust.
    LocalClients {
        /// The target.
        target: Address,
    },
}

/// Which end a tunnel is.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// The dialer: plain in, sealed out.
    Encrypt {
        /// The far ends, at least one; the first that works is used.
        targets: Vec<Address>,
        /// The service asked for there; empty is its default target.
        service: ServiceName,
        /// The far end is asked for the service once the client has said something, or for
        /// a while nothing.
        lazy: bool,
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

    /// Where it dials: all far ends, or the targets of all services.
    pub fn targets(&self) -> Vec<&Address> {
        match self {
            Self::Encrypt { targets, .. } => targets.iter().collect(),
            Self::Decrypt { targets } => targets.iter().map(|(_, target)| target).collect(),
        }
    }
}

/// How many of what at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions; `None` is as many as file descriptors allow.
    pub sessions: Option<usize>,
    /// Unproven handshakes (acceptor only).
    pub handshakes: usize,
    /// Tunnels without a session: at the dialer the size of its pool, at the
    /// acceptor how many may wait to be opened.
    pub unopened: usize,
    /// What one source address may have; `None` is no limit.
    pub per_source: Option<PerSource>,
}

/// What one source (an IPv4 address or an IPv6 /64) may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerSource {
    /// Sessions at once.
    pub sessions: usize,
    /// New connections per second, with a burst of as many; `None` is no limit.
    pub per_second: Option<u32>,
}

/// One tunnel that carries standard input and output; always the dialer.
#[derive(Clone, Debug)]
pub struct PipeOptions {
    /// The far end.
    pub target: Address,
    /// The service asked for there; empty is its default target.
    pub service: ServiceName,
    /// The keys: the first dials.
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
    /// The longest time without a sign of life; `None` asks for none.
    pub heartbeat: Option<Heartbeat>,
    /// How long the session may be without application data; `None` is for ever.
    pub idle_timeout: Option<Duration>,
}

/// The targets of each service, in the order in which they were given.
pub(super) fn by_service(
    targets: &[(ServiceName, Address)],
) -> BTreeMap<&ServiceName, Vec<Address>> {
    let mut by_service = BTreeMap::<_, Vec<_>>::new();
    for (service, address) in targets {
        by_service.entry(service).or_default().push(address.clone());
    }
    by_service
}
