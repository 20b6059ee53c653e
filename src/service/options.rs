//! Settings of a service, as far as the process has to know them: its sources, its gate, the number
//! of its descriptors, and the needs that must be met before it starts.
//!
//! Two equal values mean the same service: a reload leaves it alone.

use std::sync::Arc;
use std::time::Duration;

use crate::addr::Source;
use crate::gate::{Gate, GateOptions};
use crate::keys::KeyRing;
use crate::knock::ReceiverOptions;
use crate::net::ResolveError;
use crate::observe::Meters;
use crate::tunnel::{self, ReplayState, TooFewDescriptors};

/// Settings of a service.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceOptions {
    /// Of a tunnel end.
    Tunnel(tunnel::Options),
}

/// Limits of a service, given its share of the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// Of a tunnel end.
    Tunnel(tunnel::Capacity),
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
}

impl ServiceOptions {
    /// Returns the name in the log; `None` where the process has one service only.
    pub fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Tunnel(options) => options.name.as_ref(),
        }
    }

    /// Returns the name for operators.
    pub fn display_name(&self) -> &str {
        match self {
            Self::Tunnel(options) => options.name.as_deref().unwrap_or_else(|| options.role.mode()),
        }
    }

    /// Returns the addresses and inherited sockets that it listens on.
    pub fn sources(&self) -> &[Source] {
        match self {
            Self::Tunnel(options) => &options.sources,
        }
    }

    /// Returns the settings of its gate.
    pub fn gate(&self) -> Option<&Arc<GateOptions>> {
        match self {
            Self::Tunnel(options) => options.gate.as_ref(),
        }
    }

    /// Returns the settings of its receiver of knocks.
    pub fn knock(&self) -> Option<&Arc<ReceiverOptions>> {
        match self {
            Self::Tunnel(options) => options.knock.as_ref(),
        }
    }

    /// Returns the keys that have to stay in memory.
    pub fn keys(&self) -> &KeyRing {
        match self {
            Self::Tunnel(options) => &options.keys,
        }
    }

    /// Returns true if it starts although names do not resolve yet.
    pub fn waits_for_dns(&self) -> bool {
        match self {
            Self::Tunnel(options) => options.wait_for_dns,
        }
    }

    /// Returns true if connections have TCP keepalive.
    pub fn keepalive(&self) -> bool {
        match self {
            Self::Tunnel(options) => options.keepalive,
        }
    }

    /// Returns the longest wait for a peer, and for the first read of the gate's store.
    pub fn timeout(&self) -> Duration {
        match self {
            Self::Tunnel(options) => options.timeout,
        }
    }

    /// Returns the time in which sessions may finish once the service is gone.
    pub fn drain(&self) -> Duration {
        match self {
            Self::Tunnel(options) => options.drain,
        }
    }

    /// Returns the number of descriptors that it asks for; `u64::MAX` is as many as there are.
    pub fn need(&self) -> u64 {
        match self {
            Self::Tunnel(options) => tunnel::Capacity::asked(options),
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
        }
    }
}

impl From<tunnel::Options> for ServiceOptions {
    fn from(options: tunnel::Options) -> Self {
        Self::Tunnel(options)
    }
}

impl Capacity {
    /// Warns about limits that cannot be met.
    pub fn warn_if_less_than(self, options: &ServiceOptions) {
        let (Self::Tunnel(capacity), ServiceOptions::Tunnel(options)) = (self, options);
        capacity.warn_if_less_than(options);
    }
}
