//! A firewall that follows the gate's store: the real program, the real `nft`, and peers on another
//! machine, which is a network namespace.
//!
//! Needs root, for the namespaces, nftables and redis-server.

mod command;
mod disturbed;
mod lets_in;
mod sealed;
mod store_away;
mod world;
