//! The service: one router for all that it answers, and its background tasks.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::disguise::Disguised;
use super::framing;
use super::knocks::{KnockParts, Knocks};
use super::options::Options;
use super::plain::PlainHttp;
use super::routes;
use super::verify::{self, Verifier};
use crate::gate::Gate;
use crate::http::{Body, ClientRules, Form, Head, TrustedProxies};
use crate::observe::Meters;
use crate::web::{Application, Visitor};

/// Interval at which due summaries of refusals are written.
const SUMMARY_TICK: Duration = Duration::from_secs(1);

/// The service of knocks over HTTP.
pub struct Knockd {
    knocks: Arc<Knocks>,
    router: Router,
    disguise: Option<Arc<Disguised>>,
    plain: PlainHttp,
    proxies: TrustedProxies,
}

impl Knockd {
    /// Creates the service for a gate. The locks of one that it replaces stay.
    pub fn new(options: &Options, gate: Gate, meters: Arc<Meters>, before: Option<&Self>) -> Self {
        let before = before.map(|before| &*before.knocks);
        let proxies = options.web.trusted_proxies.clone();
        let clients = ClientRules::forwarded(proxies.clone());
        let name = options.web.name.clone();
        let parts = KnockParts {
            name,
            clients: clients.clone(),
            gate: gate.clone(),
            meters: Arc::clone(&meters),
        };
        let knocks = Arc::new(Knocks::new(&options.rules, parts, before));
        let verifier = Verifier::new(gate, clients, options.excluded.clone(), meters);
        let router = routes::router(Arc::clone(&knocks), options).merge(verify::router(verifier));
        let disguise = options.disguise.clone().map(|it| Disguised::new(it, Arc::clone(&knocks)));
        Self { knocks, router, disguise, plain: options.plain, proxies }
    }

    /// Returns true if this connection may carry secrets.
    fn may_serve(&self, visitor: &Visitor) -> bool {
        self.plain.may_serve(visitor, &self.proxies)
    }
}

impl Application for Knockd {
    async fn respond(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        visitor: Arc<Visitor>,
    ) -> Option<Response<Body>> {
        if !self.may_serve(&visitor) {
            return None;
        }
        if !framing::is_plain(&request) {
            return Some(boxed(routes::bad_request()));
        }
        request.extensions_mut().insert(visitor);
        let Ok(answer) = self.router.clone().oneshot(request).await;
        Some(boxed(answer))
    }

    fn has_one_form(&self) -> bool {
        self.disguise.is_some()
    }

    async fn answer(self: Arc<Self>, head: Option<Head>, visitor: Arc<Visitor>) -> Option<Form> {
        let disguise = Arc::clone(self.disguise.as_ref().filter(|_| self.may_serve(&visitor))?);
        Some(disguise.answer(head, visitor.address(), visitor.tasks()).await)
    }

    fn begin(self: &Arc<Self>, tasks: &TaskTracker, stop: &CancellationToken) {
        let knocks = Arc::clone(&self.knocks);
        let ticks = async move {
            loop {
                sleep(SUMMARY_TICK).await;
                knocks.tick();
            }
        };
        let knocks = Arc::clone(&self.knocks);
        let ending = async move { knocks.end_gone().await };
        tasks.spawn(stop.clone().run_until_cancelled_owned(ticks));
        tasks.spawn(stop.clone().run_until_cancelled_owned(ending));
    }

    fn flush_log(&self) {
        self.knocks.flush_log();
    }
}

/// Returns an answer of the router with a body of all services.
pub(super) fn boxed(answer: Response<axum::body::Body>) -> Response<Body> {
    answer.map(|body| body.map_err(Into::into).boxed_unsync())
}
