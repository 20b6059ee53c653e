//! The places that this end forwards to: which of them a connection gets, how it is dialled,
//! and how it is found out whether they work.
//!
//! ```text
//!   targets      choice among the targets of a service
//!   target       one of them, and the one way to connect to it
//!   health_state health of these targets, and the order in which to try them (pure)
//!   health_check checks that run in the background
//!   probe        questions of the checks, in the service's own protocol (pure)
//!   dial_options options of every dial, and the PROXY header for a target
//!   error        reason why a connection could not be made
//! ```
//!
//! Knows sockets, and nothing of the clients that a target is dialled for, nor of what is
//! said to it: what only a caller can know is handed in.

pub mod dial_options;
pub mod error;
pub mod health_check;
pub mod health_state;
pub mod probe;
pub mod target;
pub mod targets;

pub use dial_options::DialOptions;
pub use error::ConnectFailure;
pub use health_check::{HealthChecks, Look, Looking};
pub use health_state::State;
pub use target::Target;
pub use targets::{AllFailed, TargetHealth, Targets, TargetsId, UpstreamOptions};
