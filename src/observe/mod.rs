//! The view of an operator: destination of log lines, a few lines with exact counts for a flood of
//! failures, the live sessions, and the counters of tunnels.

pub mod direct;
pub mod failures;
mod fields;
mod json;
pub mod log;
pub mod metrics;
pub mod panics;
mod priority;
pub mod pulse;
mod queue;
pub mod sessions;

pub use json::Pairs;
pub use metrics::Meters;
pub use sessions::{Selector, Sessions};
