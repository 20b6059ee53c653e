//! The API over HTTP: paths, headers and statuses.
//!
//! Paths and statuses are Knocker's, with answers of our own for what it lacks. A page of another
//! origin may use `/knock` and nothing else.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use serde::Serialize;
use tokio::time::timeout;

use super::api::{
    ErrorReply, GrantsReply, HealthReply, KnockBody, KnockReply, LeaveBody, LeaveReply, StateReply,
};
use super::caller::Refused;
use super::knocks::Knocks;
use super::options::Options;
use super::policy::{MOST_BODY, Refusal};
use super::{openapi, page};
use crate::web::Visitor;

/// Methods of `/knock`.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE, OPTIONS");

/// Headers of a question that a page of another origin may set.
const HEADERS: HeaderValue = HeaderValue::from_static("X-Api-Key, Content-Type");

/// Time for which a browser may keep the answer about these.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Longest time until the body of a question is complete.
const BODY_TIME: Duration = Duration::from_secs(10);

type Shared = State<Arc<Knocks>>;
type Connection = Extension<Arc<Visitor>>;
/// An answer that no cache keeps: it is for the holder of one token.
type Unstored<T> = ([(HeaderName, HeaderValue); 1], Json<T>);

/// Returns the routes of the API.
pub(super) fn router(knocks: Arc<Knocks>, options: &Options) -> Router {
    let mut router = Router::new()
        .route("/knock", knock_methods(options.allowed_origin.clone()))
        .route("/grants", get(grants))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .merge(page::router());
    if options.has_openapi {
        router = router.route("/openapi.json", get(openapi::document));
    }
    with_errors(router).with_state(knocks)
}

/// Returns the routes of the page on the site of a gate: its files, and what it asks. No other
/// origin may use them.
pub(super) fn site_router(knocks: Arc<Knocks>) -> Router {
    let router = Router::new().route("/knock", get(state).post(knock).delete(leave));
    with_errors(router.merge(page::router())).with_state(knocks)
}

/// Adds the answers to what is not there.
fn with_errors(router: Router<Arc<Knocks>>) -> Router<Arc<Knocks>> {
    router
        .method_not_allowed_fallback(async || {
            error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        })
        .fallback(async || error(StatusCode::NOT_FOUND, "Not Found"))
}

/// Returns the methods of `/knock`. Every answer of theirs says which pages may read it, and no
/// other does.
fn knock_methods(origin: HeaderValue) -> MethodRouter<Arc<Knocks>> {
    get(state)
        .post(knock)
        .delete(leave)
        .options(preflight)
        .route_layer(map_response_with_state(origin, with_origin))
        .fallback(async || {
            // As Knocker has it: browsers ask with OPTIONS what else there is.
            let allow = [(ALLOW, HeaderValue::from_static("OPTIONS"))];
            (allow, error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"))
        })
}

async fn with_origin(State(origin): State<HeaderValue>, mut response: Response) -> Response {
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    response
}

/// Lets the client in, or the address that the body names.
#[utoipa::path(
    post, path = "/knock", security(("token" = [])),
    request_body(content = KnockBody, content_type = "application/json"),
    responses(
        (status = 200, description = "Granted", body = KnockReply),
        (status = 400, description = "The body is not valid, or the client's address is not known", body = ErrorReply),
        (status = 401, description = "The token is missing or wrong", body = ErrorReply),
        (status = 403, description = "The token may not do that", body = ErrorReply),
        (status = 413, description = "The body is too long", body = ErrorReply),
        (status = 415, description = "The body is no JSON", body = ErrorReply),
        (status = 429, description = "Too many attempts", body = ErrorReply, headers(("Retry-After" = u64))),
        (status = 500, description = "The store did not take it", body = ErrorReply),
        (status = 503, description = "There are as many grants as there may be", body = ErrorReply),
    )
)]
pub(super) async fn knock(
    State(knocks): Shared,
    Extension(visitor): Connection,
    headers: HeaderMap,
    body: Body,
) -> Result<Unstored<KnockReply>, Refused> {
    let caller = knocks.caller(&visitor, &headers)?;
    visitor.prove();
    let body = read(&headers, body).await;
    let body = body.map_err(|refusal| knocks.refuse_caller(&caller, refusal))?;
    knocks.knock(&caller, &body).await.map(unstored)
}

/// Tells whether the client is in, and until when.
#[utoipa::path(
    get, path = "/knock", security(("token" = [])),
    responses(
        (status = 200, description = "The state of the client's address", body = StateReply),
        (status = 400, description = "The client's address is not known", body = ErrorReply),
        (status = 401, description = "The token is missing or wrong", body = ErrorReply),
        (status = 429, description = "Too many attempts", body = ErrorReply, headers(("Retry-After" = u64))),
    )
)]
pub(super) async fn state(
    State(knocks): Shared,
    Extension(visitor): Connection,
    headers: HeaderMap,
) -> Result<Unstored<StateReply>, Refused> {
    let caller = knocks.caller(&visitor, &headers)?;
    visitor.prove();
    Ok(unstored(knocks.state(&caller).await))
}

