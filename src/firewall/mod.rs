//! The service that keeps a firewall in step with the gate's store.
//!
//! ```text
//!   options   settings of the service
//!   service   the service: its start and its end, its state
//!   keeper    the loop: what is wanted, what is there, the steps between, and again
//!   cloud     the way to the API of a cloud
//!   labels    names of entries, where a firewall has them
//! ```
//!
//! It listens on nothing and writes no store. What may connect is determined by the crate
//! `knockpipe-firewall`, which has the back ends as well; here are the store, the clock and the
//! repetition.

mod cloud;
mod keeper;
mod labels;
mod options;
mod service;

pub use cloud::lighthouse;
pub use labels::Labels;
pub use options::{BackendOptions, LighthouseOptions, Options};
pub use service::{DESCRIPTORS, Firewall, LAST_CHANGE};
