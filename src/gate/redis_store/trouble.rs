//! What goes wrong at a Redis server, sorted by what to do about it.

use std::fmt;
use std::io;

use redis::{ErrorKind, RedisError, ServerError};

use super::super::store::StoreError;
use super::address::Node;

/// Something went wrong at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    /// The server, or the servers.
    pub(super) server: String,
    /// One line without the server.
    pub(super) cause: String,
}

/// What kind of trouble, which decides how to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No connection, or none any more.
    Lost,
    /// No answer in time; what was asked may have been done.
    Silent,
    /// Another server has the key, or will have it in a moment.
    Elsewhere,
    /// This server is a replica.
    ReadOnly,
    /// This server cannot answer yet.
    Loading,
    /// A key holds something else than what it should.
    WrongType,
    /// The user may not do this.
    Denied,
    /// The server's memory is full.
    Full,
    /// Everything else.
    Other,
}

impl Trouble {
    pub(super) fn new(kind: Kind, server: impl fmt::Display, cause: impl Into<String>) -> Self {
        Self { kind, server: server.to_string(), cause: cause.into() }
    }

    pub(super) fn of(error: &RedisError, server: &Node) -> Self {
        Self::new(kind(error), server, cause(error))
    }

    pub(super) fn io(error: &io::Error, server: &Node) -> Self {
        Self::new(Kind::Lost, server, one_line(&error.to_string()))
    }

    pub(super) fn silent(server: &Node) -> Self {
        Self::new(Kind::Silent, server, "does not answer within a second")
    }

    /// As an error about `key`.
    pub(super) fn about(self, key: &str) -> StoreError {
        let remedy = match self.kind {
            Kind::Lost | Kind::Silent => "see whether the server runs and can be reached",
            Kind::Elsewhere | Kind::Loading => "try again in a moment",
            Kind::ReadOnly => "name its master, or the Sentinels that know it",
            Kind::WrongType => "name another key (--set or --ban-prefix), or delete this one",
            Kind::Denied => "let the ACL user do this, or name another user",
            Kind::Full => "free memory on the server, or raise its maxmemory",
            Kind::Other => "see the server's log",
        };
        StoreError::Failed { server: self.server, key: key.to_owned(), cause: self.cause, remedy }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.server, self.cause)
    }
}

fn kind(error: &RedisError) -> Kind {
    match error.kind() {
        ErrorKind::Io if error.is_timeout() => return Kind::Silent,
        ErrorKind::Io => return Kind::Lost,
        ErrorKind::AuthenticationFailed => return Kind::Denied,
        _ => {}
    }
    match said(error).as_ref().map(ServerError::code) {
        Some("NOPERM" | "NOAUTH" | "WRONGPASS") => Kind::Denied,
        Some("MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN") => Kind::Elsewhere,
        Some("READONLY") => Kind::ReadOnly,
        Some("LOADING") => Kind::Loading,
        Some("OOM") => Kind::Full,
        Some("WRONGTYPE") => Kind::WrongType,
        _ => Kind::Other,
    }
}

/// What the server said, of several answers at once the first that is an error.
fn said(error: &RedisError) -> Option<ServerError> {
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, error)| error.clone())
}

/// What the server said, as it said it; else what the system said.
fn cause(error: &RedisError) -> String {
    if error.is_timeout() {
        return "does not answer within a second".to_owned();
    }
    match said(error) {
        Some(said) => one_line(&format!("{} {}", said.code(), said.details().unwrap_or_default())),
        None => one_line(&error.to_string()),
    }
}

/// A server's text can hold anything; a log line cannot.
fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}
