//! The requests that the service answers.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Json, Response as Answer};
use axum::routing::get;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use serde_json::json;
use tower::ServiceExt;

use crate::gate::{EffectivePolicy, Gate};
use crate::http::Body;
use crate::web::{Application, Visitor};

/// The service of knocks over HTTP.
pub struct Knockd {
    router: Router,
}

/// State that all requests share.
struct Shared {
    gate: Gate,
}

impl Knockd {
    /// Creates the service for a gate.
    pub fn new(gate: Gate) -> Self {
        let shared = Arc::new(Shared { gate });
        let router = Router::new()
            .route("/health", get(health))
            .route("/ready", get(ready))
            .with_state(shared);
        Self { router }
    }
}

impl Application for Knockd {
    async fn respond(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        visitor: Arc<Visitor>,
    ) -> Option<Response<Body>> {
        request.extensions_mut().insert(visitor);
        let Ok(answer) = self.router.clone().oneshot(request).await;
        Some(answer.map(|body| body.map_err(Into::into).boxed_unsync()))
    }
}

/// Answers that the process lives.
async fn health() -> Answer {
    uncached(StatusCode::OK, json!({ "status": "ok" }))
}

/// Answers whether the gate's store is read and takes knocks.
async fn ready(State(shared): State<Arc<Shared>>) -> Answer {
    let status = shared.gate.status();
    match status.policy {
        EffectivePolicy::Fresh => uncached(StatusCode::OK, json!({ "status": "ok" })),
        _ => {
            // The cause is in the log and in the status: a stranger may ask this.
            let error = "the gate's store is unavailable";
            let body = json!({ "status": "unhealthy", "error": error });
            uncached(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

fn uncached(status: StatusCode, body: serde_json::Value) -> Answer {
    (status, [(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
