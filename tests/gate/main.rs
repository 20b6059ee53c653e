//! The gate in front of a real tunnel: the real program, a real redis-server without the command
//! KEYS, and peers with public addresses of their own.
//!
//! Entries of other programs decide here: the set of redis-knocking, the bans of GitLab's
//! Rack::Attack. Needs root, for the namespaces of the peers.

mod announced;
mod asked;
mod away;
mod decisions;
mod denied;
mod failover;
mod file;
mod guarded;
mod live;
mod nameless;
mod notes;
mod scale;
mod set_ends;
mod sources;
mod strikes;
mod trouble;
mod world;
