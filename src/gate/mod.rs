//! The gate: decides whether an address may reach a tunnel, before any other resource is spent
//! on it.
//!
//! The core is the crate `knockpipe-gate`, a pure function of the store's content, the operator's
//! rules, and a moment that the caller names: it asks no server, no clock and no socket, so that
//! each of its decisions can be written as a row of a table. Its modules are re-exported here.
//! Around it are the stores (`redis_store`, `embedded_store`, `memory_store`), the mirror, which
//! keeps a store's content in memory, the revoker, which checks live connections after each change,
//! the recorder, which writes to the store, and the admission, which decides by all of these.
//! Moments and ends are types (`unix_time`); the clock is `net::clock`.

pub mod admission;
pub mod any_store;
mod bans;
mod denied;
pub mod embedded_store;
pub mod granting;
mod inquiry;
pub mod knocks;
mod live;
pub mod memory_store;
mod mirror;
pub mod options;
mod recorder;
pub mod redis_store;
mod revoker;
mod shared;
mod state_answers;
pub mod status;
mod successes;
mod watching;

pub use knockpipe_gate::{
    AllowReason, BanAfter, Changed, Counts, Decision, DenyReason, EffectivePolicy, Entry,
    Explanation, FailurePolicy, Freshness, GrantNote, Internal, Item, Member, MemberError, Nets,
    Peer, Rules, Snapshot, Verdict, decide, explain, recheck,
};
use knockpipe_gate::{changed, file_record, file_state, implausible, resp_meter};
pub use knockpipe_gate::{decision, grant, member, nets, owners, rules, snapshot, store, strikes};

pub use admission::Gate;
pub use live::Permit;
pub use options::{Denied, GateOptions, OnRevoke, StoreName, StoreOptions};
pub use status::GateStatus;
pub use watching::{Content, ContentWatch};

pub use crate::unix_time::{Expiry, UnixMillis};
