//! Settings that all services of HTTP have.

use std::sync::Arc;
use std::time::Duration;

use crate::addr::Source;
use crate::frontend::{Balancers, PerSource};
use crate::http::ServerTls;
use crate::http::client_address::TrustedProxies;

/// Settings of a service of HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct WebOptions {
    /// Name in the log, where a process has several services.
    pub name: Option<Arc<str>>,
    /// Addresses to listen on.
    pub sources: Vec<Source>,
    /// The certificate; `None` is plain HTTP.
    pub tls: Option<ServerTls>,
    /// Proxies that are believed about the client's address.
    pub trusted_proxies: TrustedProxies,
    /// Load balancers that announce their clients with the PROXY protocol.
    pub proxy_from: Arc<Balancers>,
    /// Connections at once.
    pub connections: ConnectionLimit,
    /// Allowance of one source; `None` is no limit.
    pub per_source: Option<PerSource>,
    /// Deadline of a TLS handshake, of the header of a request, and of the next request.
    pub timeout: Duration,
    /// Longest time in which a client takes nothing of an answer; `None` is for ever.
    pub idle_time: Option<Duration>,
    /// TCP keepalive.
    pub keepalive: bool,
    /// Time for requests to finish once the service is gone.
    pub drain: Duration,
}

/// Number of connections at once, and the fate of a further one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionLimit {
    /// It waits until another ends. For clients that were let in before they are accepted, and with
    /// requests that may be long. `None` is as many as the descriptors allow.
    Wait(Option<usize>),
    /// It displaces the oldest of the source with most. For services that any host may talk to, and
    /// with requests that are short, or that prove their client. `None` is as many as the
    /// descriptors allow.
    Evict(Option<usize>),
}
