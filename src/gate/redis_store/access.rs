//! The means to reach the servers of a store. All its connections share them, so they stand
//! apart from the connection.

use std::sync::Arc;
use std::time::Duration;

use super::address::Credentials;
use super::known_servers::KnownServers;
use super::metered::Together;
use super::tls::Tls;
use crate::net::Names;

/// The time that a server may take for one answer, a login included.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

/// The means to reach a server of a store.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) credentials: Option<Credentials>,
    pub(super) db: i64,
    pub(super) tls: Option<Tls>,
    /// The addresses of servers that have names.
    pub(super) names: Arc<Names>,
    /// The memory that all connections of the store hold.
    pub(super) together: Together,
    /// The servers that the store connected to.
    pub(super) known_servers: Arc<KnownServers>,
}
