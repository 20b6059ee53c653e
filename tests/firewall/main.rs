//! A firewall that follows the gate's store: the real program, the real `nft`, and peers on another
//! machine, which is a network namespace.
//!
//! Needs root, for the namespaces, nftables, firewalld and redis-server.

mod cloud;
mod command;
mod disturbed;
mod firewalld;
mod lets_in;
mod program;
mod sealed;
mod store_away;
mod world;
