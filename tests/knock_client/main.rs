//! Ends that knock: the real program, in network namespaces with public addresses of their own.
//!
//! What is sent is read by a socket of the test where a test has to know every datagram, and by a
//! real decrypt end where it has to open.
//!
//! Needs root, for the namespaces, nftables, which loses and rejects packets, redis-server with
//! redis-sentinel, and cc, for the clocks of a host that sleeps.

mod absent;
mod command;
mod failover;
mod moves;
mod nat;
mod opens;
mod sends;
mod site;
