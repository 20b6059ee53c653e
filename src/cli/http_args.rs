//! The flags of `http`, and their options.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hyper::header::{HeaderName, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery};
use nix::unistd::Uid;

use super::connection_args::CONNECTIONS;
use super::gate_args::ConnectionGateArgs;
use super::http_target::HttpTarget;
use super::process_args::{PROCESS, ProcessArgs, Reloading};
use super::redis_knocking::Translated;
use super::site_args::SiteArgs;
use super::store_args::GATE;
use super::target_tls_args::{CheckedTargets, TargetTlsArgs};
use super::times::{self, TimeOrOff};
use super::tunnel_args::{DEFAULT_RESOLVE, LIMITS, NAMES};
use super::values::{self, PoolSize, SessionLimit};
use super::web_args::{HTTP, WebArgs};
use crate::addr::{Address, BindAddress, Source};
use crate::http::client_address::{TrustedProxies, TrustedProxy, X_FORWARDED_FOR};
use crate::httpgate::{Options, Parameter, Redirect, TargetHost};
use crate::run::{Failure, Outcome, Plan, Ports};
use crate::service::ServiceOptions;
use crate::sys::background::Readiness;
use crate::sys::child::CommandLine;
use crate::upstream::probe::{Check, CheckError, ProbeKind};
use crate::web::ConnectionLimit;

/// Notes and examples under the flags of `http`.
pub(super) const EXAMPLES: &str = "\
Examples:
  In front of a web server on this host; the addresses in a set of Redis get in:
    knockpipe http -s '[::]:8080' -t http://127.0.0.1:3000 --gate redis://127.0.0.1
  With TLS, and a page for all others on which they can get in:
    knockpipe http -s '[::]:443' --tls-cert web.pem --tls-key web.key -t http://127.0.0.1:3000 \\
      --gate redis://127.0.0.1 --redirect https://login.example.org/ --redirect-parameter rd
  With a page on which they get in right here, with a token of a file:
    knockpipe http -s '[::]:443' --tls-cert web.pem --tls-key web.key -t http://127.0.0.1:3000 \\
      --gate redis://127.0.0.1 --knock-page --tokens tokens
  With a development server that it runs, and ends with:
    knockpipe http -s '[::]:5174' -t http://localhost:5173 --target-host localhost:5173 \\
      --gate redis://127.0.0.1 --run 'npm run dev'

A command line of redis-knocking works with the name changed: 'knockpipe -target ... -redis ...', or
a link to this program named redis-knocking.";

/// `knockpipe http`.
#[derive(Debug, Args)]
pub(super) struct HttpCommandArgs {
    #[command(flatten)]
    http: HttpArgs,

    /// Run this command with sh while the gate is there: each ends with the other, and the exit
    /// status is the command's
    #[arg(long, value_name = "COMMAND", conflicts_with = "handover", help_heading = PROCESS)]
    run: Option<OsString>,

    #[command(flatten)]
    process: ProcessArgs,
}

/// The flags of a gate in front of a web server.
#[derive(Debug, Args)]
pub(super) struct HttpArgs {
    #[command(flatten)]
    web: WebArgs,

    /// The web server: http://HOST:PORT, https://HOST:PORT or http+unix:///PATH; repeatable: the
    /// first that works is used
    #[arg(short, long = "target", value_name = "URL", required = true)]
    targets: Vec<HttpTarget>,

    #[command(flatten)]
    tls: TargetTlsArgs,

    /// Tell the web server this host instead of the client's
    #[arg(long, value_name = "HOST", value_parser = host, help_heading = HTTP)]
    target_host: Option<HeaderValue>,

    /// Field in which the trusted proxies name the client [default: X-Forwarded-For]
    #[arg(long, value_name = "NAME", value_parser = values::header_name, help_heading = HTTP)]
    client_ip_header: Option<HeaderName>,

    /// Believe every peer, so that each client can choose the address that it is judged by: for
    /// the command line of redis-knocking, behind a proxy that no client can go around
    #[arg(long, conflicts_with = "trusted_proxies", help_heading = HTTP)]
    trust_any_proxy: bool,

    /// Send denied clients to this page instead of closing their connection
    #[arg(long, value_name = "URL", help_heading = GATE)]
    redirect: Option<Redirect>,

    /// Parameter of --redirect in which the page gets the address that was asked for
    #[arg(long, value_name = "NAME", requires = "redirect", help_heading = GATE)]
    redirect_parameter: Option<Parameter>,

