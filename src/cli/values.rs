//! Values of flags, from text to a checked value.
//!
//! Every error is the second half of a line that starts with the flag, and ends with what to
//! write instead.

use std::net::Ipv4Addr;
use std::str::FromStr;

use clap::ValueEnum;
use hyper::header::{HeaderName, HeaderValue};
use tracing_subscriber::filter::LevelFilter;

use crate::addr::{AddrError, Address, ServiceName, Source};
use crate::frontend::PerSource;
use crate::observe::log;
use crate::proto::suite::UnknownSuite;
use crate::proto::{Suite, SuiteSet};

/// Upper limit of all numbers: more than descriptors can allow.
const MOST: usize = 1_000_000;

/// A value that does not fit its flag.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadValue {
    /// Not a number of sessions.
    #[error(
        "'{0}' is not a number of sessions; give a whole number up to {MOST}, 0 for as many as file descriptors allow"
    )]
    Sessions(String),
    /// Not a number of handshakes.
    #[error("'{0}' is not a number of handshakes; give a whole number from 1 to {MOST}")]
    Handshakes(String),
    /// Not a number of tunnels.
    #[error("'{0}' is not a number of tunnels; give a whole number from 0 to {MOST}")]
    Pool(String),
    /// Not the name of a field.
    #[error("'{0}' is not the name of a header field; write one such as X-Real-IP")]
    FieldName(String),
    /// Not the value of a field.
    #[error(
        "'{0}' cannot be the value of a header field; write one line of printable characters, such as text/html"
    )]
    FieldValue(String),
    /// Not a limit for each source.
    #[error(
        "'{0}' is not a limit for each source; give SESSIONS or SESSIONS/PER_SECOND, such as 20 or 20/5"
    )]
    PerSource(String),
    /// `=ADDR`.
    #[error(
        "'{0}' has no service name before '='; write NAME=ADDR, or ADDR for the default target"
    )]
    NoName(String),
    /// `NAME=ADDR,NAME=ADDR`.
    #[error("'{0}' is several targets; give each by itself: -t {1}, or a list in a file")]
    Targets(String, String),
    /// The part before `=` is not a service name.
    #[error("'{0}' does not start with a service name: {1}")]
    Name(String, String),
    /// `NAME:ADDR`.
    #[error("'{0}:{1}' has several colons; write {0}={1} for the service {0} at {1}")]
    ColonName(ServiceName, Address),
    /// The address is invalid.
    #[error("{0}")]
    Address(String),
}

/// `-n`: `None` is as many as file descriptors allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionLimit(pub(super) Option<usize>);

/// `--max-handshakes`: at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HandshakeLimit(pub(super) usize);

/// `--pool` and `--max-unopened`: any number, also none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PoolSize(pub(super) usize);

/// `--metrics`: a port alone is on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MetricsAddress(pub(super) Address);

/// `--max-per-source`: SESSIONS or SESSIONS/PER_SECOND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SourceLimit(pub(super) PerSource);

/// `-t [NAME=]ADDR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `None` when no `NAME=` was given.
    pub(super) service: Option<ServiceName>,
    /// Address to forward to.
    pub(super) address: Address,
}

/// A source and how the user spelled it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AsTyped {
    /// As typed.
    pub(super) text: String,
    /// The parsed source.
    pub(super) source: Source,
}

/// `--suite`: the suites that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SuiteChoice(pub(super) SuiteSet);

/// `--log-level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

/// Parses the name of a field of HTTP.
pub(super) fn header_name(text: &str) -> Result<HeaderName, BadValue> {
    text.parse().map_err(|_| BadValue::FieldName(text.escape_debug().to_string()))
}

/// Parses the value of a field of HTTP.
pub(super) fn header_value(text: &str) -> Result<HeaderValue, BadValue> {
    let value = HeaderValue::from_str(text).ok().filter(|value| !value.is_empty());
    value.ok_or_else(|| BadValue::FieldValue(text.escape_debug().to_string()))
}

/// Parses a whole number in decimal digits only: `usize` would also read a plus sign.
pub(super) fn whole(text: &str) -> Option<usize> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|number| *number <= MOST)
}

impl FromStr for SessionLimit {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let number = whole(text).ok_or_else(|| BadValue::Sessions(text.to_owned()))?;
        Ok(Self((number > 0).then_some(number)))
    }
}

