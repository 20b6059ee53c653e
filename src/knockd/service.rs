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

use super::framing;
use super::knocks::Knocks;
use super::options::Options;
use super::routes;
use crate::gate::Gate;
use crate::http::Body;
use crate::observe::Meters;
use crate::web::{Application, Visitor};

/// Interval at which due summaries of refusals are written.
const SUMMARY_TICK: Duration = Duration::from_secs(1);

/// The service of knocks over HTTP.
pub struct Knockd {
    knocks: Arc<Knocks>,
    router: Router,
}

impl Knockd {
    /// Creates the service for a gate. The locks of one that it replaces stay.
    pub fn new(options: &Options, gate: Gate, meters: Arc<Meters>, before: Option<&Self>) -> Self {
        let before = before.map(|before| &*before.knocks);
        let knocks = Arc::new(Knocks::new(options, gate, meters, before));
        let router = routes::router(Arc::clone(&knocks));
        Self { knocks, router }
    }
}

impl Application for Knockd {
    async fn respond(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        visitor: Arc<Visitor>,
    ) -> Option<Response<Body>> {
        if !framing::is_plain(&request) {
            return Some(boxed(routes::bad_request()));
        }
        request.extensions_mut().insert(visitor);
        let Ok(answer) = self.router.clone().oneshot(request).await;
        Some(boxed(answer))
    }

    fn begin(self: &Arc<Self>, tasks: &TaskTracker, stop: &CancellationToken) {
        let knocks = Arc::clone(&self.knocks);
        let ticks = async move {
            loop {
                sleep(SUMMARY_TICK).await;
                knocks.tick();
            }
        };
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = ticks => {}
            }
        });
    }

    fn flush_log(&self) {
        self.knocks.flush_log();
    }
}

fn boxed(answer: Response<axum::body::Body>) -> Response<Body> {
    answer.map(|body| body.map_err(Into::into).boxed_unsync())
}