/// Lets the client out, if this token let it in.
#[utoipa::path(
    delete, path = "/knock", security(("token" = [])),
    request_body(content = LeaveBody, content_type = "application/json"),
    responses(
        (status = 200, description = "Whether there was a grant of this token", body = LeaveReply),
        (status = 400, description = "The body is not valid, or the client's address is not known", body = ErrorReply),
        (status = 401, description = "The token is missing or wrong", body = ErrorReply),
        (status = 403, description = "The token may not do that", body = ErrorReply),
        (status = 413, description = "The body is too long", body = ErrorReply),
        (status = 415, description = "The body is no JSON", body = ErrorReply),
        (status = 429, description = "Too many attempts", body = ErrorReply, headers(("Retry-After" = u64))),
        (status = 500, description = "The store did not take it", body = ErrorReply),
    )
)]
pub(super) async fn leave(
    State(knocks): Shared,
    Extension(visitor): Connection,
    headers: HeaderMap,
    body: Body,
) -> Result<Unstored<LeaveReply>, Refused> {
    let caller = knocks.caller(&visitor, &headers)?;
    visitor.prove();
    let body = read(&headers, body).await;
    let body = body.map_err(|refusal| knocks.refuse_caller(&caller, refusal))?;
    knocks.leave(&caller, &body).await.map(unstored)
}

/// Tells browsers what a page of another origin may send.
#[utoipa::path(
    options, path = "/knock",
    responses((status = 204, description = "The methods and headers in the headers"))
)]
pub(super) async fn preflight() -> impl IntoResponse {
    let headers = [
        (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ];
    (StatusCode::NO_CONTENT, headers)
}

/// Lists the allow-set, for tokens that may see it.
#[utoipa::path(
    get, path = "/grants", security(("token" = [])),
    responses(
        (status = 200, description = "Entries of the allow-set", body = GrantsReply),
        (status = 400, description = "The client's address is not known", body = ErrorReply),
        (status = 401, description = "The token is missing or wrong", body = ErrorReply),
        (status = 403, description = "The token may not see them", body = ErrorReply),
        (status = 429, description = "Too many attempts", body = ErrorReply, headers(("Retry-After" = u64))),
        (status = 500, description = "The store does not answer", body = ErrorReply),
    )
)]
pub(super) async fn grants(
    State(knocks): Shared,
    Extension(visitor): Connection,
    headers: HeaderMap,
) -> Result<Unstored<GrantsReply>, Refused> {
    let caller = knocks.caller(&visitor, &headers)?;
    visitor.prove();
    knocks.list(&caller).await.map(unstored)
}

fn unstored<T>(reply: T) -> Unstored<T> {
    ([(CACHE_CONTROL, NO_STORE)], Json(reply))
}

/// Answers that the process lives.
#[utoipa::path(get, path = "/health", responses((status = 200, description = "It does", body = HealthReply)))]
pub(super) async fn health() -> Response {
    uncached(StatusCode::OK, &HealthReply { status: "ok".to_owned(), error: None })
}

/// Answers whether the gate's store is read and takes knocks.
#[utoipa::path(
    get, path = "/ready",
    responses(
        (status = 200, description = "It is", body = HealthReply),
        (status = 503, description = "It is not", body = HealthReply),
    )
)]
pub(super) async fn ready(State(knocks): Shared) -> Response {
    let status = knocks.gate.status();
    if status.unavailable.is_none() && status.since_read.is_some() {
        return uncached(StatusCode::OK, &HealthReply { status: "ok".to_owned(), error: None });
    }
    // The cause is in the log and in the status: a stranger may ask this.
    let error = Some("the gate's store is unavailable".to_owned());
    let reply = HealthReply { status: "unhealthy".to_owned(), error };
    uncached(StatusCode::SERVICE_UNAVAILABLE, &reply)
}

/// Reads the body of a question.
async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    if body.size_hint().lower() > MOST_BODY as u64 {
        return Err(Refusal::TooLarge);
    }
    let body = match timeout(BODY_TIME, Limited::new(body, MOST_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Refusal::TooLarge),
        // Cut off, or too slow.
        Ok(Err(_)) | Err(_) => return Err(Refusal::Malformed),
    };
    if body.is_empty() || is_json(headers) { Ok(body) } else { Err(Refusal::NotJson) }
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_TYPE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let media_type = line.to_str().ok().and_then(|line| line.split(';').next());
    media_type.is_some_and(|it| it.trim().eq_ignore_ascii_case("application/json"))
}

/// Answers a request that could be read in two ways, and ends its connection.
pub(super) fn bad_request() -> Response {
    let close = [(CONNECTION, HeaderValue::from_static("close"))];
    (close, error(StatusCode::BAD_REQUEST, "Bad Request")).into_response()
}

fn uncached(status: StatusCode, reply: &impl Serialize) -> Response {
    (status, [(CACHE_CONTROL, NO_STORE)], Json(reply)).into_response()
}

fn error(status: StatusCode, error: &str) -> Response {
    uncached(status, &ErrorReply { error: error.to_owned() })
}

fn status(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::NoClient
        | Refusal::Malformed
        | Refusal::NoObject
        | Refusal::Ttl
        | Refusal::LongAddress
        | Refusal::Address
        | Refusal::Data
        | Refusal::Wide
        | Refusal::Nobody
        | Refusal::LongTtl => StatusCode::BAD_REQUEST,
        Refusal::Token => StatusCode::UNAUTHORIZED,
        Refusal::Remote | Refusal::Gate | Refusal::List => StatusCode::FORBIDDEN,
        Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Refusal::Locked | Refusal::TooMany => StatusCode::TOO_MANY_REQUESTS,
        Refusal::PlainSet | Refusal::Store => StatusCode::INTERNAL_SERVER_ERROR,
        Refusal::Full => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = error(status(self.refusal), &self.refusal.to_string());
        if let Some(wait) = self.wait {
            // Whole seconds, so that a client that waits them comes late enough.
            let seconds = wait.as_millis().div_ceil(1_000).max(1);
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}
