//! The pure core of the gate: decides whether an address may reach a tunnel, by a store's
//! content, the operator's rules, and a moment that the caller names.
//!
//! Nothing here opens a socket or a file, reads a clock or waits, so that each decision can be
//! written as a row of a table. The cut is here because the stores cannot do without: they dial
//! through the program's `net` and wait in its tasks, so they are the program's, and so are the
//! mirror, the revoker and the recorder around them. Of the stores only the parts that turn bytes
//! into values are here: [`file_record`] and [`file_state`] for the gate file, [`resp_meter`] for
//! Redis.

#![warn(clippy::unwrap_used, clippy::dbg_macro, clippy::print_stdout, clippy::print_stderr)]

pub mod changed;
pub mod decision;
pub mod file_record;
pub mod file_state;
pub mod grant;
pub mod implausible;
pub mod member;
pub mod nets;
pub mod owners;
pub mod resp_meter;
pub mod rules;
pub mod snapshot;
pub mod store;
pub mod strikes;
mod table;

pub use changed::Changed;
pub use decision::{AllowReason, Decision, DenyReason, Explanation, Peer, Verdict};
pub use decision::{decide, explain, recheck};
pub use grant::GrantNote;
pub use member::{Entry, Item, Member, MemberError};
pub use nets::Nets;
pub use rules::{EffectivePolicy, FailurePolicy, Internal, Rules};
pub use snapshot::{Counts, Freshness, Snapshot};
pub use strikes::BanAfter;
