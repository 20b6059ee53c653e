//! Services that a process can run, behind one interface.
//!
//! ```text
//!   options  the settings of a service, and its needs that follow from them
//!   running  a running service: started, observed, stopped
//! ```
//!
//! An enum and not a trait: services are few and known, and a match over all of them cannot forget
//! a new one. The supervisor and the admin interface know services only through these types; the
//! purpose of each stays in its own module.

mod options;
mod running;

use serde::{Deserialize, Serialize};

pub use options::{
    Capacity, FirewallNeeds, HttpNeeds, KnockdNeeds, Prepared, ServiceOptions, Share, Surroundings,
    WebNeeds,
};
pub use running::Service;

pub use crate::net::TooFewDescriptors;

/// Kind of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An encrypted tunnel, either end.
    #[default]
    Tunnel,
    /// Knocks over HTTP.
    Knockd,
    /// A gate in front of a web server.
    Http,
    /// A firewall that follows a gate.
    Firewall,
}

impl Kind {
    /// Returns true for a service of HTTP.
    pub fn is_web(self) -> bool {
        matches!(self, Self::Knockd | Self::Http)
    }

    /// Returns its word, as in a log line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Knockd => "knockd",
            Self::Http => "http",
            Self::Firewall => "firewall",
        }
    }
}
