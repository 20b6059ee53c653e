//! The gate in front of a web server: a reverse proxy that asks the gate about each request, in
//! memory, and lets nothing through without its permission.
//!
//! ```text
//!   options    settings
//!   gate       the decision about a request, and the answer to a denied one
//!   redirect   the page that a denied client is sent to
//!   browser    requests that a page can be shown for (pure)
//!   passage    the way of an admitted request to the server, and of the answer back
//!   head       heads of messages: what is refused, and what changes on the way (pure)
//!   hop        fields that belong to one connection (pure)
//!   forwarded  fields that tell the server about the client (pure)
//!   upload     body of a request on its way
//!   body       body of an answer on its way, and its early end
//!   ends       early ends of both, and what is held until then
//!   hold       a body that waits for the server's word (pure)
//!   server     connections to the server: dialled, used again, kept
//!   dialer     new connections, with TLS or without, and whether a server works
//!   idle       those that are kept (pure)
//!   upgrade    connections that have changed to another protocol
//!   access     a log line for each request
//!   answers    answers of the gate itself
//! ```
//!
//! It keeps no body and no answer, and knows nothing of what the server serves: no path, no cookie
//! and no user. Listeners, TLS, limits and the parsing of requests are those of `web` and `http`.

mod access;
mod answers;
mod body;
mod browser;
mod dialer;
mod ends;
mod forwarded;
mod gate;
mod head;
mod hold;
mod hop;
mod idle;
mod options;
mod passage;
mod redirect;
mod server;
mod upgrade;
mod upload;

pub use gate::{HttpGate, Parts};
pub use options::{Options, TargetHost, WebTarget};
pub use redirect::{Parameter, Redirect};
