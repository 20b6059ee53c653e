//! The wire protocol, knockpipe/1, as a state machine that turns bytes into bytes.
//!
//! Nothing here opens a socket, reads a clock or asks the operating system for randomness:
//! ephemeral keys and the time are arguments. So every state can be tested byte by byte, and the
//! same code runs over TCP, unix sockets and in-memory pipes. `docs/PROTOCOL.md` in the repository
//! is the specification.
//!
//! ```text
//!   dialer                                         acceptor
//!   handshake::Dialer --- message 1: psk, e ---->  handshake::read_message1
//!                     <-- message 2: e, ee ------  handshake::Received::answer
//!   Session           --- Confirm or Open ------>  handshake::Unconfirmed -> Session
//!                     <-- Opened --------------->
//!                     <-> Data, Fin, Reset <---->
//! ```
//!
//! Beside it stands the knock, one datagram that asks the acceptor's gate to let an address in:
//! [`knock::Knock::seal`] makes it, [`knock::read_knock`] reads it, and nothing answers it.

#![warn(clippy::unwrap_used, clippy::dbg_macro, clippy::print_stdout, clippy::print_stderr)]

pub mod aead;
mod dh;
pub mod handshake;
pub mod heartbeat;
pub mod hello;
pub mod inbound;
pub mod keys;
pub mod knock;
pub mod labels;
pub mod message;
mod noise;
pub mod outbound;
pub mod padding;
mod payload;
pub mod record;
pub mod replay;
pub mod suite;

pub use handshake::Session;
pub use padding::Padding;
pub use suite::{Suite, SuiteSet};

/// One of the two ends of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The encrypt end, next to the clients.
    Dialer,
    /// The decrypt end, next to the target.
    Acceptor,
}

/// Direction in which records travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the dialer to the acceptor.
    ToAcceptor,
    /// From the acceptor to the dialer.
    ToDialer,
}

/// Fault of a peer, as seen by the protocol. The peer is never told more than "protocol error"; a
/// failed tag carries no detail on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// A record or handshake message failed authentication.
    #[error("authentication failed")]
    BadTag,
    /// A record length that no honest peer sends.
    #[error("a record of impossible length")]
    BadLength,
    /// Authentic, but not allowed here, or malformed inside.
    #[error("an authentic but malformed or misplaced record")]
    Misbehaved,
    /// An ephemeral key of low order.
    #[error("an ephemeral key of low order")]
    LowOrder,
    /// No record suite that both ends have.
    #[error("no record suite that both ends have")]
    NoCommonSuite,
    /// 2^64 - 1 records were sent in one direction.
    #[error("the record counter is exhausted")]
    Exhausted,
}
