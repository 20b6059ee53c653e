//! HTTP/1.1 server for the process's own endpoints: metrics and health.
//!
//! ```text
//!   client_address  the client of a request behind proxies
//!   server          one connection: a request, its answer
//!   limits          times and sizes that no client exceeds
//! ```
//!
//! It reads no body, keeps no connection alive, and knows no route: those belong to the module that
//! uses it.

#[cfg_attr(not(test), expect(dead_code, reason = "the services that use it follow"))]
pub mod client_address;
mod limits;
mod server;

pub use limits::Limits;
pub use server::{Server, text};
