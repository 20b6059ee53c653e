//! The decision about each request, and the way of one that is admitted.
//!
//! Where only the socket's address counts, and a denied client gets no answer, the gate is asked
//! once more when a connection is accepted: a stranger is then closed before a byte is read, and a
//! revocation ends the whole connection. Otherwise each request has a permit of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::HeaderName;
use hyper::{Request, Response, Version};
use rand::RngExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::{self, Asked};
use super::answers;
use super::body::Line;
use super::browser;
use super::dialer::Dialer;
use super::ends::Ending;
use super::forwarded;
use super::head;
use super::options::{Options, TargetHost};
use super::passage::Passage;
use super::redirect::{Page, Redirect};
use super::server::{Server, ServerParts};
use crate::addr::{Address, ClientAddr, ServiceName};
use crate::gate::{Denied, DenyReason, Gate, OnRevoke, Peer, Permit, Verdict};
use crate::http::Body;
use crate::http::client_address::ClientRules;
use crate::knockd::{SitePage, SiteParts};
use crate::net::{ResolveError, ResolveOptions, Slots, SocketOptions};
use crate::observe::failures::Failures;
use crate::observe::metrics::Meters;
use crate::reason::CloseReason;
use crate::tasks::restarting;
use crate::upstream::{DialOptions, HealthChecks, TargetHealth, Targets, UpstreamOptions};
use crate::web::{Application, Visitor};

/// Interval at which idle connections are looked at, and due summaries of failures written.
const TICK: Duration = Duration::from_secs(1);

/// A client in the tarpit is kept up to this fraction of its time longer, so that the moment of its
/// end reveals nothing.
const JITTER: f64 = 0.25;

/// Longest pause between two looks at a server that is down.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The gate in front of a web server.
pub struct HttpGate {
    name: Option<Arc<str>>,
    gate: Gate,
    client: ClientRules,
    believes_internal: bool,
    /// The connection of a visitor was admitted when it was accepted.
    asked_at_accept: bool,
    redirect: Option<Redirect>,
    page: Option<SitePage>,
    logs_requests: bool,
    logs_decisions: bool,
    checks: HealthChecks,
    drain: Duration,
    /// Time for which denied clients are kept in a tarpit.
    tarpit: Duration,
    pub(super) host: TargetHost,
    pub(super) idle_time: Option<Duration>,
    pub(super) server: Arc<Server>,
    /// Requests at once.
    pub(super) slots: Slots,
    pub(super) failures: Arc<Failures>,
    pub(super) meters: Arc<Meters>,
}

/// Objects that the gate uses but does not create.
pub struct Parts {
    /// The gate of this service.
    pub gate: Gate,
    /// Its counters.
    pub meters: Arc<Meters>,
    /// Its servers, resolved.
    pub targets: Arc<Targets>,
}

/// An admitted client: its address, and the permit of the request where the connection has none.
pub(super) struct Client {
    peer: Peer,
    permit: Option<Permit>,
}

impl Options {
    /// Resolves the servers.
    ///
    /// # Errors
    /// [`ResolveError`], unless the options say to wait.
    pub async fn resolve(&self) -> Result<Arc<Targets>, ResolveError> {
        let resolve = ResolveOptions { every: self.resolve_every, wait: self.wait_for_dns };
        let service = ServiceName::default();
        let addresses: Vec<Address> = self.targets.iter().map(|it| it.address.clone()).collect();
        let targets = Targets::start(UpstreamOptions {
            tunnel: self.web.name.clone(),
            service: &service,
            addresses: &addresses,
            resolve,
            check: self.check.clone(),
            longest_pause: LONGEST_PAUSE,
            ends_sessions: false,
            timeout: self.dial_time,
        });
        targets.await.map(Arc::new)
    }

    fn dial(&self) -> DialOptions {
        let socket = SocketOptions { keepalive: self.web.keepalive };
        DialOptions { bind: self.bind, socket, proxy: None }
    }
}

