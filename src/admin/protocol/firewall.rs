//! Status of a firewall in an answer.

use serde::{Deserialize, Serialize};

/// Status of a firewall that follows a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallReply {
    /// Its back end.
    pub backend: String,
    /// Addresses and networks that it lets in.
    pub entries: usize,
    /// Changes of entries so far.
    pub steps: u64,
    /// Entries that others had changed, and that were put right.
    pub repairs: u64,
    /// Attempts that failed.
    pub errors: u64,
    /// Unix second at which it was last as it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<u64>,
    /// The reason why it may not be as it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}
