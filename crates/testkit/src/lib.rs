//! Programs, targets and peers for knockpipe's tests and benches, compiled once for all of them.
//!
//! Everything here treats knockpipe as a user does: it starts the binary, reads its log, talks to
//! its sockets and inspects it through /proc. Only `hand` speaks the protocol, with the protocol's
//! own crate, for peers that hold the key and misbehave: the program under test is always the
//! binary, so a scenario cannot pass because of a detail that only the library shows. For the same
//! reason nothing here depends on the program's own crate.

pub mod address;
pub mod admin;
pub mod certificates;
pub mod clock;
pub mod cloud;
pub mod data;
pub mod end;
pub mod file;
pub mod firewalld;
pub mod flood;
pub mod hand;
pub mod haproxy;
pub mod knock;
pub mod legit;
pub mod log;
pub mod machine;
pub mod mariadb;
pub mod middleman;
pub mod netns;
pub mod nft;
pub mod pair;
pub mod proc;
pub mod program;
mod pump;
pub mod redis;
pub mod servers;
pub mod target;
pub mod tree;
pub mod wait;
pub mod way;
pub mod wire;

pub use address::{Addr, Kind, any};
pub use end::{End, Launch, binary, keygen};
pub use log::Line;
pub use pair::{Pair, PairOptions, Suite};
pub use program::Program;
pub use target::Target;
pub use wait::{NEVER, eventually};
pub use wire::{Ending, Wire};