    /// Connections of clients at once, and requests; further connections wait, but with --redirect,
    /// --knock-page or trusted proxies the source with most loses one that was not let in; 0 is as
    /// many as file descriptors allow
    #[arg(
        short = 'n', long, value_name = "N", default_value = "1024",
        allow_negative_numbers = true, help_heading = LIMITS
    )]
    max_sessions: SessionLimit,

    /// Deadline of a connection to the web server
    #[arg(
        long, value_name = "DURATION", default_value = "5s", value_parser = times::parse,
        allow_negative_numbers = true, help_heading = CONNECTIONS
    )]
    connect_timeout: Duration,

    /// Longest time from the end of a request to the beginning of its answer
    #[arg(
        long, value_name = "DURATION|off", default_value = "60s",
        allow_negative_numbers = true, help_heading = CONNECTIONS
    )]
    response_timeout: TimeOrOff,

    /// End bodies and upgraded connections on which nothing moves for this long
    #[arg(
        long, value_name = "DURATION|off", default_value = "10m",
        allow_negative_numbers = true, help_heading = CONNECTIONS
    )]
    idle_timeout: TimeOrOff,

    /// Connections to the web server that wait for a next request
    #[arg(
        long, value_name = "N", default_value = "256",
        allow_negative_numbers = true, help_heading = CONNECTIONS
    )]
    keep: PoolSize,

    /// Local address of connections to the web server: ip, [ip] or [ip]:port
    #[arg(short, long, value_name = "ADDR", help_heading = CONNECTIONS)]
    bind: Option<BindAddress>,

    /// Check the web servers: tcp every INTERVAL (5s where none is given) [default: none]
    #[arg(
        long, value_name = "tcp[/INTERVAL]", value_parser = check, help_heading = CONNECTIONS
    )]
    check: Option<Check>,

    /// Have a web server down that does not answer GET of this path with a status of 2xx or 3xx
    /// [default: only its port is looked at]
    #[arg(long, value_name = "PATH", value_parser = check_path, help_heading = CONNECTIONS)]
    check_path: Option<PathAndQuery>,

    /// Start even if a name does not resolve yet, and try again every second
    #[arg(short = 'D', long, help_heading = NAMES)]
    wait_for_dns: bool,

    /// Interval between look-ups of the web servers' names [default: 60s]
    #[arg(
        short = 'r', long, value_name = "DURATION", value_parser = times::parse,
        allow_negative_numbers = true, conflicts_with = "no_resolve", help_heading = NAMES
    )]
    resolve_every: Option<Duration>,

    /// Resolve the web servers' names at start only
    #[arg(short = 'R', long, help_heading = NAMES)]
    no_resolve: bool,

    /// Log a line for each request: client, method, host, path without its query, status, time
    #[arg(long, help_heading = HTTP)]
    access_log: bool,

    #[command(flatten)]
    site: SiteArgs,

    #[command(flatten)]
    gate: ConnectionGateArgs,

    /// One line for each decision, in redis-knocking's spelling.
    #[arg(skip)]
    has_detail: bool,
}

/// Flags of a gate in front of a web server that make no sense together.
#[derive(Debug, thiserror::Error)]
enum HttpFlagError {
    /// Nothing decides.
    #[error("nothing says which addresses get in; add --gate URL, or --allow NET")]
    NoGate,
    /// `--client-ip-header` without proxies.
    #[error(
        "--client-ip-header is the word of proxies, and none is trusted; add --trusted-proxies NET"
    )]
    HeaderOfNobody,
    /// A page to knock on for clients that choose their address.
    #[error(
        "--knock-page locks out the addresses that guess tokens, and with --trust-any-proxy every client chooses its own; name the proxies with --trusted-proxies NET instead"
    )]
    Guesses,
    /// A unix socket: its clients have no address.
    #[error(
        "clients at the unix socket {path} have no address to judge; add --trusted-proxies unix for a proxy that names them",
        path = .0.display()
    )]
    NoAddress(PathBuf),
    /// Zero where a time must pass.
    #[error("--connect-timeout: 0 seconds is not allowed; give a time such as 5s, or leave it out")]
    NoTime,
}

impl From<HttpFlagError> for Failure {
    fn from(error: HttpFlagError) -> Self {
        Self::Usage(error.into())
    }
}

impl HttpCommandArgs {
    /// Runs the service until it is stopped.
    ///
    /// # Errors
    /// [`Failure`] of the arguments or the run.
    pub(super) fn run(self) -> Result<Outcome, Failure> {
        let command = self.run.clone().map(|text| CommandLine { shell: "sh", text });
        self.run_beside(command)
    }

    /// Does the same with what `http` has no flags for, in redis-knocking's spelling.
    ///
    /// # Errors
    /// [`Failure`] of the arguments or the run.
    pub(super) fn run_translated(mut self, translated: Translated) -> Result<Outcome, Failure> {
        let Translated { target, credentials, script, has_detail, .. } = translated;
        self.http.target_host.get_or_insert(target.host);
        self.http.gate.store.login = credentials;
        self.http.has_detail = has_detail;
        self.run_beside(Some(CommandLine { shell: "bash", text: script }))
    }