// === impl HttpGate ===

impl HttpGate {
    /// Creates the gate in front of these servers. Where it replaces `before`, the requests there
    /// count here, too.
    pub fn new(options: &Options, parts: Parts, before: Option<&Self>) -> Self {
        let Parts { gate, meters, targets } = parts;
        let client = ClientRules {
            proxies: options.web.trusted_proxies.clone(),
            headers: vec![options.client_header.clone()],
        };
        let page = options.page.as_ref().map(|page| {
            let (gate, meters) = (gate.clone(), Arc::clone(&meters));
            let parts = SiteParts { web: &options.web, clients: client.clone(), gate, meters };
            SitePage::new(page, parts, before.and_then(|before| before.page.as_ref()))
        });
        let dialer = Dialer::new(options, options.dial(), targets);
        let look = dialer.look();
        let server = Server::new(ServerParts {
            dialer,
            dial_time: options.dial_time,
            answer_time: options.answer_time,
            meters: Arc::clone(&meters),
            idle: options.keep,
        });
        Self {
            name: options.web.name.clone(),
            gate,
            client,
            page,
            believes_internal: options.believes_internal,
            asked_at_accept: options.asks_at_accept(),
            redirect: options.redirect.clone(),
            logs_requests: options.logs_requests,
            logs_decisions: options.logs_decisions,
            checks: HealthChecks {
                dial: options.dial(),
                timeout: options.dial_time,
                stop: CancellationToken::new(),
                tasks: TaskTracker::new(),
                look,
            },
            drain: options.web.drain,
            tarpit: options.web.timeout,
            host: options.host.clone(),
            idle_time: options.idle_time,
            server,
            // Its number is told with the capacity.
            slots: before.map_or_else(|| Slots::new(0), |before| before.slots.clone()),
            failures: Arc::new(Failures::of(options.web.name.clone())),
            meters,
        }
    }

    /// Returns the name in the log, where there are several services.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Determines the client of a request.
    fn client_of(&self, request: &Request<Incoming>, visitor: &Visitor) -> Option<Peer> {
        let peer = if self.trusts(visitor) {
            self.client.client(visitor.address(), request.headers())
        } else {
            visitor.peer()
        };
        peer.map(|peer| match peer {
            Peer::Announced(ip) if self.believes_internal => Peer::Socket(ip),
            peer => peer,
        })
    }

    /// Decides about a request.
    ///
    /// # Errors
    /// The client that is denied, as far as it is known.
    async fn admit(&self, peer: Option<Peer>) -> Result<Client, Option<Peer>> {
        let peer = peer.ok_or(None)?;
        let client = if self.asked_at_accept {
            let is_allowed = self.gate.decide(peer).is_allowed();
            is_allowed.then_some(Client { peer, permit: None })
        } else {
            let began = Instant::now();
            let admitted = self.gate.admit(peer).await;
            self.meters.gate.done(began);
            admitted.ok().map(|permit| Client { peer, permit: Some(permit) })
        };
        if self.logs_decisions {
            access::log_decision(self.name(), peer, client.is_some());
        }
        client.ok_or(Some(peer))
    }

    /// Answers a request that is denied: with another page, or not at all.
    async fn deny(
        &self,
        request: Request<Incoming>,
        peer: Option<Peer>,
        visitor: &Visitor,
    ) -> Option<Response<Body>> {
        self.meters.refused.count(CloseReason::GateDenied);
        self.count_failure(CloseReason::GateDenied, peer, visitor);
        let line = self.line(&request, visitor);
        if let Some(page) = self.page_for(peer, visitor) {
            let is_shown = browser::shows_answer(request.headers());
            return Some(if is_shown { page.document() } else { answers::denied() });
        }
        let Some(redirect) = &self.redirect else {
            self.stay_silent(line, visitor).await;
            return None;
        };
        let (head, _) = request.into_parts();
        let own = head::asked_host(&head);
        let headers = &head.headers;
        let is_trusted = self.client.proxies.trusts(visitor.address());

        let path = head.uri.path_and_query();
        let page = Page {
            scheme: forwarded::scheme(headers, is_trusted, visitor.is_encrypted()),
            host: forwarded::host(headers, is_trusted, own.as_ref()),
            path: path.map_or("/", |path| path.as_str()),
        };
        let Some(location) = redirect.location(page) else {
            self.stay_silent(line, visitor).await;
            return None;
        };
        Some(answers::found(location))
    }

