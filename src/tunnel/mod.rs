//! Tunnels: the life of a connection from accept to its close reason.
//!
//! ```text
//!   serve    accept, admit, drain
//!   shared   what all its connections may use: slots, limits, the gate
//!   capacity how many of what its descriptors are enough for
//!   workers  the threads that serve, one for each processor
//!   introduce who it is from (PROXY header), and whether the gate lets it in
//!   encrypt  plain in:  dial the far end, shake hands, Open        -> relay
//!   decrypt  sealed in: shake hands, proven live, dial the target  -> relay
//!   caller   dialling a far end and shaking hands with it
//!   secure   the handshake over a socket, as the acceptor
//!   memory   the first messages that were answered
//!   pool     warm tunnels for clients to come (shelf: which, until when)
//!   warm     one of them, from the shelf to its client
//!   hedge    which tunnel a client gets: a warm one, or one that is made for it
//!   connected what a connection still holds once both its sides are connected
//!   relay    both directions (seal, open), half-close, goodbye
//!   looker   comes round to see whether sessions are alive
//!   targets  which of several targets a connection gets, and what is known of them
//!   health   checks of targets, and looks at those that are down
//!   dialling how this end dials, and says for whom
//!   unmade   why there is no tunnel or no target
//!   unanswered what a far end did in place of answering
//!   report   the closing line
//!   rings    connections that come back to the tunnel they came from
//!   trial    each step on the way to a target, without serving
//!   status   what can be told of it meanwhile
//!   pipe     standard input and output instead of a client (stdio: reads and writes them)
//! ```
//!
//! This is where `proto` meets `net`. It reads no command line and no signal.

mod buffers;
mod caller;
mod capacity;
mod connected;
mod decrypt;
mod dialling;
mod encrypt;
mod health;
mod hedge;
mod introduce;
mod looker;
mod memory;
mod open;
pub mod options;
pub mod pipe;
mod pool;
mod relay;
mod report;
mod rings;
mod seal;
mod secure;
mod serve;
mod shared;
mod shelf;
mod start;
pub mod status;
mod stdio;
mod targets;
pub mod trial;
mod unanswered;
mod unmade;
mod warm;
pub mod workers;

pub use capacity::{Capacity, TooFewDescriptors, takes_many};
pub use memory::Memory;
pub use options::{Balancers, Limits, Options, PerSource, PipeOptions, Remark, Role};
pub use serve::Tunnel;
pub use start::Parts;
pub use status::{Level, Status};
pub use targets::TargetHealth;
