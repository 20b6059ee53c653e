//! What stands behind a flag, from text to a checked value.
//!
//! Every error is the second half of a line that starts with the flag, and
//! ends with what to write instead.

use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use tracing_subscriber::filter::LevelFilter;

use crate::addr::{AddrError, Address, ServiceName, Source};
use crate::duration;
use crate::frontend::PerSource;
use crate::observe::log;
use crate::proto::heartbeat::Heartbeat;
use crate::proto::suite::UnknownSuite;
use crate::proto::{Suite, SuiteSet};

/// The most of anything that can be asked for: more than descriptors can be had.
const MOST: usize = 1_000_000;

/// The longest time that can be asked for: a year. Clocks add it without overflow.
const LONGEST_SECONDS: f64 = 31_536_000.0;

/// The longest time between signs of life, which is far below what 32 bits of
/// milliseconds hold.
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(86_400);

/// The longest time without data.
const LONGEST_IDLE: Duration = Duration::from_secs(30 * 86_400);

/// A value that does not fit its flag.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadValue {
    /// Not a number of seconds.
    #[error("'{0}' is not a number of seconds; give one such as 5 or 0.5, at most a year")]
    Seconds(String),
    /// With a unit.
    #[error("'{0}' is not a number of seconds, because it has a unit; write {1}")]
    SecondsWithUnit(String, u64),
    /// Not a time between signs of life.
    #[error(
        "'{0}' is no time between signs of life; write one with a unit, such as 10s or 1m, at most 1d, or off"
    )]
    Heartbeat(String),
    /// Not a time without data.
    #[error("'{0}' is no time without data; write one such as 10m, 12h or 1d, at most 30d, or off")]
    IdleTimeout(String),
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
    /// The address is not one.
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

/// `--heartbeat`: `None` asks for no signs of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeartbeatTime(pub(super) Option<Heartbeat>);

/// `--idle-timeout`: `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IdleTimeout(pub(super) Option<Duration>);

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
    /// Where to forward.
    pub(super) address: Address,
}

/// A source and how the user spelled it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spelled {
    /// As typed.
    pub(super) text: String,
    /// What it means.
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

/// Seconds with an optional fraction; zero is left to the flag to judge.
pub(super) fn seconds(text: &str) -> Result<Duration, BadValue> {
    let bad = || BadValue::Seconds(text.to_owned());
    if let Ok(time) = duration::parse(text)
        && time.subsec_nanos() == 0
        && time.as_secs_f64() <= LONGEST_SECONDS
    {
        return Err(BadValue::SecondsWithUnit(text.to_owned(), time.as_secs()));
    }
    // `f64` also reads "inf", "nan" and "1e3", which nobody means here.
    if !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(bad());
    }
    let seconds: f64 = text.parse().map_err(|_| bad())?;
    if seconds > LONGEST_SECONDS {
        return Err(bad());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A duration up to `longest`, or `off`, for which spiped's way to write it, 0, is taken too.
/// `None` is neither.
fn duration_or_off(text: &str, longest: Duration) -> Option<Option<Duration>> {
    match text {
        "off" | "0" => Some(None),
        text => duration::parse(text).ok().filter(|time| *time <= longest).map(Some),
    }
}

impl FromStr for HeartbeatTime {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let time = duration_or_off(text, LONGEST_HEARTBEAT);
        let time = time.ok_or_else(|| BadValue::Heartbeat(text.to_owned()))?;
        Ok(Self(time.and_then(Heartbeat::every)))
    }
}

impl FromStr for IdleTimeout {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let time = duration_or_off(text, LONGEST_IDLE);
        time.map(Self).ok_or_else(|| BadValue::IdleTimeout(text.to_owned()))
    }
}

/// A whole number in decimal digits only: `usize` would also read a plus sign.
fn whole(text: &str) -> Option<usize> {
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
        // A path may have '=' in it, and an URL; host names and ports never do.
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
            // What it says is meant already.
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

impl FromStr for Spelled {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let source =
            text.parse().map_err(|error: AddrError| BadValue::Address(error.to_string()))?;
        Ok(Self { text: text.to_owned(), source })
    }
}

/// `redis:127.0.0.1:6379` looks like IPv6 and is not meant so. A name that could
/// be the first part of an IPv6 address counts only before an IPv4 address.
fn colon_name(text: &str) -> Option<BadValue> {
    let (name, rest) = text.split_once(':')?;
    let service: ServiceName = name.parse().ok()?;
    let address: Address = rest.parse().ok()?;
    let is_ipv4 = rest.split(':').next().is_some_and(|host| host.parse::<Ipv4Addr>().is_ok());
    let is_word = u16::from_str_radix(name, 16).is_err();
    (is_ipv4 || is_word).then_some(BadValue::ColonName(service, address))
}

/// `redis=A,mysql=B`. A path may have a comma in it.
fn refuse_several(text: &str) -> Result<(), BadValue> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    if parts.len() < 2 || !parts.iter().all(|part| part.parse::<Target>().is_ok()) {
        return Ok(());
    }
    Err(BadValue::Targets(text.to_owned(), parts.join(" -t ")))
}

/// `-t` where only one can be.
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
mod tests {
    use super::*;

