//! Counts and state of a firewall that follows a gate, for status and metrics.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// State of a firewall at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirewallStatus {
    /// Name of the back end.
    pub backend: &'static str,
    /// Entries that are there.
    pub entries: usize,
    /// Steps that were carried out.
    pub steps: u64,
    /// Entries that others had removed or added, and that were put right.
    pub repairs: u64,
    /// Attempts that failed.
    pub errors: u64,
    /// The moment at which it was last as it should be.
    pub last_success: Option<SystemTime>,
    /// The reason why it may not be as it should be; `None` when it is.
    pub trouble: Option<String>,
}

/// State of a firewall, which its keeper changes.
#[derive(Debug, Default)]
pub struct FirewallMeters(Mutex<FirewallStatus>);

impl FirewallMeters {
    /// Begins to count for this back end.
    pub fn new(backend: &'static str) -> Self {
        let trouble = Some("it was not compared yet".to_owned());
        Self(Mutex::new(FirewallStatus { backend, trouble, ..FirewallStatus::default() }))
    }

    /// Returns the state now.
    pub fn status(&self) -> FirewallStatus {
        self.lock().clone()
    }

    /// Gives access to the state.
    pub fn lock(&self) -> MutexGuard<'_, FirewallStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