    /// Returns the page on which a client can get in. None is for those that a rule of the operator
    /// or a ban keeps out, whatever they know, and none goes where tokens could be read.
    fn page_for(&self, peer: Option<Peer>, visitor: &Visitor) -> Option<&SitePage> {
        let page = self.page.as_ref()?;
        let verdict = self.gate.decide(peer?).verdict;
        let is_kept_out = [DenyReason::StaticDeny, DenyReason::Banned].map(Verdict::Denied);
        (!is_kept_out.contains(&verdict) && page.may_serve(visitor)).then_some(page)
    }

    /// Waits as long as a denied client is kept, before its connection ends as it is to end. One
    /// that other clients use, too, stays.
    async fn stay_silent(&self, line: Line, visitor: &Visitor) {
        let is_reset = match self.gate.options().denied {
            Denied::Close => false,
            Denied::Reset => true,
            Denied::Tarpit => {
                let longer = rand::rng().random_range(0.0..JITTER);
                sleep(self.tarpit.mul_f64(1.0 + longer)).await;
                true
            }
        };
        match line {
            Line::Single if is_reset => visitor.break_off(),
            // Without an answer, HTTP/1.1 ends by itself.
            Line::Single | Line::Proxy => {}
            Line::Client if is_reset => visitor.end(),
            Line::Client => visitor.close(),
        }
    }

    /// Returns the use of the connection that a request came on.
    pub(super) fn line<B>(&self, request: &Request<B>, visitor: &Visitor) -> Line {
        match request.version() {
            Version::HTTP_2 if self.trusts(visitor) => Line::Proxy,
            Version::HTTP_2 => Line::Client,
            _ => Line::Single,
        }
    }

    /// Counts a failure of a client, for the log's summaries: behind a trusted proxy, of the one
    /// that it names.
    pub(super) fn count_failure(
        &self,
        reason: CloseReason,
        client: Option<Peer>,
        visitor: &Visitor,
    ) {
        let address = match client.and_then(Peer::ip).filter(|_| self.trusts(visitor)) {
            Some(ip) => ClientAddr::Ip(SocketAddr::new(ip, 0)),
            None => visitor.address(),
        };
        match address.source() {
            Some(source) => self.failures.failed(reason, &source),
            None => self.failures.failed(reason, &address),
        };
    }

    /// Returns true when what this visitor says of its clients counts.
    pub(super) fn trusts(&self, visitor: &Visitor) -> bool {
        self.client.proxies.trusts(visitor.address())
    }

    /// Returns the field with the client's address.
    pub(super) fn client_header(&self) -> Option<&HeaderName> {
        self.client.headers.first()
    }

    /// Returns a future that resolves when the gate takes a permit back, and it is time to go.
    pub(super) fn revoked(
        self: &Arc<Self>,
        permit: Permit,
    ) -> impl Future<Output = CloseReason> + Send + use<> {
        let gate = Arc::clone(self);
        async move {
            let _why = permit.revoked().await;
            match gate.gate.options().on_revoke {
                OnRevoke::Close => {}
                OnRevoke::Keep => std::future::pending().await,
                OnRevoke::Drain => sleep(gate.drain).await,
            }
            CloseReason::Revoked
        }
    }

