//! Limits of an HTTP server, so that a client that is slow or sends too much costs little.

use std::time::Duration;

/// Times and sizes that no client exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients at once; a further one displaces the oldest.
    pub clients: usize,
    /// Longest time until the header of a request is complete.
    pub header_timeout: Duration,
    /// Longest time of a request with its answer.
    pub total_timeout: Duration,
    /// Longest header of a request, in bytes.
    pub max_header: usize,
}
