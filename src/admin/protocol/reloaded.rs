//! The outcome of a reload, as a structure and as a sentence.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Outcome of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReply {
    /// Unix seconds.
    pub at: u64,
    /// True if it was done.
    pub ok: bool,
    /// The changes, or the reason why nothing was changed.
    pub message: String,
    /// The changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<ReloadedReply>,
}

/// The changes of a reload, in names of tunnels and of flags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadedReply {
    /// New tunnels.
    pub added: Vec<String>,
    /// Tunnels with changed settings.
    pub changed: Vec<ChangedReply>,
    /// Tunnels that accept no more.
    pub removed: Vec<String>,
    /// Number of unchanged tunnels.
    pub same: usize,
    /// Settings of the process that differ from those at its start. They take effect at the next
    /// start.
    pub restart: Vec<String>,
}

/// The changes of a reload to a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedReply {
    /// Its name.
    pub tunnel: String,
    /// The flags with changed values or changed files.
    pub settings: Vec<String>,
}

/// Most names of one kind in a sentence; the structure has all.
const MOST_NAMES: usize = 20;

/// `added redis; changed mysql (max-sessions, key); removed x; 12 the same`.
impl fmt::Display for ReloadedReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { added, changed, removed, same, restart } = self;
        let changed: Vec<String> = changed.iter().map(ToString::to_string).collect();
        let all = [("added", added), ("changed", &changed), ("removed", removed)];
        let kinds = all.into_iter().filter(|(_, names)| !names.is_empty());
        let mut parts: Vec<String> =
            kinds.map(|(what, names)| format!("{what} {}", listed(names))).collect();
        if parts.is_empty() {
            parts.push("nothing changed".to_owned());
        }
        if *same > 0 {
            parts.push(format!("{same} the same"));
        }
        if !restart.is_empty() {
            let settings = listed(restart);
            parts.push(format!("[process] changed ({settings}), which needs a restart"));
        }
        f.write_str(&parts.join("; "))
    }
}

impl fmt::Display for ChangedReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tunnel)?;
        match self.settings.is_empty() {
            true => Ok(()),
            false => write!(f, " ({})", self.settings.join(", ")),
        }
    }
}

/// Lists the first names, and the number of the others.
pub fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(MOST_NAMES)].join(", ");
    match names.len().saturating_sub(MOST_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
