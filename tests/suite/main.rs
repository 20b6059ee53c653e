//! Scenarios that share the machine well, in one program: as programs of their own
//! each would compile `common` once more. What fills the machine (strangers,
//! thousands of sessions), or waits for minutes, has a program of its own.

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod announce;
mod check;
mod cli;
mod demo;
mod deployment;
mod diagnosis;
mod directories;
mod docs;
mod drain;
mod failover;
mod first_messages;
mod foreign_text;
mod gate_flags;
mod gate_hostile;
mod gate_reload;
mod gate_start;
mod health;
mod heartbeat;
mod key_files;
mod lifecycle;
mod limits;
mod metrics;
mod named_files;
mod names;
mod operations;
mod packaging;
mod pipe;
mod pool_reload;
mod process;
mod proxy_protocol;
mod reasons;
mod redis;
mod reload;
mod sandbox;
mod sandbox_shared;
mod secrets;
mod spiped_scenarios;
mod systemd;
mod tampering;