    #[test]
    fn metrics_are_for_this_machine_unless_an_address_says_otherwise() {
        let shown = |text: &str| text.parse::<MetricsAddress>().map(|it| it.0.to_string());
        for (text, address) in [
            ("9100", "127.0.0.1:9100"),
            (":9100", "127.0.0.1:9100"),
            ("0.0.0.0:9100", "0.0.0.0:9100"),
            ("[::]:9100", "[::]:9100"),
            ("/run/metrics.sock", "/run/metrics.sock"),
        ] {
            assert_eq!(shown(text).unwrap(), address, "{text}");
        }
        for text in ["", ":", "65536", ":http", "localhost"] {
            assert!(shown(text).is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_are_plain_decimals() {
        assert_eq!(seconds("0.25").unwrap(), Duration::from_millis(250));
        assert_eq!(seconds("31536000").unwrap(), Duration::from_secs(31_536_000));
        assert_eq!(seconds("0").unwrap(), Duration::ZERO);
        for bad in ["", ".", "-1", "+1", "inf", "nan", "1e3", "5s", "31536001", "1.2.3"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn signs_of_life_and_times_without_data_have_units_or_are_off() {
        let heartbeat = |text: &str| text.parse::<HeartbeatTime>().ok().map(|time| time.0);
        let idle = |text: &str| text.parse::<IdleTimeout>().ok().map(|time| time.0);
        let seconds = Duration::from_secs;
        for text in ["off", "0"] {
            assert_eq!((heartbeat(text), idle(text)), (Some(None), Some(None)), "{text}");
        }
        assert_eq!(heartbeat("60s"), Some(Heartbeat::every(seconds(60))));
        assert_eq!(heartbeat("1d"), Some(Heartbeat::every(seconds(86_400))));
        assert_eq!(idle("30d"), Some(Some(seconds(2_592_000))));
        assert_eq!((heartbeat("2d"), idle("31d")), (None, None));
        for text in ["", "60", "-1s", "0s", "on", "1.5s", "Off"] {
            assert_eq!((heartbeat(text), idle(text)), (None, None), "{text}");
        }
    }

    #[test]
    fn numbers_are_plain_and_bounded() {
        assert_eq!("0".parse::<SessionLimit>().unwrap(), SessionLimit(None));
        assert_eq!("7".parse::<SessionLimit>().unwrap(), SessionLimit(Some(7)));
        for bad in ["", "-5", "+5", "5.0", "1000001", "99999999999999999999999", "many"] {
            assert!(bad.parse::<SessionLimit>().is_err(), "{bad}");
            assert!(bad.parse::<HandshakeLimit>().is_err(), "{bad}");
            assert!(bad.parse::<PoolSize>().is_err(), "{bad}");
        }
        assert_eq!("0".parse::<PoolSize>().unwrap(), PoolSize(0));
        assert!("0".parse::<HandshakeLimit>().is_err());
    }

    #[test]
    fn limits_for_each_source() {
        let limit = |text: &str| text.parse::<SourceLimit>().map(|limit| limit.0);
        assert_eq!(limit("20").unwrap(), PerSource { sessions: 20, per_second: None });
        assert_eq!(limit("20/5").unwrap(), PerSource { sessions: 20, per_second: Some(5) });
        for bad in ["", "/", "0", "20/", "20/0", "/5", "20/5/1", "-1", "x"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn targets_with_and_without_a_service() {
        let target: Target = "redis=[127.0.0.1]:6379".parse().unwrap();
        assert_eq!(target.service, Some("redis".parse().unwrap()));
        assert_eq!(target.address, "[127.0.0.1]:6379".parse().unwrap());
        let path: Target = "/run/a=b.sock".parse().unwrap();
        assert_eq!((path.service, path.address), (None, Address::Unix("/run/a=b.sock".into())));
        let unix: Target = "mysql=/run/mysqld.sock".parse().unwrap();
        assert_eq!(unix.address, Address::Unix("/run/mysqld.sock".into()));
        let error = |text: &str| text.parse::<Target>().unwrap_err().to_string();
        for (text, meant) in [
            ("redis:127.0.0.1:6379", "redis=127.0.0.1:6379"),
            ("db:127.0.0.1:6379", "db=127.0.0.1:6379"),
            ("redis:[::1]:6379", "redis=[::1]:6379"),
            ("mysql:db.example.org:3306", "mysql=db.example.org:3306"),
        ] {
            assert!(error(text).contains(&format!("; write {meant} ")), "{}", error(text));
        }
        for text in ["::1:6379", "fe80::1:6379", "2001:db8:6379", "a:b:c:d:1"] {
            assert!(error(text).contains("in brackets"), "{}", error(text));
        }
        for bad in ["=[127.0.0.1]:6379", "redis=", "re dis=a:1", "nothing"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn suites() {
        let suites = |text: &str| text.parse::<SuiteChoice>().map(|choice| choice.0);
        assert_eq!(suites("auto").unwrap(), SuiteSet::BOTH);
        assert_eq!(suites("aes-256-gcm").unwrap(), SuiteSet::only(Suite::Aes256Gcm));
        assert!(suites("none").is_err());
    }
}
