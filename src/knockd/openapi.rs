//! The OpenAPI document of the API, made of the handlers and the types of its bodies.
//!
//! Served only where the operator asks for it: it tells strangers what listens here.

use axum::response::Json;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa::openapi::{RefOr, Required};
use utoipa::{Modify, OpenApi};

use super::api::TOKEN_HEADER;
use super::{routes, verify};

#[derive(OpenApi)]
#[openapi(
    info(title = "Knocks over HTTP", description = "Lets addresses into a gate, for those who have a token."),
    paths(
        routes::knock, routes::state, routes::leave, routes::preflight, routes::grants,
        routes::health, routes::ready, verify::verify
    ),
    modifiers(&Amendments)
)]
struct Document;

/// Parts that attributes cannot express.
struct Amendments;

impl Modify for Amendments {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let header = ApiKey::Header(ApiKeyValue::new(TOKEN_HEADER));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::ApiKey(header));
        for path in document.paths.paths.values_mut() {
            for operation in [&mut path.post, &mut path.delete].into_iter().flatten() {
                if let Some(RefOr::T(body)) = &mut operation.request_body {
                    // Nothing asks for nothing in particular.
                    body.required = Some(Required::False);
                }
            }
        }
    }
}

/// Answers with the document.
pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
