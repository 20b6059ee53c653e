//! Settings of a service, as far as the process has to know them: its sources, its gate, the number
//! of its descriptors, and the needs that must be met before it starts.
//!
//! Two equal values mean the same service: a reload leaves it alone.

use std::sync::Arc;
use std::time::Duration;

use super::Kind;
use crate::addr::{Address, Source};
use crate::firewall;
use crate::gate::{Gate, GateOptions};
use crate::httpgate;
use crate::keys::KeyRing;
use crate::knock::ReceiverOptions;
use crate::knockd;
use crate::net::{ResolveError, TooFewDescriptors};
use crate::observe::Meters;
use crate::tunnel::{self, ReplayState};
use crate::upstream::Targets;
use crate::web::{self, WebOptions};

/// Settings of a service.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceOptions {
    /// Of a tunnel end.
    Tunnel(tunnel::Options),
    /// Of knocks over HTTP.
    Knockd(knockd::Options),
    /// Of a gate in front of a web server.
    Http(Box<httpgate::Options>),
    /// Of a firewall that follows a gate.
    Firewall(Box<firewall::Options>),
}

/// Limits of a service, given its share of the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// Of a tunnel end.
    Tunnel(tunnel::Capacity),
    /// Of a service of HTTP.
    Web(web::Capacity),
    /// Of a firewall, which has no connections.
    None,
}

/// Share of the process's descriptors for one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Descriptors.
    pub descriptors: u64,
    /// Descriptors that the stores of the gates may take and that are not reserved.
    pub lacking: u64,
}

/// Resources of the process for the preparation of a service.
pub struct Surroundings<'a> {
    /// The gate that the service asks, if it has one.
    pub gate: Option<Gate>,
    /// The counters under its name.
    pub meters: Arc<Meters>,
    /// The first messages that were answered by any service of the process.
    pub memory: &'a Arc<ReplayState>,
}

/// Needs of a service beside its options, which may be missing: resolved targets, a gate.
pub enum Prepared {
    /// Of a tunnel end.
    Tunnel(tunnel::Prepared),
    /// Of knocks over HTTP.
    Knockd(KnockdNeeds),
    /// Of a gate in front of a web server.
    Http(HttpNeeds),
    /// Of a firewall that follows a gate.
    Firewall(FirewallNeeds),
}

/// Needs of the service of knocks over HTTP.
pub struct KnockdNeeds {
    pub(super) web: WebNeeds,
    /// Signed knocks that were granted by any service of the process.
    pub(super) memory: Arc<ReplayState>,
}

/// Needs of a gate in front of a web server.
pub struct HttpNeeds {
    pub(super) web: WebNeeds,
    pub(super) targets: Arc<Targets>,
}

/// Needs of a firewall that follows a gate.
pub struct FirewallNeeds {
    pub(super) gate: Option<Gate>,
    pub(super) meters: Arc<Meters>,
}

/// Needs of a service of HTTP.
pub struct WebNeeds {
    pub(super) gate: Option<Gate>,
    pub(super) meters: Arc<Meters>,
}

