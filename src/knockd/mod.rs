//! The service that takes knocks over HTTP, and answers proxies that ask whether to let an address
//! in: a token in a header puts an address into the gate's store.
//!
//! ```text
//!   options   settings of the service
//!   service   the service: its router, background tasks
//!   framing   requests that two parsers could read in two ways
//!   plain     peers that plain HTTP is served to
//!   routes    paths, headers and statuses of the API
//!   openapi   the document about these
//!   page      the page to knock on
//!   site      the same on the site of a gate
//!   api       bodies of questions and answers
//!   knocks    from a request to the store and back
//!   progress  what goes on in the service that replaces this one
//!   revoked   the end of what revoked tokens granted
//!   caller    one who knocks, and a refusal
//!   policy    body, token and client -> a grant, or the refusal
//!   tokens    who may knock, and what for
//!   limits    failures and successes of a source
//!   verify    the question of proxies
//!   paths     what a proxy may let through for anybody
//!   disguise  the knock that looks like a request for a file
//! ```
//!
//! It writes the store and asks it nothing on the way of a decision: whether an address is in is
//! read from the gate's memory. It never calls an enforcer; these follow the store.

pub mod api;
mod caller;
mod disguise;
mod framing;
mod knocks;
mod limits;
mod openapi;
mod options;
mod page;
mod paths;
mod plain;
mod policy;
mod progress;
mod revoked;
mod routes;
mod service;
mod site;
pub mod tokens;
mod verify;

pub use limits::Rate;
pub use options::{Answers, Disguise, KnockRules, Options, Signed, SiteOptions};
pub use paths::ExcludedPath;
pub use plain::PlainHttp;
pub use service::Knockd;
pub use site::{SitePage, SiteParts};
