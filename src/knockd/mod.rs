//! The service that takes knocks over HTTP, and answers proxies that ask whether to let somebody
//! in: a token in a header puts an address into the gate's store.
//!
//! ```text
//!   api     bodies of questions and answers
//!   policy  body, token and client -> a grant, or the refusal
//!   tokens  who may knock, and what for
//!   limits  failures and successes of a source
//!   paths   what a proxy may let through for anybody
//! ```
//!
//! It decides about no connection: the gate follows its store, as it does for entries of other
//! programs.

mod api;
mod limits;
mod paths;
mod policy;
pub mod tokens;
