//! HTTP servers, the process's own endpoints (metrics and health) and the services that speak HTTP;
//! and requests to such services.
//!
//! ```text
//!   server          one request and its answer, for metrics and health
//!   limits          times and sizes that no client of these exceeds
//!   connection      the requests of one connection of a service
//!   streams         its requests under way, where several may be
//!   client_stream   that connection, and its end
//!   one_form        one answer for a connection, of one form, whatever it sends
//!   client_address  the client of a request behind proxies
//!   tls             certificate and handshake of a service
//!   client          one request to a web server
//!   client_tls      certificates that such a server is checked against
//!   asked           host, target and framing of a request, as far as they are read in one way
//!   fields          header fields that proxies treat in a special way
//!   rarely          future that is polled only when it was woken
//!   raw_heads       watch on requests for what the parser forgets
//!   body            body of an answer
//!   page            files of a page for browsers
//! ```
//!
//! It knows no route and no gate: those belong to the modules that use it.

mod asked;
mod body;
mod client;
pub mod client_address;
mod client_stream;
mod client_tls;
mod connection;
pub mod fields;
mod limits;
mod one_form;
pub mod page;
mod rarely;
mod raw_heads;
mod server;
mod streams;
mod tls;

pub use asked::{Asked, BadHead};
pub use body::{Body, BoxError, empty, full};
pub use client::{Answered, BadUrl, HttpClient, WebUrl};
pub use client_address::{ClientRules, TrustedProxies, TrustedProxy, X_FORWARDED_FOR};
pub use client_stream::{BrokenOff, ClientStream};
pub use client_tls::{CaFile, ClientTls};
pub use connection::{ConnectionLimits, Version};
pub use limits::Limits;
pub use one_form::{Form, Head};
pub use rarely::Rarely;
pub use raw_heads::RawHeads;
pub use server::{Server, text};
pub use tls::{Acceptor, CERT_FLAG, KEY_FLAG, ServerTls, ServerTlsError};
