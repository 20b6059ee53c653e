//! What an operator sees: where log lines go, how a flood of failures becomes a
//! few lines with exact counts, which sessions live, and what tunnels count.

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

pub use failures::Failures;
pub use json::Pairs;
pub use metrics::Meters;
pub use sessions::{Selector, Sessions};
