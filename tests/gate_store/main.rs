//! The gate's stores against their real servers: Redis, Sentinels and Clusters without the command
//! KEYS, and a file.

mod cluster;
mod conformance;
mod embedded;
mod follower;
mod grants;
mod losses;
mod memory;
mod million;
mod notes;
mod owned;
mod sentinel;
mod single;
