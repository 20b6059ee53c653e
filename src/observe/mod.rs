//! The view of an operator: destination of log lines, a few lines with exact counts for a flood of
//! failures, the live sessions, and the counters of tunnels.

pub mod failures;
mod fields;
pub mod firewall;
mod http_knocks;
mod http_requests;
mod json;
mod libraries;
pub mod liveness;
pub mod log;
pub mod metrics;
pub mod panics;
mod priority;
mod queue;
mod received_knocks;
mod refused_knocks;
mod sent_knocks;
pub mod sessions;
pub mod stderr;

pub use http_knocks::HttpKnockResult;
pub use http_requests::Verified;
pub use json::Pairs;
pub use metrics::Meters;
pub use received_knocks::KnockResult;
pub use refused_knocks::RefusedKnocks;
pub use sent_knocks::{KnockReason, SentKnockMeters};
pub use sessions::{Selector, Sessions};
