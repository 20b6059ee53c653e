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
//! | 1 pure | [`proto`], [`keys`], [`gate`] (its core), [`proxy_protocol`], [`probe`] | floor 0; no socket, no clock, no OS randomness |
//! | 2 input and output | [`files`], [`tasks`], [`net`], [`observe`], the stores and the keeper of [`gate`] | floors 0 and 1; tokio, tracing, redis |
//! | 3 service | [`tunnel`] | floors 0 to 2 |
//! | 4 process | [`run`], [`admin`], [`sys`], `demo` | floors 0 to 3 |
//! | 5 command line | [`cli`] | everything |
//!
//! `tests/floors.rs` fails the build when a module reaches up.

#![warn(clippy::unwrap_used, clippy::dbg_macro, clippy::print_stdout, clippy::print_stderr)]

pub mod addr;
pub mod admin;
pub mod cli;
mod demo;
pub mod duration;
pub mod files;
pub mod gate;
pub mod keys;
pub mod net;
pub mod observe;
pub mod printable;
pub mod probe;
pub mod proto;
pub mod proxy_protocol;
pub mod reason;
pub mod run;
pub mod secret;
pub mod sys;
pub mod tasks;
pub mod tunnel;
pub mod unix_time;
