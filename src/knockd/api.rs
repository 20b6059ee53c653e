//! Bodies of questions and answers of the API, which its clients and the page share.
//!
//! Names and meanings of a knock and of errors are those of Knocker, so that its clients work here.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder};
use utoipa::openapi::{KnownFormat, Schema, SchemaFormat, Type};

/// Longest grant that can be asked for, in seconds: ten years.
pub const MOST_TTL_S: u64 = 315_360_000;

/// Most characters of an address or network.
pub const MOST_ADDRESS: usize = 100;

/// Most characters of a label.
pub const MOST_LABEL: usize = 64;

/// Header with the token.
pub const TOKEN_HEADER: &str = "x-api-key";

/// A knock: the client's own address for the longest time where nothing else is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KnockBody {
    /// Wished duration of the grant; more than the token may have is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 315_360_000)]
    pub ttl: Option<u64>,
    /// Another address than the client's own, or a network of at most 65,536 IPv4 addresses or one
    /// IPv6 /64, for tokens that may name one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = any_address)]
    pub ip_address: Option<String>,
    /// Text for people, beside the grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64)]
    pub label: Option<String>,
    /// Name of the gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    pub gate: Option<String>,
}

/// A grant that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KnockReply {
    /// The address or network, as it was named.
    pub whitelisted_entry: String,
    /// End of the grant in unix seconds.
    pub expires_at: u64,
    /// Its duration.
    pub expires_in_seconds: u64,
}

/// State of the client's own address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateReply {
    /// The address.
    pub address: String,
    /// The gate admits it.
    pub allowed: bool,
    /// End in unix seconds; none where it is not admitted, or for ever.
    #[schema(required)]
    pub expires_at: Option<u64>,
    /// Time left.
    #[schema(required)]
    pub expires_in_seconds: Option<u64>,
    /// Label of its grant, if this token made it.
    #[schema(required)]
    pub label: Option<String>,
    /// Longest grant of the token in seconds.
    pub max_ttl: u64,
}

/// An address that is to be let out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaveBody {
    /// Another address or network than the client's own, for tokens that may name one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = any_address)]
    pub ip_address: Option<String>,
}

/// Result of leaving.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaveReply {
    /// There was a grant of this token, and it is gone.
    pub removed: bool,
}

/// All grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GrantsReply {
    /// Entries of the allow-set.
    pub grants: Vec<GrantReply>,
    /// There are more than an answer holds.
    pub more: bool,
}

/// One entry of the allow-set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GrantReply {
    /// The address or network.
    pub address: String,
    /// Name of who made it: `token:NAME`, `key:ID` or `operator:USER`.
    #[schema(required)]
    pub who: Option<String>,
    /// Its label.
    #[schema(required)]
    pub label: Option<String>,
    /// The moment when it was made, in unix seconds.
    #[schema(required)]
    pub since: Option<u64>,
    /// Its end in unix seconds; none is for ever.
    #[schema(required)]
    pub expires_at: Option<u64>,
}

/// Cause of a request that was not served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorReply {
    /// The cause.
    pub error: String,
}

/// State of the process, or of its store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthReply {
    /// `ok` or `unhealthy`.
    pub status: String,
    /// The cause, if it is not `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What no schema says that tools make requests of: a text that it must not be.
const OF_NO_CLIENT: &str = "An address or a network that clients have. Refused with 400 are those of \
    0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3, ::/64, fe80::/10 and ff00::/8, apart from \
    IPv4 addresses in IPv6 form, and from this host's own for a client on it.";

/// Describes an address or network that a body may name.
fn any_address() -> Schema {
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
        .item(ObjectBuilder::new().schema_type(Type::Null))
        .description(Some(OF_NO_CLIENT));
    Schema::AnyOf(any.build())
}