    fn run_beside(self, command: Option<CommandLine>) -> Result<Outcome, Failure> {
        let Self { http, process, .. } = self;
        let user = process.uid();
        let plan: Vec<ServiceOptions> = vec![http.options(None, user)?.into()];
        let files = http.files();
        let reread = Arc::new(move || {
            let services = vec![http.options(None, user)?.into()];
            Ok(Plan { services, restart: vec![] })
        });
        let reloading = Reloading { reread, files, ports: Ports::Fixed };
        process.run_beside(Readiness::foreground(), plan, reloading, command)
    }
}

impl HttpArgs {
    /// Returns the files that are read again on a reload.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let own = self.gate.files().chain(self.site.files()).chain(self.tls.files());
        self.web.files().chain(own).cloned().collect()
    }

    /// Returns the service that these arguments describe, by this name.
    ///
    /// # Errors
    /// [`Failure`] of the arguments, or of the files that they name.
    pub(super) fn options(
        &self,
        name: Option<Arc<str>>,
        user: Option<Uid>,
    ) -> Result<Options, Failure> {
        self.refuse()?;
        let gate = self.gate.options(self.web.access(user))?.ok_or(HttpFlagError::NoGate)?;
        let first = self.targets.first().map(|target| target.host.clone());
        let clients = first.unwrap_or_else(|| HeaderValue::from_static("localhost"));
        let mut web = self.web.options(name, user, ConnectionLimit::Wait(self.max_sessions.0))?;
        web.idle_time = self.idle_timeout.0;
        if self.trust_any_proxy {
            web.trusted_proxies = TrustedProxies::any();
        }
        let CheckedTargets { targets, tls } = self.tls.targets(&self.targets)?;
        let page = self.site.options(&web, &gate, self.web.access(user))?;
        let mut options = Options {
            web,
            page,
            gate,
            client_header: self.client_ip_header.clone().unwrap_or(X_FORWARDED_FOR),
            believes_internal: self.trust_any_proxy,
            targets,
            tls,
            host: match &self.target_host {
                Some(own) => TargetHost::Own(own.clone()),
                None => TargetHost::Clients(clients),
            },
            bind: self.bind,
            dial_time: self.connect_timeout,
            answer_time: self.response_timeout.0,
            idle_time: self.idle_timeout.0,
            keep: self.keep.0,
            resolve_every: (!self.no_resolve)
                .then(|| self.resolve_every.unwrap_or(DEFAULT_RESOLVE)),
            wait_for_dns: self.wait_for_dns,
            check: self.check.clone().or_else(|| self.check_path.as_ref().map(|_| Check::PORT)),
            check_path: self.check_path.clone(),
            redirect: self
                .redirect
                .clone()
                .map(|to| to.with_parameter(self.redirect_parameter.clone())),
            logs_requests: self.access_log,
            logs_decisions: self.has_detail,
        };
        if !options.asks_at_accept() {
            // Strangers connect, too, and must keep no client out.
            options.web.connections = ConnectionLimit::Evict(self.max_sessions.0);
        }
        Ok(options)
    }

    /// Refuses flags that contradict each other.
    fn refuse(&self) -> Result<(), HttpFlagError> {
        if self.connect_timeout.is_zero() {
            return Err(HttpFlagError::NoTime);
        }
        if self.trust_any_proxy && self.site.has_page() {
            return Err(HttpFlagError::Guesses);
        }
        let is_trusting = self.trust_any_proxy || !self.web.trusted_proxies.is_empty();
        if self.client_ip_header.is_some() && !is_trusting {
            return Err(HttpFlagError::HeaderOfNobody);
        }
        let names_peers = self.trust_any_proxy
            || self.web.trusted_proxies.contains(&TrustedProxy::Unix)
            || self.web.announces_unix();
        let unix = self.web.sources.iter().filter_map(Source::address).find_map(|it| match it {
            Address::Unix(path) => Some(path),
            Address::Tcp { .. } => None,
        });
        match unix {
            Some(path) if !names_peers => Err(HttpFlagError::NoAddress(path.clone())),
            _ => Ok(()),
        }
    }
}

/// Parses a host, as a browser sends it.
fn host(text: &str) -> Result<HeaderValue, &'static str> {
    let is_host = Authority::from_str(text).is_ok_and(|host| !host.as_str().contains('@'));
    let value = HeaderValue::from_str(text).ok().filter(|_| is_host);
    value.ok_or("this is no host; write one such as app.example.org or localhost:5173")
}

/// Parses a path of a web server.
fn check_path(text: &str) -> Result<PathAndQuery, &'static str> {
    let path = text.parse().ok().filter(|_| text.starts_with('/') && !text.contains('#'));
    path.ok_or("this is no path; write one such as /health")
}

/// Parses a check of a web server. Those of other services would only break its connections.
fn check(text: &str) -> Result<Check, String> {
    let check: Check = text.parse().map_err(|error: CheckError| error.to_string())?;
    match check.kind {
        ProbeKind::Tcp => Ok(check),
        _ => Err(format!("'{text}' asks in another protocol; write tcp, or tcp/5s")),
    }
}
