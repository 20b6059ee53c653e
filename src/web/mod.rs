//! Services that speak HTTP: from a listener to the requests of an application, and their end.
//!
//! ```text
//!   application  the part that answers requests, and its view of a connection
//!   options      settings that all such services have
//!   capacity     connections at once, given the descriptors of the process
//!   service      a running service: it accepts, shakes hands, serves, drains
//!   status       a snapshot of it, for operators
//! ```
//!
//! Knows no route and no decision: those are the application's. TLS, deadlines, limits, reload and
//! drain are the same for all of them, and are here.

mod application;
mod capacity;
mod options;
mod service;
mod status;

pub use application::{Application, Visitor};
pub use capacity::{Capacity, Needs};
pub use options::{ConnectionLimit, WebOptions};
pub use service::{WebParts, WebService};
pub use status::{Usage, WebStatus};
