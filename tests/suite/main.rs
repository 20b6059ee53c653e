//! Scenarios that share the machine well, in one program: as programs of their own
//! each would compile `common` once more. What fills the machine (strangers,
//! thousands of sessions), or waits for minutes, has a program of its own.

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod announce;
mod check;
mod cli;
mod dead_tunnels;
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
mod gate_tls;
mod health;
mod heartbeat;
mod interfaces;
mod key_files;
mod lifecycle;
mod limits;
mod log_file;
mod log_lines;
mod manual;
mod metrics;
mod metrics_text;
mod mistakes;
mod named_files;
mod names;
mod operations;
mod packaged_keys;
mod packaging;
mod pid_files;
mod pipe;
mod pipe_signals;
mod pool_reload;
mod priorities;
mod probes;
mod process;
mod proxy_protocol;
mod reasons;
mod redis;
mod reload;
mod reload_words;
mod replace;
mod sandbox;
mod sandbox_links;
mod sandbox_shared;
mod secrets;
mod spiped_scenarios;
mod status;
mod store_names;
mod systemd;
mod tampering;
mod target_down;
mod threads;
mod variables;
