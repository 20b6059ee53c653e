//! The life of a connection: slot, handshake, confirm, dial, relay, close reason.

pub mod options;

pub use options::{Limits, Options, PerSource, Role};
