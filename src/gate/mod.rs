//! The gate: decides whether an address may reach a tunnel, before any other resource is spent
//! on it.
//!
//! The core is a pure function of the store's content, the operator's rules,
//! and a moment that the caller names: it asks no server, no clock and no
//! socket, so that each of its decisions can be written as a row of a table.
//! Around it are the stores (`redis_store`, `embedded_store`), the mirror, which
//! keeps a store's content in memory, the revoker, which checks live connections after each
//! change, the recorder, which writes to the store, and the admission, which decides by all
//! of these. Moments and ends are types (`unix_time`); the clock is `net::clock`.

pub mod admission;
pub mod any_store;
mod bans;
mod changed;
pub mod decision;
mod denied;
pub mod embedded_store;
mod implausible;
mod inquiry;
mod live;
pub mod member;
mod mirror;
pub mod nets;
pub mod options;
mod recorder;
pub mod redis_store;
mod revoker;
pub mod rules;
mod shared;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod strikes;
mod successes;
mod table;

pub use admission::Gate;
pub use changed::Changed;
pub use decision::{AllowReason, Decision, DenyReason, Explanation, Peer, Verdict};
pub use decision::{decide, explain, recheck};
pub use live::Permit;
pub use member::{Entry, Item, Member, MemberError};
pub use nets::Nets;
pub use options::{Denied, GateOptions, OnRevoke, StoreName, StoreOptions};
pub use rules::{EffectivePolicy, FailurePolicy, Internal, Rules};
pub use snapshot::{Counts, Freshness, Snapshot};
pub use status::GateStatus;
pub use strikes::BanAfter;

pub use crate::unix_time::{Expiry, UnixMillis};
