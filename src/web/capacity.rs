//! Connections at once of a service of HTTP, given the file descriptors of the process.
//!
//! The request and the grant use one calculation, so that a service that gets all it asked for can
//! hold all that its options say.

use tracing::warn;

use super::options::{ConnectionLimit, WebOptions};
use crate::net::{PER_SESSION, RESERVED, TooFewDescriptors, sessions_that_fit};

/// Connections at once that shake hands, of a service where further ones wait.
const HANDSHAKES: usize = 256;

/// Limits that the file descriptors of this process allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Connections at once that have a slot; zero where further ones evict others.
    pub sessions: usize,
    /// Connections at once that may be evicted.
    pub handshakes: usize,
    /// File descriptors.
    pub descriptors: u64,
    /// Descriptors that the stores of the gates may take and that are not reserved.
    pub lacking: u64,
}

/// Descriptors that a service needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Those of a connection that may be evicted.
    pub each: u64,
    /// Those beside connections.
    pub beside: usize,
}

impl Needs {
    /// Those of a service that connects nowhere.
    pub const ALONE: Self = Self { each: 1, beside: 0 };
}

impl Capacity {
    /// Returns the number of descriptors that a service asks for; `u64::MAX` is as many as there
    /// are.
    pub fn asked(options: &WebOptions, needs: Needs) -> u64 {
        let Needs { each, beside } = needs;
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let connections = match options.connections {
            ConnectionLimit::Wait(None) | ConnectionLimit::Evict(None) => return u64::MAX,
            ConnectionLimit::Wait(Some(most)) => {
                count(most).saturating_mul(PER_SESSION).saturating_add(count(HANDSHAKES))
            }
            ConnectionLimit::Evict(Some(most)) => count(most).saturating_mul(each),
        };
        RESERVED.saturating_add(connections).saturating_add(count(beside))
    }

    /// Computes the capacity that `options` ask for, as far as `descriptors` allow.
    ///
    /// # Errors
    /// [`TooFewDescriptors`]
    pub fn of(
        options: &WebOptions,
        descriptors: u64,
        needs: Needs,
    ) -> Result<Self, TooFewDescriptors> {
        let Needs { each, beside } = needs;
        let part = |of: u64| usize::try_from(descriptors / of).unwrap_or(usize::MAX);
        let (sessions, handshakes) = match options.connections {
            ConnectionLimit::Wait(most) => {
                let handshakes = HANDSHAKES.min(part(4));
                let fit = sessions_that_fit(descriptors, handshakes + beside);
                (most.map_or(fit, |most| most.min(fit)), handshakes)
            }
            ConnectionLimit::Evict(most) => {
                let left = descriptors.saturating_sub(RESERVED);
                let left = usize::try_from(left).unwrap_or(usize::MAX).saturating_sub(beside);
                let fit = left / usize::try_from(each.max(1)).unwrap_or(usize::MAX);
                (0, most.map_or(fit, |most| most.min(fit)))
            }
        };
        if sessions + handshakes == 0 {
            return Err(TooFewDescriptors(descriptors));
        }
        Ok(Self { sessions, handshakes, descriptors, lacking: 0 })
    }

    /// Returns the number of connections at once.
    pub fn connections(self, options: &WebOptions) -> usize {
        match options.connections {
            ConnectionLimit::Wait(_) => self.sessions,
            ConnectionLimit::Evict(_) => self.handshakes,
        }
    }

    /// Warns about limits that cannot be met.
    pub fn warn_if_less_than(self, options: &WebOptions) {
        let service = options.name.as_deref();
        let (ConnectionLimit::Wait(Some(asked)) | ConnectionLimit::Evict(Some(asked))) =
            options.connections
        else {
            return;
        };
        let connections = self.connections(options);
        if connections < asked {
            let descriptors = self.descriptors;
            warn!(
                tunnel = service,
                asked,
                connections,
                descriptors,
                detail = "raise ulimit -n (LimitNOFILE=), or lower -n",
                "fewer connections than asked for"
            );
        }
    }
}
