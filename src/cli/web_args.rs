//! The flags that all services of HTTP have, and the options that they make.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use nix::unistd::Uid;

use super::connection_args::CONNECTIONS;
use super::errors::UsageError;
use super::gate_args::{Balancer, balancers};
use super::process_args::PROCESS;
use super::store_args::GATE;
use super::times;
use super::tunnel_args::LIMITS;
use super::values::SourceLimit;
use crate::addr::Source;
use crate::http::client_address::TrustedProxy;
use crate::http::{KEY_FLAG, ServerTls};
use crate::run::Failure;
use crate::sys::keyfile::Access;
use crate::sys::tls_key;
use crate::web::{ConnectionLimit, WebOptions};

/// Deadline of a request's header unless `-o` says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Heading of the flags about HTTP.
pub(super) const HTTP: &str = "HTTP";

/// Flags of a service of HTTP.
#[derive(Debug, Args)]
pub(super) struct WebArgs {
    /// Address to listen on for HTTP: host:port, [ip]:port, /path/to/socket or systemd:NAME;
    /// repeatable
    #[arg(short, long = "source", value_name = "ADDR", required = true)]
    pub(super) sources: Vec<Source>,

    /// Serve TLS with this certificate: a file of PEM, those between it and its authority
    /// included; read again on a reload
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = HTTP)]
    tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert: a file of PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = HTTP)]
    tls_key: Option<PathBuf>,

    /// Accept files with secrets that their group or others can read or change
    #[arg(long)]
    pub(super) allow_readable_key: bool,

    /// Proxies whose X-Forwarded-For tells the client's address: networks, or unix for all peers of
    /// a unix socket; repeatable
    #[arg(long, value_name = "NET[,NET]", value_delimiter = ',', help_heading = HTTP)]
    pub(super) trusted_proxies: Vec<TrustedProxy>,

    /// Deadline of a TLS handshake and of a request's header, and longest pause between requests
    /// [default: 10s]
    #[arg(
        short = 'o', long, value_name = "DURATION", value_parser = times::parse,
        allow_negative_numbers = true, help_heading = CONNECTIONS
    )]
    timeout: Option<Duration>,

    /// Do not probe idle connections
    #[arg(short = 'j', long, help_heading = CONNECTIONS)]
    no_keepalive: bool,

    /// Connections at once, and new ones per second, of one source (an IPv4 address or an IPv6
    /// /64) [default: no limit]
    #[arg(
        long, value_name = "CONNECTIONS[/PER_SECOND]", allow_negative_numbers = true,
        help_heading = LIMITS
    )]
    max_per_source: Option<SourceLimit>,

    /// Time for requests to finish after SIGTERM or SIGINT; a second signal ends them at once
    #[arg(
        long, value_name = "DURATION", default_value = "30s", value_parser = times::parse,
        allow_negative_numbers = true, help_heading = PROCESS
    )]
    drain: Duration,

    /// Load balancers, which must announce their clients with the PROXY protocol, and no others
    /// may: networks, or unix for all peers of a unix socket; repeatable
    #[arg(long, value_name = "NET[,NET]", value_delimiter = ',', help_heading = GATE)]
    proxy_from: Vec<Balancer>,
}

impl WebArgs {
    /// Returns the files that are read again on a reload.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.tls_cert.iter().chain(&self.tls_key)
    }

    /// Returns true if load balancers on unix sockets announce their clients.
    pub(super) fn announces_unix(&self) -> bool {
        self.proxy_from.contains(&Balancer::Unix)
    }

    /// Returns the tolerated access of others to files with a secret.
    pub(super) fn access(&self, user: Option<Uid>) -> Access {
        Access { by_others: self.allow_readable_key, user }
    }

    /// Returns the options; reads the certificate.
    ///
    /// # Errors
    /// [`Failure::Usage`]
    pub(super) fn options(
        &self,
        name: Option<Arc<str>>,
        user: Option<Uid>,
        connections: ConnectionLimit,
    ) -> Result<WebOptions, Failure> {
        if self.timeout.is_some_and(|time| time.is_zero()) {
            let remedy = "give a time such as 10s, or leave it out";
            let flag = "-o/--timeout";
            return Err(UsageError::ZeroSeconds { flag, remedy }.into());
        }
        Ok(WebOptions {
            name,
            sources: self.sources.clone(),
            tls: self.tls(user)?,
            trusted_proxies: self.trusted_proxies.iter().copied().collect(),
            proxy_from: balancers(&self.proxy_from),
            connections,
            per_source: self.max_per_source.map(|limit| limit.0),
            timeout: self.timeout.unwrap_or(DEFAULT_TIMEOUT),
            idle_time: Some(self.timeout.unwrap_or(DEFAULT_TIMEOUT)),
            keepalive: !self.no_keepalive,
            drain: self.drain,
        })
    }

    fn tls(&self, user: Option<Uid>) -> Result<Option<ServerTls>, Failure> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        let usage = |error: anyhow::Error| Failure::Usage(error);
        let secret = tls_key::read(KEY_FLAG, key, self.access(user));
        let secret = secret.map_err(|error| usage(error.into()))?;
        let tls = ServerTls::read(cert.clone(), key.clone(), &secret);
        tls.map(Some).map_err(|error| usage(error.into()))
    }
}
