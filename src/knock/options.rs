//! Settings of the receiver of knocks. The command line makes them.

use std::time::Duration;

use crate::addr::{Address, ServiceName};
use crate::keys::KeyId;

/// Settings of the receiver of knocks of one tunnel.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceiverOptions {
    /// Addresses to receive at; none are those of the tunnel's sources.
    pub addresses: Vec<Address>,
    /// Longest grant of an address that is only the datagram's source, and of a renewal.
    pub ttl: Duration,
    /// Longest grant of an address that the knock names.
    pub max_ttl: Duration,
    /// Treatment of a knock that names no address.
    pub source: SourcePolicy,
    /// Widest networks that a knock may name.
    pub networks: WidestNetworks,
    /// Names that the gate answers to.
    pub gates: Vec<ServiceName>,
    /// Keys that may knock; none are all of the tunnel.
    pub keys: Vec<KeyId>,
}

impl ReceiverOptions {
    /// Returns true if knocks under this key of the tunnel are granted.
    pub fn may_knock(&self, key: KeyId) -> bool {
        self.keys.is_empty() || self.keys.contains(&key)
    }
}

/// Treatment of a knock that names no address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourcePolicy {
    /// A short grant of the datagram's source, which is not proven: it may be forged, or changed
    /// on the way.
    #[default]
    Allow,
    /// Nothing.
    Refuse,
}

/// Shortest prefixes of networks that a knock may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WidestNetworks {
    /// Of IPv4.
    pub v4: u8,
    /// Of IPv6.
    pub v6: u8,
}

impl Default for WidestNetworks {
    /// Single addresses only.
    fn default() -> Self {
        Self { v4: 32, v6: 128 }
    }
}
