//! What an operator sees: where log lines go, and how a flood of failures
//! becomes a few lines with exact counts.

pub mod failures;
pub mod log;
mod queue;

pub use failures::Failures;