impl ServiceOptions {
    /// Returns the kind of the service.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Tunnel(_) => Kind::Tunnel,
            Self::Knockd(_) => Kind::Knockd,
            Self::Http(_) => Kind::Http,
            Self::Firewall(_) => Kind::Firewall,
        }
    }

    /// Returns the settings that all services of HTTP have, where it is one.
    pub fn web(&self) -> Option<&WebOptions> {
        match self {
            Self::Tunnel(_) | Self::Firewall(_) => None,
            Self::Knockd(options) => Some(&options.web),
            Self::Http(options) => Some(&options.web),
        }
    }

    /// Returns the tunnel, where it is one.
    pub fn as_tunnel(&self) -> Option<&tunnel::Options> {
        match self {
            Self::Tunnel(options) => Some(options),
            Self::Knockd(_) | Self::Http(_) | Self::Firewall(_) => None,
        }
    }

    /// Returns the firewall, where it is one.
    pub fn as_firewall(&self) -> Option<&firewall::Options> {
        match self {
            Self::Firewall(options) => Some(options),
            Self::Tunnel(_) | Self::Knockd(_) | Self::Http(_) => None,
        }
    }

    /// Returns the name in the log; `None` where the process has one service only.
    pub fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Tunnel(options) => options.name.as_ref(),
            Self::Knockd(options) => options.web.name.as_ref(),
            Self::Http(options) => options.web.name.as_ref(),
            Self::Firewall(options) => options.name.as_ref(),
        }
    }

    /// Returns the name for operators.
    pub fn display_name(&self) -> &str {
        let of_kind = match self {
            Self::Tunnel(options) => options.role.mode(),
            Self::Knockd(_) | Self::Http(_) | Self::Firewall(_) => self.kind().as_str(),
        };
        self.name().map_or(of_kind, |name| name)
    }

    /// Returns the addresses and inherited sockets that it listens on.
    pub fn sources(&self) -> &[Source] {
        match self {
            Self::Tunnel(options) => &options.sources,
            Self::Knockd(options) => &options.web.sources,
            Self::Http(options) => &options.web.sources,
            Self::Firewall(_) => &[],
        }
    }

    /// Returns the settings of its gate.
    pub fn gate(&self) -> Option<&Arc<GateOptions>> {
        match self {
            Self::Tunnel(options) => options.gate.as_ref(),
            Self::Knockd(options) => Some(&options.gate),
            Self::Http(options) => Some(&options.gate),
            Self::Firewall(options) => Some(&options.gate),
        }
    }

    /// Returns the addresses that it forwards to.
    pub fn targets(&self) -> Vec<&Address> {
        match self {
            Self::Tunnel(options) => options.role.targets(),
            Self::Knockd(_) | Self::Firewall(_) => vec![],
            Self::Http(options) => options.targets.iter().map(|it| &it.address).collect(),
        }
    }

    /// Returns the settings of its receiver of knocks.
    pub fn knock(&self) -> Option<&Arc<ReceiverOptions>> {
        match self {
            Self::Tunnel(options) => options.knock.as_ref(),
            Self::Knockd(options) => options.signed.as_ref().map(|signed| &signed.receiver),
            Self::Http(_) | Self::Firewall(_) => None,
        }
    }

    /// Returns the keys that have to stay in memory.
    pub fn keys(&self) -> Option<&KeyRing> {
        match self {
            Self::Tunnel(options) => Some(&options.keys),
            Self::Knockd(options) => options.signed.as_ref().map(|signed| &signed.keys),
            Self::Http(_) | Self::Firewall(_) => None,
        }
    }

    /// Returns true if it starts although names do not resolve yet.
    pub fn waits_for_dns(&self) -> bool {
        match self {
            Self::Tunnel(options) => options.wait_for_dns,
            Self::Knockd(_) | Self::Firewall(_) => false,
            Self::Http(options) => options.wait_for_dns,
        }
    }

    /// Returns true if connections have TCP keepalive.
    pub fn keepalive(&self) -> bool {
        match self {
            Self::Tunnel(options) => options.keepalive,
            Self::Knockd(options) => options.web.keepalive,
            Self::Http(options) => options.web.keepalive,
            Self::Firewall(_) => false,
        }
    }

    /// Returns the longest wait for a peer, and for the first read of the gate's store.
    pub fn timeout(&self) -> Duration {
        match self {
            Self::Tunnel(options) => options.timeout,
            Self::Knockd(options) => options.web.timeout,
            Self::Http(options) => options.web.timeout,
            Self::Firewall(options) => options.timeout,
        }
    }

    /// Returns the time in which sessions may finish once the service is gone.
    pub fn drain(&self) -> Duration {
        match self {
            Self::Tunnel(options) => options.drain,
            Self::Knockd(options) => options.web.drain,
            Self::Http(options) => options.web.drain,
            Self::Firewall(_) => firewall::LAST_CHANGE,
        }
    }

    /// Returns the number of descriptors that it asks for; `u64::MAX` is as many as there are.
    pub fn need(&self) -> u64 {
        match self {
            Self::Tunnel(options) => tunnel::Capacity::asked(options),
            Self::Knockd(options) => web::Capacity::asked(&options.web, web::Needs::ALONE),
            Self::Http(options) => web::Capacity::asked(&options.web, options.needs()),
            Self::Firewall(_) => firewall::DESCRIPTORS,
        }
    }

    /// Returns what it can hold with a share of the descriptors.
    ///
    /// # Errors
    /// [`TooFewDescriptors`]
    pub fn capacity(&self, share: Share) -> Result<Capacity, TooFewDescriptors> {
        let Share { descriptors, lacking } = share;
        match self {
            Self::Tunnel(options) => {
                let capacity = tunnel::Capacity::of(options, descriptors)?;
                Ok(Capacity::Tunnel(tunnel::Capacity { lacking, ..capacity }))
            }
            Self::Knockd(options) => {
                let capacity = web::Capacity::of(&options.web, descriptors, web::Needs::ALONE)?;
                Ok(Capacity::Web(web::Capacity { lacking, ..capacity }))
            }
            Self::Http(options) => {
                let capacity = web::Capacity::of(&options.web, descriptors, options.needs())?;
                Ok(Capacity::Web(web::Capacity { lacking, ..capacity }))
            }
            Self::Firewall(_) => Ok(Capacity::None),
        }
    }

    /// Obtains everything that may be missing, before anything changes.
    ///
    /// # Errors
    /// [`ResolveError`] when a name does not resolve, unless the options say to wait.
    pub async fn prepare(&self, surroundings: Surroundings<'_>) -> Result<Prepared, ResolveError> {
        let Surroundings { gate, meters, memory } = surroundings;
        match self {
            Self::Tunnel(options) => {
                tunnel::Prepared::get(options, gate, meters, memory).await.map(Prepared::Tunnel)
            }
            Self::Knockd(_) => {
                let web = WebNeeds { gate, meters };
                Ok(Prepared::Knockd(KnockdNeeds { web, memory: Arc::clone(memory) }))
            }
            Self::Http(options) => {
                let targets = options.resolve().await?;
                Ok(Prepared::Http(HttpNeeds { web: WebNeeds { gate, meters }, targets }))
            }
            Self::Firewall(_) => Ok(Prepared::Firewall(FirewallNeeds { gate, meters })),
        }
    }
}

impl From<tunnel::Options> for ServiceOptions {
    fn from(options: tunnel::Options) -> Self {
        Self::Tunnel(options)
    }
}

impl From<knockd::Options> for ServiceOptions {
    fn from(options: knockd::Options) -> Self {
        Self::Knockd(options)
    }
}

impl From<httpgate::Options> for ServiceOptions {
    fn from(options: httpgate::Options) -> Self {
        Self::Http(Box::new(options))
    }
}

impl From<firewall::Options> for ServiceOptions {
    fn from(options: firewall::Options) -> Self {
        Self::Firewall(Box::new(options))
    }
}

impl Capacity {
    /// Warns about limits that cannot be met.
    pub fn warn_if_less_than(self, options: &ServiceOptions) {
        match (self, options) {
            (Self::Tunnel(capacity), ServiceOptions::Tunnel(options)) => {
                capacity.warn_if_less_than(options);
            }
            (Self::Web(capacity), options) => {
                options.web().iter().for_each(|options| capacity.warn_if_less_than(options));
            }
            (Self::Tunnel(_) | Self::None, _) => {}
        }
    }
}
