//! The gate: whether an address may reach the tunnel at all, before anything is
//! spent on it.
//!
//! The core is a pure function of what a store said, what the operator wrote,
//! and a moment that the caller names: it asks no server, no clock and no
//! socket, so that each of its decisions can be written as a row of a table.
//! Around it stand the stores (`redis_store`, `embedded_store`), the keeper, which
//! keeps a store's state in memory and live connections under watch, and the
//! admission, which asks it.
//! Time is unix milliseconds (`now_ms`); an expiry is
//! `Option<u64>` unix milliseconds, `None` for never.

pub mod admission;
pub mod any_store;
mod bans;
pub mod decision;
mod diary;
pub mod embedded_store;
mod inquiry;
mod keeper;
mod ledger;
mod live;
pub mod member;
pub mod nets;
pub mod options;
mod proven;
mod recent;
pub mod redis_store;
pub mod rules;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod strikes;
mod unmeant;

pub use admission::Gate;
pub use decision::{Decision, Explanation, Grant, Peer, Verdict, Why, decide, explain, recheck};
pub use live::Permit;
pub use member::{Item, Member, MemberError};
pub use nets::Nets;
pub use options::{Denied, GateOptions, OnRevoke, StoreName, StoreOptions};
pub use rules::{AwayPolicy, Internal, Rules, Stance};
pub use snapshot::{Changed, Counts, Entry, Freshness, Snapshot};
pub use status::GateStatus;
pub use strikes::BanAfter;
