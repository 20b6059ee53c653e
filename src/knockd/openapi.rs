//! The OpenAPI document of the API, made of the handlers and the types of its bodies.
//!
//! Served only where the operator asks for it: it tells strangers what listens here.

use axum::response::Json;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa::openapi::{KnownFormat, RefOr, Required, Schema, SchemaFormat, Type};
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

/// Describes an address or network that a body may name.
pub(super) fn address() -> Schema {
    let one = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    let v4 = format!(r"^({one}\.){{3}}{one}/(1[6-9]|2[0-9]|3[0-2])$");
    let group = "[0-9a-f]{1,4}";
    let v6 = format!("^({group}:){{7}}{group}/(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-8])$");
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let format = |known| text().format(Some(SchemaFormat::KnownFormat(known)));
    let any = AnyOfBuilder::new()
        .item(format(KnownFormat::Ipv4))
        .item(format(KnownFormat::Ipv6))
        .item(text().pattern(Some(v4)))
        .item(text().pattern(Some(v6)))
        .item(ObjectBuilder::new().schema_type(Type::Null));
    Schema::AnyOf(any.build())
}

/// Answers with the document.
pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
