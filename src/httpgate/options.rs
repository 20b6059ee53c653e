//! Settings of the gate in front of a web server.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;

use super::redirect::Redirect;
use crate::addr::{Address, BindAddress};
use crate::gate::GateOptions;
use crate::http::ClientTls;
use crate::knockd::SiteOptions;
use crate::net::PER_SESSION;
use crate::upstream::probe::Check;
use crate::web::{Needs, WebOptions};

/// Settings of the gate in front of a web server.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Listeners, TLS and limits.
    pub web: WebOptions,
    /// The gate that each request needs.
    pub gate: Arc<GateOptions>,
    /// Field in which trusted proxies name the client.
    pub client_header: HeaderName,
    /// An address that a proxy announces counts as that of the socket: an internal one is internal.
    pub believes_internal: bool,
    /// The servers in the order in which they are tried.
    pub targets: Vec<WebTarget>,
    /// Certificates that servers with TLS are checked against; `None` where none has it.
    pub tls: Option<ClientTls>,
    /// Host that the server is told.
    pub host: TargetHost,
    /// Local address to dial from.
    pub bind: Option<BindAddress>,
    /// Time limit of a dial.
    pub dial_time: Duration,
    /// Time limit from the end of a request to the beginning of its answer; `None` is for ever.
    pub answer_time: Option<Duration>,
    /// Longest time in which nothing comes of a body or on an upgraded connection; `None` is for
    /// ever.
    pub idle_time: Option<Duration>,
    /// Connections to the servers that wait for a next request.
    pub keep: usize,
    /// Time between look-ups of names; `None` is at the start only.
    pub resolve_every: Option<Duration>,
    /// Starts although a name does not resolve yet.
    pub wait_for_dns: bool,
    /// Health check of the servers.
    pub check: Option<Check>,
    /// Path that a server has to answer for it to be up.
    pub check_path: Option<PathAndQuery>,
    /// Page for clients that the gate denies, at another address.
    pub redirect: Option<Redirect>,
    /// Page for them to knock on, here. With neither their connections are closed.
    pub page: Option<SiteOptions>,
    /// One log line for each request.
    pub logs_requests: bool,
    /// One log line for each decision.
    pub logs_decisions: bool,
}

/// A server behind the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebTarget {
    /// Address to dial.
    pub address: Address,
    /// Host of its URL, as a browser would send it.
    pub host: HeaderValue,
    /// Name that its certificate has to have; `None` is plain HTTP.
    pub tls_name: Option<Arc<str>>,
}

/// Host that the server is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetHost {
    /// The client's; this one where a client names none.
    Clients(HeaderValue),
    /// This one.
    Own(HeaderValue),
}

impl Options {
    /// Returns true if the gate is asked when a connection is accepted, since nothing in a request
    /// can change its answer, nor does a denied client get one.
    pub fn asks_at_accept(&self) -> bool {
        self.web.trusted_proxies.is_empty() && self.redirect.is_none() && self.page.is_none()
    }

    /// Returns the descriptors that it needs: a connection has one to a server.
    pub fn needs(&self) -> Needs {
        Needs { each: PER_SESSION, beside: self.keep }
    }
}
