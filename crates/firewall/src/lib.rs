//! Firewalls that follow the gate: what may connect, what a firewall has, and the steps between.
//!
//! Nothing here decides anew who may connect: [`wanted`] says in networks what
//! `knockpipe_gate::decide` says of each address. [`reconcile`] knows no firewall, and a
//! [`Backend`] knows no store: it reads what carries its own mark, carries steps out, and touches
//! nothing else. When to compare and what to do after a failure is the business of the program.

#![warn(clippy::unwrap_used, clippy::dbg_macro, clippy::print_stdout, clippy::print_stderr)]

mod backend;
#[cfg(any(feature = "exec", feature = "firewalld", feature = "lighthouse"))]
mod clock;
mod entries;
#[cfg(feature = "exec")]
pub mod exec;
#[cfg(feature = "firewalld")]
pub mod firewalld;
#[cfg(feature = "lighthouse")]
pub mod lighthouse;
#[cfg(feature = "nftables")]
pub mod nftables;
mod ports;
mod reconcile;
mod wanted;

pub use backend::{AtExit, Backend, BackendError, Retry};
pub use entries::{Entries, Entry, Lasting, Step};
pub use ports::{PortRange, Ports, PortsError, Protocol};
pub use reconcile::{Keeps, reconcile};
pub use wanted::{Wanted, wanted};
