//! Failures of a Redis server, sorted by the reaction to them.

use std::fmt;

use redis::{ErrorKind, RedisError, ServerError};

use super::super::store::StoreError;
use super::address::Node;
use super::cause::{Cause, cause_of};
use crate::printable::printable;

/// A failure of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RedisFailure {
    pub(super) kind: Kind,
    /// The server, or the servers.
    pub(super) server: String,
    /// One line without the server.
    pub(super) cause: String,
    /// The remedy, where one is known that is better than that of its kind.
    remedy: Option<&'static str>,
}

/// The kind of a failure, which decides the reaction.
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
    /// The server wants a password, and there is none.
    NoPassword,
    /// The server does not know this user with this password.
    WrongPassword,
    /// The same, with a user that was taken from the text before a colon.
    WrongLogin,
    /// The server's memory is full.
    Full,
    /// It answers with more than there can be.
    TooMuch,
    /// Everything else.
    Other,
}

impl RedisFailure {
    pub(super) fn new(kind: Kind, server: impl fmt::Display, cause: impl Into<String>) -> Self {
        let (server, cause) = (one_line(&server.to_string()), one_line(&cause.into()));
        Self { kind, server, cause, remedy: None }
    }

    pub(super) fn of(error: &RedisError, server: &Node) -> Self {
        let Cause { text, remedy } = cause(error);
        Self::new(kind(error), server, text).with(remedy)
    }

    /// A connection that failed for this cause.
    pub(super) fn broken(cause: Cause, server: &Node) -> Self {
        Self::new(Kind::Lost, server, cause.text).with(cause.remedy)
    }

    pub(super) fn silent(server: &Node) -> Self {
        Self::new(Kind::Silent, server, "does not answer within a second")
    }

    /// The same, after a login of this kind. A user was given with a colon behind it,
    /// which may have been a part of the password.
    pub(super) fn of_login(mut self, has_user: bool) -> Self {
        if self.kind == Kind::WrongPassword && has_user {
            self.kind = Kind::WrongLogin;
        }
        self
    }

    /// With a remedy that is better than that of its kind, if there is one.
    pub(super) fn with(self, remedy: Option<&'static str>) -> Self {
        Self { remedy: remedy.or(self.remedy), ..self }
    }

    /// The same failure, with the step in front.
    pub(super) fn at(self, step: &str) -> Self {
        Self { cause: one_line(&format!("{step}: {}", self.cause)), ..self }
    }

    /// As an error about `key`.
    pub(super) fn into_store_error(self, key: &str) -> StoreError {
        let remedy = self.remedy.unwrap_or(match self.kind {
            Kind::Lost | Kind::Silent => "see whether the server runs and can be reached",
            Kind::Elsewhere | Kind::Loading => "try again in a moment",
            Kind::ReadOnly => "name its master, or the Sentinels that know it",
            Kind::WrongType => "name another key (--set or --ban-prefix), or delete this one",
            Kind::Denied => "let the ACL user do this, or name another user",
            Kind::NoPassword => NO_PASSWORD,
            Kind::WrongPassword => WRONG_PASSWORD,
            Kind::WrongLogin => WRONG_LOGIN,
            Kind::Full => "free memory on the server, or raise its maxmemory",
            Kind::TooMuch => TOO_MUCH,
            Kind::Other => "see the server's log",
        });
        StoreError::Failed { server: self.server, key: key.to_owned(), cause: self.cause, remedy }
    }

    /// As an error about the history, which has a flag of its own.
    pub(super) fn into_history_error(self, key: &str) -> StoreError {
        let is_other_type = self.kind == Kind::WrongType;
        match self.into_store_error(key) {
            StoreError::Failed { server, key, cause, .. } if is_other_type => {
                let remedy = "name another key (--history), or delete this one";
                StoreError::Failed { server, key, cause, remedy }
            }
            error => error,
        }
    }
}

const NO_PASSWORD: &str =
    "give a password with --gate-credentials FILE or KNOCKPIPE_GATE_CREDENTIALS";
const TOO_MUCH: &str =
    "see whether this is the Redis that it should be, and what the gate's keys hold";
const WRONG_PASSWORD: &str =
    "see --gate-credentials FILE or KNOCKPIPE_GATE_CREDENTIALS: the password there is wrong";
const WRONG_LOGIN: &str = "see --gate-credentials FILE or KNOCKPIPE_GATE_CREDENTIALS: the \
     password there is wrong, or its user: it was read as USER:PASSWORD, and a password with a \
     colon in it is written :PASSWORD";

impl fmt::Display for RedisFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.server, self.cause)?;
        // Only the operator can end these.
        match self.kind {
            _ if self.remedy.is_some() => write!(f, "; {}", self.remedy.unwrap_or_default()),
            Kind::NoPassword => write!(f, "; {NO_PASSWORD}"),
            Kind::WrongPassword => write!(f, "; {WRONG_PASSWORD}"),
            Kind::WrongLogin => write!(f, "; {WRONG_LOGIN}"),
            Kind::TooMuch => write!(f, "; {TOO_MUCH}"),
            _ => Ok(()),
        }
    }
}

fn kind(error: &RedisError) -> Kind {
    match error.kind() {
        ErrorKind::Io if error.is_timeout() => return Kind::Silent,
        ErrorKind::Io => return Kind::Lost,
        _ => {}
    }
    match said(error).as_ref().map(ServerError::code) {
        Some("NOPERM") => Kind::Denied,
        Some("NOAUTH") => Kind::NoPassword,
        Some("WRONGPASS") => Kind::WrongPassword,
        Some("MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN") => Kind::Elsewhere,
        Some("READONLY") => Kind::ReadOnly,
        Some("LOADING") => Kind::Loading,
        Some("OOM") => Kind::Full,
        Some("WRONGTYPE") => Kind::WrongType,
        _ if error.kind() == ErrorKind::AuthenticationFailed => Kind::WrongPassword,
        _ => Kind::Other,
    }
}

/// The words of the server; of several answers at once the first that is an error.
fn said(error: &RedisError) -> Option<ServerError> {
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, error)| error.clone())
}

/// The words of the server, unchanged; else those of the system.
fn cause(error: &RedisError) -> Cause {
    let plain = |text: String| Cause { text, remedy: None };
    if error.is_timeout() {
        return plain("does not answer within a second".to_owned());
    }
    match said(error) {
        Some(said) => plain(format!("{} {}", said.code(), said.details().unwrap_or_default())),
        None if error.kind() == ErrorKind::Io => cause_of(error),
        None => plain(error.to_string()),
    }
}

/// A printable form: a server's text can hold anything, a log line cannot.
fn one_line(text: &str) -> String {
    let mut chars = text.trim().chars();
    let line: String = chars.by_ref().take(300).collect();
    let line = printable(&line).into_owned();
    if chars.next().is_some() { line + "..." } else { line }
}
