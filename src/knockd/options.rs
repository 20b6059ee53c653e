//! Settings of the service of knocks over HTTP. The command line makes them.

use std::sync::Arc;

use hyper::header::HeaderValue;

use super::disguise::Disguise;
use super::limits::Rate;
use super::paths::ExcludedPaths;
use super::plain::PlainHttp;
use super::tokens::Tokens;
use crate::addr::ServiceName;
use crate::gate::GateOptions;
use crate::keys::KeyRing;
use crate::knock::ReceiverOptions;
use crate::web::WebOptions;

/// Settings of the service of knocks over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Listeners, TLS and limits.
    pub web: WebOptions,
    /// Those whom plain HTTP is served to.
    pub plain: PlainHttp,
    /// The gate whose store is written.
    pub gate: Arc<GateOptions>,
    /// Tokens that may knock.
    pub tokens: Arc<Tokens>,
    /// Names that the gate answers to; the first is meant where none is named.
    pub gates: Vec<ServiceName>,
    /// Refused knocks of a source, after which it is locked out.
    pub failures: Rate,
    /// Granted knocks of a source.
    pub successes: Rate,
    /// Most grants at once, of all that have an end.
    pub most_grants: usize,
    /// Origin of pages that may use the API, for browsers; `*` is any.
    pub allowed_origin: HeaderValue,
    /// The OpenAPI document is served.
    pub has_openapi: bool,
    /// The receiver of signed knocks, where there is one.
    pub signed: Option<Signed>,
    /// Paths that proxies let through for anybody.
    pub excluded: Arc<ExcludedPaths>,
    /// The disguise, of which the secret is the one token.
    pub disguise: Option<Arc<Disguise>>,
}

/// Receiver of signed knocks beside the API.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed {
    /// Addresses and rules.
    pub receiver: Arc<ReceiverOptions>,
    /// Keys of those who send them.
    pub keys: KeyRing,
}
