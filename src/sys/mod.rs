//! What the operating system is asked for: files that only their owner reads,
//! limits, privileges, the background, signals.
//!
//! Everything goes through safe wrappers (`nix`, `std`, `tokio`); there is no
//! `unsafe` of our own. Nothing here knows about tunnels.

pub mod background;
pub mod credentials;
pub mod handover;
pub mod keyfile;
pub mod nofile;
pub mod pidfile;
pub mod privileges;
pub mod signals;
