//! The gate's stores against what they are made of: real Redis servers,
//! Sentinels and Clusters that know no KEYS, and a file.
#![allow(unreachable_pub, reason = "the modules share helpers")]

mod common;

#[path = "gate_store/cluster.rs"]
mod cluster;
#[path = "gate_store/conformance.rs"]
mod conformance;
#[path = "gate_store/embedded.rs"]
mod embedded;
#[path = "gate_store/follower.rs"]
mod follower;
#[path = "gate_store/losses.rs"]
mod losses;
#[path = "gate_store/million.rs"]
mod million;
#[path = "gate_store/sentinel.rs"]
mod sentinel;
#[path = "gate_store/single.rs"]
mod single;
