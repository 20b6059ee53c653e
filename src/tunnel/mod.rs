//! Tunnels: the life of a connection from its admission to its close reason.
//!
//! ```text
//!   build      makes a tunnel from its options
//!   serve      a running tunnel: its background tasks, and the ways to end it
//!   context    state that all its connections share: frontend, call settings
//!   capacity   numbers that its descriptors are enough for
//!   encrypt    plain in:  admit, dial the far end, shake hands, Open       -> session
//!   decrypt    sealed in: admit, shake hands, proven live                  -> open_target
//!   open_target  slot, dial of the target, Opened                          -> session
//!   caller     call of a far end: dial and handshake, as the dialer
//!   knocking   knocks before and after it, and when this host moved
//!   handshake  handshake over a socket, as the acceptor
//!   replay_state  first messages that were answered
//!   pool       warm tunnels for clients to come (pool_state: choice, ages, back-off)
//!   warm       one of them, from the pool to its client
//!   hedge      choice of a client's tunnel: a warm one, or one that is made for it
//!   session    a session from its first relayed byte to its closing line
//!   relay      both directions (seal, open), half-close, goodbye
//!   liveness   signs of life of sessions
//!   remote     meaning of what the far end says when it ends a session
//!   unanswered behaviour of a far end in place of an answer
//!   speech     guess at the protocol of a program that is not a knockpipe (pure)
//!   access_log the closing line
//!   rings      detection of connections that come back to the tunnel they came from
//!   preflight  each step on the way to a target, without serving
//!   status     snapshot for operators
//!   pipe       standard input and output instead of a client (stdio: reads and writes them)
//! ```
//!
//! This is where the sessions of `proto` meet `net`. It reads no command line and no signal.

mod access_log;
mod buffers;
mod build;
mod capacity;
mod context;
mod decrypt;
mod dial_far_end;
mod encrypt;
mod foreign_protocol;
mod handshake;
mod heartbeat;
mod knocking;
mod loops;
mod open;
mod open_target;
pub mod options;
pub mod pipe;
mod pool;
mod pool_state;
pub mod preflight;
mod relay;
mod replay_state;
mod reset_reasons;
mod seal;
mod serve;
mod session;
pub mod status;
mod stdio;
mod unanswered;
mod warm;
mod warm_or_new;

pub use build::Prepared;
pub use capacity::{Capacity, takes_many};
pub use options::{ConfigWarning, Limits, Options, PipeOptions, Role};
pub use pool_state::PoolLevel;
pub use replay_state::ReplayState;
pub use serve::Tunnel;
pub use status::{Level, Status};
