//! Sockets: listening, dialling, resolving, and how many of what at once.
//!
//! Knows nothing of keys or records. A connection is a [`Stream`], whether TCP or unix; [`limits`]
//! and [`sources`] bound the resources of a peer; its address is a [`crate::addr::ClientAddr`] from
//! `accept` on. Nothing here spawns a task for a connection, and nothing here decides what a
//! failure means for one.

mod accept_loop;
mod backoff;
mod bind_error;
pub mod clock;
mod datagram_listener;
pub mod dial;
pub mod discard;
pub mod duplex;
pub mod far_clock;
pub mod handshake_slots;
mod host_changes;
pub mod journal;
mod keepalive;
pub mod limits;
pub mod listen;
pub mod names;
mod outgoing;
mod own_addresses;
mod pipe_reader;
pub mod port_check;
pub mod race;
pub mod resolve;
pub mod service_files;
mod socket_file;
pub mod sources;
pub mod stream;
mod tls_identity;
#[cfg(feature = "aws-lc")]
mod tls_roots;
#[cfg(feature = "aws-lc")]
mod tls_words;
mod zone;

pub use accept_loop::AcceptLoop;
pub use bind_error::BindError;
pub use datagram_listener::{DatagramReader, DatagramSocket, Place};
pub use dial::{DialError, dial, dial_after};
pub use discard::poll_discard;
pub use duplex::{Duplex, ReadSide, WriteSide};
pub use handshake_slots::{HandshakeSlot, PendingHandshakes};
pub use host_changes::{HostChange, HostChanges};
pub use keepalive::Path;
pub use limits::{PER_SESSION, RESERVED, Slot, Slots, TooFewDescriptors, sessions_that_fit};
pub use listen::{AsyncListener, Listener, missing_family};
pub use names::Names;
pub use outgoing::Outgoing;
pub use own_addresses::is_own;
pub use pipe_reader::has_no_reader;
pub use port_check::probe_port;
pub use race::race;
pub use resolve::{ResolveError, ResolveOptions, Resolver, Target, look_up, port_number};
pub use socket_file::Heir;
pub use sources::{SourceGuard, SourceRefusal, Sources};
pub use stream::{SocketOptions, Stream};
#[cfg(feature = "aws-lc")]
pub use tls_identity::certified_key;
pub use tls_identity::{IdentityError, IdentityFiles};
#[cfg(feature = "aws-lc")]
pub use tls_roots::{connector, named_roots, system_roots};
#[cfg(feature = "aws-lc")]
pub use tls_words::{RefusedCertificate, refused_certificate};
