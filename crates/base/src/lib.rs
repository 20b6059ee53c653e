//! Types that all parts of knockpipe share: addresses, durations, times, secrets and close reasons.
//!
//! Text and bytes only: this crate opens no socket and no file, reads no clock, asks the
//! operating system for no randomness, and knows no async runtime. Its API follows the
//! program's needs, in step with its version.

#![warn(clippy::unwrap_used, clippy::dbg_macro, clippy::print_stdout, clippy::print_stderr)]

pub mod addr;
pub mod civil;
pub mod duration;
pub mod printable;
pub mod reason;
pub mod secret;
pub mod unix_time;
