//! The gate's stores against what they are made of: real Redis servers,
//! Sentinels and Clusters that know no KEYS, and a file.
#![allow(unreachable_pub, reason = "the modules share helpers")]

mod cluster;
mod conformance;
mod embedded;
mod follower;
mod losses;
mod million;
mod sentinel;
mod single;
