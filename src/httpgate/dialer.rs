//! Connections to the servers behind the gate, each with TLS if its URL says so, and the question
//! whether a server works.
//!
//! A server with TLS proves its name before it gets a byte of a request. One that cannot is as one
//! that cannot be reached: the next is tried, and a check finds it down.

use std::sync::Arc;

use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::options::{Options, TargetHost};
use super::upload::RequestBody;
use crate::http::ClientTls;
use crate::printable::printable;
use crate::reason::CloseReason;
use crate::upstream::{ConnectFailure, DialOptions, Look, Looking, Targets};

/// Name of the sender of checks.
const CHECKER: HeaderValue = HeaderValue::from_static("knockpipe");

/// Remedy of a server that does not shake hands for TLS.
const REMEDY: &str = "check that its port is for https, and that its certificate is valid, for this \
    name (or --target-name), and of an authority that this host or --target-ca trusts";

/// Connects to servers.
pub(super) struct Dialer {
    targets: Arc<Targets>,
    dial: DialOptions,
    /// Those of each target.
    servers: Box<[WebServer]>,
    check_path: Option<PathAndQuery>,
    time: std::time::Duration,
}

/// A server, as far as its address does not say.
struct WebServer {
    secure: Option<Secure>,
    /// Host of a check.
    host: HeaderValue,
}

/// TLS with a server.
struct Secure {
    tls: ClientTls,
    /// Name that it has to prove.
    name: Arc<str>,
}

impl Dialer {
    /// Creates a dialer of resolved targets.
    pub(super) fn new(options: &Options, dial: DialOptions, targets: Arc<Targets>) -> Arc<Self> {
        let server = |target: &super::WebTarget| WebServer {
            secure: options.tls.clone().zip(target.tls_name.clone()).map(Secure::from),
            host: match &options.host {
                TargetHost::Own(own) => own.clone(),
                TargetHost::Clients(_) => target.host.clone(),
            },
        };
        Arc::new(Self {
            targets,
            dial,
            servers: options.targets.iter().map(server).collect(),
            check_path: options.check_path.clone(),
            time: options.dial_time,
        })
    }

    /// Returns the targets.
    pub(super) fn targets(&self) -> &Arc<Targets> {
        &self.targets
    }

    /// Connects to a target, and begins HTTP/1.1.
    ///
    /// # Errors
    /// [`ConnectFailure`]
    pub(super) async fn connect(
        &self,
        place: usize,
        deadline: Instant,
    ) -> Result<SendRequest<RequestBody>, ConnectFailure> {
        let dialled = self.targets.at(place).connect(&self.dial, deadline).await;
        let stream = dialled.map_err(|error| ConnectFailure::target(&error))?;
        let Some(Secure { tls, name }) = &self.servers[place].secure else {
            return Ok(speak(stream).await);
        };
        match timeout_at(deadline, tls.wrap(stream, name)).await {
            Ok(Ok(secured)) => Ok(speak(secured).await),
            Ok(Err(error)) => {
                let detail = format!("no TLS with it: {}; {REMEDY}", printable(&error.to_string()));
                Err(ConnectFailure::new(CloseReason::TargetRefused, detail))
            }
            Err(_) => {
                let detail = format!("it accepts, but does not shake hands in time; {REMEDY}");
                Err(ConnectFailure::new(CloseReason::TargetTimeout, detail))
            }
        }
    }

    /// Returns the question whether a target works, where its port alone does not tell.
    pub(super) fn look(self: &Arc<Self>) -> Option<Look> {
        let is_plain = self.servers.iter().all(|server| server.secure.is_none());
        if is_plain && self.check_path.is_none() {
            return None;
        }
        let dialer = Arc::clone(self);
        Some(Arc::new(move |place| {
            let dialer = Arc::clone(&dialer);
            let looking: Looking = Box::pin(async move { dialer.look_at(place).await });
            looking
        }))
    }

    async fn look_at(&self, place: usize) -> Result<(), ConnectFailure> {
        let deadline = Instant::now() + self.time;
        let server = &self.servers[place];
        if server.secure.is_none() && self.check_path.is_none() {
            let probed = self.targets.at(place).probe_port(&self.dial, deadline).await;
            return probed.map_err(|error| ConnectFailure::target(&error));
        }
        let mut sender = self.connect(place, deadline).await?;
        let Some(path) = &self.check_path else { return Ok(()) };
        let mut request = Request::new(RequestBody::nothing());
        *request.uri_mut() = Uri::from(path.clone());
        request.headers_mut().insert(HOST, server.host.clone());
        request.headers_mut().insert(USER_AGENT, CHECKER);
        let found = match sender.send_request(request).await {
            Ok(answer) => found(answer.status()),
            Err(error) => Err(format!("no answer to {path}: {}", printable(&error.to_string()))),
        };
        let unhealthy = |why: String| ConnectFailure::new(CloseReason::TargetRefused, why);
        found.map_err(|why| unhealthy(format!("{why}; see its log, or correct --check-path")))
    }
}

impl From<(ClientTls, Arc<str>)> for Secure {
    fn from((tls, name): (ClientTls, Arc<str>)) -> Self {
        Self { tls, name }
    }
}

/// Judges the answer to a check.
fn found(status: StatusCode) -> Result<(), String> {
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(format!("the check was answered {}", status.as_u16()))
    }
}

/// Begins HTTP/1.1 on a new connection, which goes on in a task of its own on this worker.
async fn speak<I>(io: I) -> SendRequest<RequestBody>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shaken = http1::handshake(TokioIo::new(io)).await;
    let (sender, connection) = shaken.expect("HTTP/1.1 begins without a byte");
    tokio::spawn(async move {
        // Its failure reaches the exchange, if there is one.
        let _ = connection.with_upgrades().await;
    });
    sender
}
