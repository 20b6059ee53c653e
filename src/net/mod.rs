//! Sockets: listening, dialling, resolving, and how many of what at once.
//!
//! Knows nothing of keys or records. A connection is a [`Stream`], whether TCP or unix; [`limits`]
//! and [`sources`] bound the resources of a peer; its address is a [`crate::addr::ClientAddr`] from
//! `accept` on. Nothing here spawns a task for a connection, and nothing here decides what a
//! failure means for one.

mod accept_loop;
pub mod backoff;
mod bind_error;
pub mod clock;
pub mod dial;
pub mod discard;
pub mod duplex;
pub mod journal;
mod keepalive;
pub mod limits;
pub mod listen;
pub mod names;
mod own;
pub mod pending;
pub mod port_check;
pub mod race;
mod reader;
pub mod resolve;
pub mod service_files;
mod socket_file;
pub mod sources;
pub mod stream;
mod zone;

pub use accept_loop::AcceptLoop;
pub use backoff::{AcceptBackoff, AcceptStep};
pub use bind_error::BindError;
pub use dial::{DialError, dial};
pub use discard::poll_discard;
pub use duplex::{Duplex, ReadSide, WriteSide};
pub use keepalive::Path;
pub use limits::{PER_SESSION, RESERVED, Slot, Slots, sessions_that_fit};
pub use listen::{AsyncListener, Listener, missing_family};
pub use names::{NameError, Names};
pub use own::is_own;
pub use pending::{HandshakeSlot, PendingHandshakes};
pub use port_check::probe_port;
pub use race::race;
pub use reader::has_no_reader;
pub use resolve::{Endpoint, ResolveError, ResolveOptions, Resolver, Target, look_up, port_number};
pub use socket_file::Heir;
pub use sources::{SourceGuard, SourceRefusal, Sources};
pub use stream::{SocketOptions, Stream};
