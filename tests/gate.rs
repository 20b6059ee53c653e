//! The gate in front of a real tunnel: the real program, a real redis-server
//! that knows no KEYS, and peers with public addresses of their own.
//!
//! What other programs write decides here: the set of redis-knocking, the bans
//! of GitLab's Rack::Attack. Needs root, for the namespaces of the peers.
#![allow(unreachable_pub, reason = "the modules share helpers")]

mod common;

#[path = "gate/announced.rs"]
mod announced;
#[path = "gate/asked.rs"]
mod asked;
#[path = "gate/away.rs"]
mod away;
#[path = "gate/decisions.rs"]
mod decisions;
#[path = "gate/denied.rs"]
mod denied;
#[path = "gate/failover.rs"]
mod failover;
#[path = "gate/file.rs"]
mod file;
#[path = "gate/guarded.rs"]
mod guarded;
#[path = "gate/live.rs"]
mod live;
#[path = "gate/nameless.rs"]
mod nameless;
#[path = "gate/notes.rs"]
mod notes;
#[path = "gate/scale.rs"]
mod scale;
#[path = "gate/set_ends.rs"]
mod set_ends;
#[path = "gate/sources.rs"]
mod sources;
#[path = "gate/strikes.rs"]
mod strikes;
#[path = "gate/trouble.rs"]
mod trouble;
#[path = "gate/world.rs"]
mod world;
