//! HTTP/1.1 server for the process's own endpoints: metrics and health.
//!
//! ```text
//!   server  one connection: a request, its answer
//!   limits  times and sizes that no client exceeds
//! ```
//!
//! It reads no body, keeps no connection alive, and knows no route: those belong to the module that
//! uses it.

mod limits;
mod server;

pub use limits::Limits;
pub use server::{Server, text};
