//! placeholder
pub mod labels;
pub mod padding;
pub mod record;
pub mod suite;

pub use padding::Padding;
pub use suite::{Suite, SuiteSet};

/// Which end of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The encrypt end, next to the clients.
    Dialer,
    /// The decrypt end, next to the target.
    Acceptor,
}

/// Which way records travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the dialer to the acceptor.
    ToAcceptor,
    /// From the acceptor to the dialer.
    ToDialer,
}