impl FromStr for HandshakeLimit {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        whole(text)
            .filter(|number| *number > 0)
            .map(Self)
            .ok_or_else(|| BadValue::Handshakes(text.to_owned()))
    }
}

impl FromStr for PoolSize {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        whole(text).map(Self).ok_or_else(|| BadValue::Pool(text.to_owned()))
    }
}

impl FromStr for MetricsAddress {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let port = text.strip_prefix(':').unwrap_or(text);
        let is_alone = port.parse::<u16>().is_ok();
        let address = if is_alone { format!("127.0.0.1:{port}") } else { text.to_owned() };
        address.parse().map(Self).map_err(AddrError::listening)
    }
}

impl FromStr for SourceLimit {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad = || BadValue::PerSource(text.to_owned());
        let at_least_one = |part| whole(part).filter(|number| *number > 0).ok_or_else(bad);
        let (sessions, rate) = match text.split_once('/') {
            Some((sessions, rate)) => (sessions, Some(rate)),
            None => (text, None),
        };
        let per_second = rate.map(at_least_one).transpose()?;
        Ok(Self(PerSource {
            sessions: at_least_one(sessions)?,
            per_second: per_second.map(u32::try_from).transpose().map_err(|_| bad())?,
        }))
    }
}

impl FromStr for Target {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        refuse_several(text)?;
        // A path or a URL may contain '='; host names and ports never do.
        let (name, address) = match text.split_once('=') {
            Some((name, address)) if !text.starts_with('/') && !name.contains("://") => {
                (Some(name), address)
            }
            _ => (None, text),
        };
        if name == Some("") {
            return Err(BadValue::NoName(text.to_owned()));
        }
        let service = name
            .map(str::parse)
            .transpose()
            .map_err(|error| BadValue::Name(text.to_owned(), format!("{error}")))?;
        let address = match address.parse::<Address>() {
            Ok(address) => address,
            // Its text already has the right spelling.
            Err(error @ AddrError::Scheme { .. }) => {
                return Err(BadValue::Address(error.to_string()));
            }
            Err(error) => {
                let error = || BadValue::Address(error.to_string());
                return Err(colon_name(text).unwrap_or_else(error));
            }
        };
        Ok(Self { service, address })
    }
}

impl FromStr for AsTyped {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let source =
            text.parse().map_err(|error: AddrError| BadValue::Address(error.to_string()))?;
        Ok(Self { text: text.to_owned(), source })
    }
}

/// Explains `redis:127.0.0.1:6379`, which looks like IPv6 but is not meant as such. A name that
/// could be the first part of an IPv6 address counts only before an IPv4 address.
fn colon_name(text: &str) -> Option<BadValue> {
    let (name, rest) = text.split_once(':')?;
    let service: ServiceName = name.parse().ok()?;
    let address: Address = rest.parse().ok()?;
    let is_ipv4 = rest.split(':').next().is_some_and(|host| host.parse::<Ipv4Addr>().is_ok());
    let is_word = u16::from_str_radix(name, 16).is_err();
    (is_ipv4 || is_word).then_some(BadValue::ColonName(service, address))
}

/// Refuses `redis=A,mysql=B`. A path may contain a comma.
fn refuse_several(text: &str) -> Result<(), BadValue> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    if parts.len() < 2 || !parts.iter().all(|part| part.parse::<Target>().is_ok()) {
        return Ok(());
    }
    Err(BadValue::Targets(text.to_owned(), parts.join(" -t ")))
}

/// Parses `-t` where only one is possible.
pub(super) fn one_target(text: &str) -> Result<Target, BadValue> {
    match text.parse() {
        Err(BadValue::Targets(text, _)) => {
            Err(BadValue::Address(AddrError::Several(text).to_string()))
        }
        parsed => parsed,
    }
}

impl FromStr for SuiteChoice {
    type Err = UnknownSuite;

    fn from_str(text: &str) -> Result<Self, UnknownSuite> {
        match text {
            "auto" => Ok(Self(SuiteSet::BOTH)),
            name => Ok(Self(SuiteSet::only(name.parse::<Suite>()?))),
        }
    }
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

impl From<Format> for log::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
