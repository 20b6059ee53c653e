//! Forward-auth and the disguised knock of `knockd`, as real proxies and clients see them: Caddy,
//! nginx and HAProxy with the examples of `packaging/forward-auth`, Traefik by the requests that it
//! documents.

mod behind_haproxy;
mod disguise;
mod disguise_vectors;
mod examples;
mod fronts;
mod http;
mod plain;
mod proxies;
mod verify;
mod world;

use std::path::Path;

/// Returns a path as the word of a command line.
fn path(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}
