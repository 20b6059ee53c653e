//! The service that takes knocks over HTTP, and answers proxies that ask whether to let an address
//! in: a token in a header puts an address into the gate's store.
//!
//! ```text
//!   options  settings of the service
//!   routes   the requests that it answers
//!   api      bodies of questions and answers
//!   policy   body, token and client -> a grant, or the refusal
//!   tokens   who may knock, and what for
//!   limits   failures and successes of a source
//!   paths    what a proxy may let through for anybody
//! ```
//!
//! It decides about no connection and calls no enforcer: the gate follows its store, as it does for
//! entries of other programs. Whether an address is in is read from the gate's memory.

mod api;
mod limits;
mod options;
mod paths;
mod policy;
mod routes;
pub mod tokens;

pub use options::Options;
pub use routes::Knockd;
