//! Requests to the operating system: files that only their owner reads, limits, privileges, the
//! background, a command that runs beside, signals, a sandbox, systemd.
//!
//! Everything goes through safe wrappers (`nix`, `std`, `tokio` and a few
//! others); there is no `unsafe` of our own. Nothing here knows about tunnels.

pub mod activation;
pub mod background;
pub mod child;
pub mod credentials;
pub mod handover;
pub mod keeper;
pub mod keyfile;
pub mod library_files;
pub mod memory;
pub mod nofile;
pub mod notify;
pub mod peer;
pub mod pidfile;
pub mod privileges;
pub mod reaper;
pub mod sandbox;
mod secret_file;
pub mod signals;
pub mod tls_key;
pub mod tokens_file;
pub mod visit;