    /// Returns another end of what the gate admitted: that of a permit of its own. `None` is at
    /// once, where it is not admitted any more, which the first permit tells.
    pub(super) async fn another_ending(self: &Arc<Self>, peer: Peer) -> Option<Ending> {
        let permit = self.gate.admit(peer).await.ok()?;
        Some(Box::pin(self.revoked(permit)))
    }

    /// Answers a request of a client, as far as that is known.
    async fn answer_to(
        self: Arc<Self>,
        request: Request<Incoming>,
        visitor: Arc<Visitor>,
        peer: Option<Peer>,
    ) -> Option<Response<Body>> {
        // Before any answer behind which the connection goes on, perhaps with this request's rest.
        let facts = head::read(&request);
        let page = self.page.as_ref().filter(|page| page.holds(request.uri()));
        if page.is_some()
            && let Some(page) = self.page_for(peer, &visitor)
        {
            return Some(match facts {
                Ok(_) => page.respond(request, visitor).await,
                Err(bad) => answers::bad_request(bad),
            });
        }
        let client = match self.admit(peer).await {
            // What is below the path of the page never reaches the server.
            Ok(client) if page.is_some() => Err(Some(client.peer)),
            admitted => admitted,
        };
        let client = match client {
            Ok(client) => client,
            Err(peer) => {
                let answer = self.deny(request, peer, &visitor).await?;
                return Some(facts.err().map_or(answer, answers::bad_request));
            }
        };
        visitor.prove();
        let Client { peer, permit } = client;
        match facts {
            Ok(facts) => Passage { gate: self, visitor, peer }.pass(request, facts, permit).await,
            Err(bad) => Some(answers::bad_request(bad)),
        }
    }

    /// Looks after idle connections and the log until the service stops.
    async fn look_after(self: Arc<Self>) {
        loop {
            sleep(TICK).await;
            self.server.expire();
            self.failures.tick();
            self.page.iter().for_each(SitePage::tick);
        }
    }
}

impl Application for HttpGate {
    async fn respond(
        self: Arc<Self>,
        request: Request<Incoming>,
        visitor: Arc<Visitor>,
    ) -> Option<Response<Body>> {
        if self.trusts(&visitor) && !self.believes_internal {
            // It is listed, for any client.
            visitor.prove();
        }
        let peer = self.client_of(&request, &visitor);
        let asked = self.logs_requests.then(|| Asked::new(&request, peer));
        let answer = Arc::clone(&self).answer_to(request, visitor, peer).await;
        asked.into_iter().for_each(|asked| asked.answered(self.name(), answer.as_ref()));
        answer
    }

    fn set_capacity(&self, connections: usize) {
        self.slots.set_limit(connections);
    }

    fn begin(self: &Arc<Self>, tasks: &TaskTracker, stop: &CancellationToken) {
        let gate = Arc::clone(self);
        let upkeep = restarting("idle connections", move || Arc::clone(&gate).look_after());
        let checks = self.checks.clone();
        let targets = vec![Arc::clone(self.server.targets())];
        let gate = Arc::clone(self);
        let ending = async move {
            if let Some(page) = &gate.page {
                page.end_gone().await;
            }
        };
        tasks.spawn(stop.clone().run_until_cancelled_owned(ending));
        let gate = Arc::clone(self);
        let stop = stop.clone();
        tasks.spawn(async move {
            let stopped = stop.clone();
            let watch = async {
                let checks = HealthChecks { stop, ..checks };
                checks.warn_if_unreachable(&targets).await;
                checks.run(targets).await;
            };
            tokio::select! {
                () = stopped.cancelled() => {}
                () = async { tokio::join!(upkeep, watch); } => {}
            }
            gate.server.stop();
        });
    }

    fn targets(&self) -> Vec<TargetHealth> {
        self.server.targets().health()
    }

    fn flush_log(&self) {
        self.failures.flush();
        self.page.iter().for_each(SitePage::flush_log);
    }
}
