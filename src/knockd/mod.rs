//! The service that takes knocks over HTTP, and answers proxies that ask whether to let an address
//! in: a token in a header puts an address into the gate's store.
//!
//! ```text
//!   options  settings of the service
//!   service  the service: its router, background tasks
//!   framing  requests that two parsers could read in two ways
//!   routes   paths, headers and statuses of the API
//!   openapi  the document about these
//!   api      bodies of questions and answers
//!   knocks   from a request to the store and back
//!   policy   body, token and client -> a grant, or the refusal
//!   tokens   who may knock, and what for
//!   limits   failures and successes of a source
//!   paths    what a proxy may let through for anybody
//! ```
//!
//! It writes the store and asks it nothing on the way of a decision: whether an address is in is
//! read from the gate's memory. It never calls an enforcer; these follow the store.

mod api;
mod framing;
mod knocks;
mod limits;
mod openapi;
mod options;
#[cfg_attr(not(test), expect(dead_code, reason = "the endpoint that uses it follows"))]
mod paths;
mod policy;
mod routes;
mod service;
pub mod tokens;

pub use limits::Rate;
pub use options::{Options, Signed};
pub use service::Knockd;
