//! Settings of the service of knocks over HTTP.

use std::sync::Arc;

use crate::gate::GateOptions;
use crate::web::WebOptions;

/// Settings of the service of knocks over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Listeners, TLS and limits.
    pub web: WebOptions,
    /// The gate whose store is written.
    pub gate: Arc<GateOptions>,
}
