//! Services that a process can run, and one way to handle them all.
//!
//! ```text
//!   options  the settings of a service, and what follows from them
//!   running  a service that runs: started, observed, stopped
//! ```
//!
//! An enum and not a trait: services are few and known, and a match that names every one
//! of them cannot forget a new one. The supervisor and the admin interface know services
//! in this form only; what one of them is for stays in its own module.

mod options;
mod running;

use serde::{Deserialize, Serialize};

pub use options::{Capacity, Prepared, ServiceOptions, Share, Surroundings};
pub use running::Service;

pub use crate::tunnel::TooFewDescriptors;

/// Kind of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An encrypted tunnel, either end.
    #[default]
    Tunnel,
}
