//! Settings of a frontend.

use std::sync::Arc;
use std::time::Duration;

use crate::addr::ClientAddr;
use crate::gate::Nets;

/// Settings of a frontend.
#[derive(Clone, Debug)]
pub struct FrontendOptions {
    /// Name of the tunnel in the log, where a process has several.
    pub name: Option<Arc<str>>,
    /// Moment when a connection takes its slot.
    pub slot_time: SlotTime,
    /// Sessions at once.
    pub sessions: usize,
    /// Connections at once that have proven nothing.
    pub handshakes: usize,
    /// Allowance of one source address; `None` is no limit.
    pub per_source: Option<PerSource>,
    /// Load balancers that may, and must, announce their clients' addresses.
    pub proxy_from: Arc<Balancers>,
    /// Deadline of a handshake.
    pub timeout: Duration,
    /// Time that a session has after the gate revoked its permit, where it may drain.
    pub drain: Duration,
}

/// Moment when a connection takes its session slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotTime {
    /// At accept: clients queue in the kernel's backlog when the limit is reached.
    Accept,
    /// Once the peer is proven: strangers must not see that the limit is reached, nor take
    /// a slot.
    Proof,
}

/// Load balancers, by the addresses that they connect from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Balancers {
    /// Their addresses.
    pub nets: Nets<()>,
    /// A peer that comes through a unix socket is one.
    pub unix: bool,
}

/// Allowance of one source (an IPv4 address or an IPv6 /64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerSource {
    /// Sessions at once.
    pub sessions: usize,
    /// New connections per second, with a burst of as many; `None` is no limit.
    pub per_second: Option<u32>,
}

impl Balancers {
    /// Returns true when there are none.
    pub fn is_empty(&self) -> bool {
        self.nets.is_empty() && !self.unix
    }

    /// Returns true when `peer` is one.
    pub fn contain(&self, peer: ClientAddr) -> bool {
        match peer {
            ClientAddr::Ip(address) => self.nets.lookup(address.ip()).is_some(),
            ClientAddr::Unix => self.unix,
            ClientAddr::Pipe | ClientAddr::Nameless => false,
        }
    }
}
