//! Bodies of answers, of one type for all services.

use std::error::Error;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

/// Failure of a body that is passed on.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Body of an answer.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Makes a body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Makes a body without bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
