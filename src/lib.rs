//! knockpipe: an encrypted TCP tunnel with a shared key.
//!
//! `knockpipe encrypt` stands next to clients and seals what they send;
//! `knockpipe decrypt` stands next to a server, authenticates the peer, and
//! forwards what it sent. `docs/ARCHITECTURE.md` follows one connection
//! through these modules; `docs/PROTOCOL.md` is the wire format.
//!
//! | floor | modules | may know |
//! |---|---|---|
//! | 0 words | `addr`, `duration`, `printable`, `secret`, `reason` | nothing of ours |
//! | 1 pure | `proto`, `keys`, `gate` (its core, `crates/gate`), `proxy_protocol`, the probes of `upstream` | floor 0; no socket, no clock, no OS randomness |
//! | 2 input and output | `files`, `random`, `tasks`, `net`, `http`, `observe`, the stores and the mirror of `gate` | floors 0 and 1; tokio, tracing, redis |
//! | 3 both ends | `frontend`, `knock`, `knocker`, `upstream` | floors 0 to 2, not each other |
//! | 4 service | `tunnel`; `firewall`; `web` (HTTP) and on it `knockd` and `httpgate`; `service` (all of them as one type) | floors 0 to 3 |
//! | 5 process | `run`, `admin`, `sys`, `demo` | floors 0 to 4 |
//! | 6 command line | `cli` | everything |
//!
//! `tests/floors.rs` fails the build when a module reaches up.
//!
//! This is no library for others: what is public is so for `src/main.rs`, the tests, the
//! benches and `packaging/generate.rs`, is hidden here, and may change with any version. The
//! wire protocol has a crate of its own, `knockpipe-proto`.

#![warn(clippy::unwrap_used, clippy::dbg_macro, clippy::print_stdout, clippy::print_stderr)]
#![expect(
    unreachable_pub,
    reason = "an item is `pub` for the modules beside its own; this file says what leaves the crate"
)]

/// For the tests and benches that speak the protocol themselves; it is no promise.
#[doc(hidden)]
pub use knockpipe_base::{addr, printable, reason, secret};
use knockpipe_base::{civil, duration, unix_time};
#[doc(hidden)]
pub use knockpipe_proto::{self as proto, keys};
/// For `src/main.rs`, which has to log a failure and turn it into an exit status.
#[doc(hidden)]
pub use observe::{panics, stderr};
#[doc(hidden)]
pub use run::Failure;

mod admin;
/// For `src/main.rs`, and for the pages and tables that are made of its commands.
#[doc(hidden)]
pub mod cli;
mod demo;
mod files;
mod firewall;
mod frontend;
/// For the tests that hold every store to the same rules, and the benches of decisions.
#[doc(hidden)]
pub mod gate;
#[allow(
    dead_code,
    unused_imports,
    reason = "bodies and errors for the services of HTTP that follow"
)]
mod http;
mod httpgate;
mod knock;
mod knockd;
mod knocker;
mod net;
mod observe;
/// For the tests that send headers and read them.
#[doc(hidden)]
pub mod proxy_protocol;
mod random;
mod run;
mod service;
mod sys;
mod tasks;
mod tunnel;
mod upstream;
mod web;
