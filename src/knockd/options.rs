//! Settings of the service of knocks over HTTP. The command line makes them.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

use super::limits::Rate;
use super::paths::ExcludedPaths;
use super::plain::PlainHttp;
use super::tokens::Tokens;
use crate::addr::ServiceName;
use crate::gate::GateOptions;
use crate::http::ClientRules;
use crate::keys::KeyRing;
use crate::knock::ReceiverOptions;
use crate::web::WebOptions;

/// Settings of the service of knocks over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Listeners, TLS and limits.
    pub web: WebOptions,
    /// Peers that plain HTTP is served to.
    pub plain: PlainHttp,
    /// The gate with the store that is written.
    pub gate: Arc<GateOptions>,
    /// Rules of knocks.
    pub rules: KnockRules,
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

/// Rules of knocks over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct KnockRules {
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
}

/// Settings of the knock page on the site of a gate.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteOptions {
    /// Rules of knocks.
    pub rules: KnockRules,
    /// Peers that plain HTTP is served to.
    pub plain: PlainHttp,
}

/// Receiver of signed knocks beside the API.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed {
    /// Addresses and rules.
    pub receiver: Arc<ReceiverOptions>,
    /// Keys of those who send them.
    pub keys: KeyRing,
}

/// Settings of the disguise. The secret is a token of the service.
#[derive(Clone, Debug, PartialEq)]
pub struct Disguise {
    /// Path of the knock, taken literally.
    pub path: String,
    /// Header with the secret.
    pub secret: HeaderName,
    /// Header with the label.
    pub label: HeaderName,
    /// Header with the address to let in; without one that is the client's own.
    pub claim: Option<HeaderName>,
    /// Rules by which the client is known.
    pub clients: ClientRules,
    /// The answers.
    pub answers: Answers,
}

/// Answers of a disguised service.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// Status of all.
    pub status: StatusCode,
    /// Type of their bodies.
    pub content_type: HeaderValue,
    /// Body where nothing was opened.
    pub failure: Bytes,
    /// Body where an address was let in.
    pub success: Bytes,
}
