//! knockpipe: an encrypted TCP tunnel with a shared key.
//!
//! `knockpipe encrypt` stands next to clients and seals what they send;
//! `knockpipe decrypt` stands next to a server, authenticates the peer, and
//! forwards what it sent. `docs/ARCHITECTURE.md` follows one connection
//! through these modules; `docs/PROTOCOL.md` is the wire format.
//!
//! | floor | modules | may know |
//! |---|---|---|
//! | 0 words | [`addr`], [`duration`], [`printable`], [`secret`], [`reason`] | nothing of ours |
//! | 1 pure | [`proto`], [`keys`], [`gate`] (its core, `crates/gate`), [`proxy_protocol`], the probes of [`upstream`] | floor 0; no socket, no clock, no OS randomness |
//! | 2 input and output | [`files`], [`tasks`], [`net`], [`http`], [`observe`], the stores and the mirror of [`gate`] | floors 0 and 1; tokio, tracing, redis |
//! | 3 both ends | [`frontend`], [`upstream`] | floors 0 to 2, not each other |
//! | 4 service | [`tunnel`], [`service`] (all of them as one type) | floors 0 to 3 |
//! | 5 process | [`run`], [`admin`], [`sys`], `demo` | floors 0 to 4 |
//! | 6 command line | [`cli`] | everything |
//!
//! `tests/floors.rs` fails the build when a module reaches up.

#![warn(clippy::unwrap_used, clippy::dbg_macro, clippy::print_stdout, clippy::print_stderr)]

pub use knockpipe_base::{addr, duration, printable, reason, secret, unix_time};
pub use knockpipe_proto::{self as proto, keys};

pub mod admin;
pub mod cli;
mod demo;
pub mod files;
pub mod frontend;
pub mod gate;
pub mod http;
pub mod net;
pub mod observe;
pub mod proxy_protocol;
pub mod run;
pub mod service;
pub mod sys;
pub mod tasks;
pub mod tunnel;
pub mod upstream;
