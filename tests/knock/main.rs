//! Knocks at a real decrypt end: the real program, a real redis-server, and peers with public
//! addresses of their own. The knocks are made by hand, with the protocol's own crate, where a
//! sender has to misbehave or a test has to know every byte.
//!
//! Needs root, for the namespaces of the peers, and nftables, which counts what is sent.

mod flood;
mod hostile;
mod in_python;
mod life;
mod process;
mod replays;
mod two_flags;
mod world;
