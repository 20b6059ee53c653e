//! Health checks that ask a service in its own protocol.
//!
//! ```text
//!   begin -> bytes to say -> on_bytes(bytes) -> Say | Listen | Over(verdict)
//! ```
//!
//! Pure: bytes in, bytes and a verdict out; the socket and the clock are in
//! `health_check`. A check is one that the service does not hold against the host that
//! makes it: it is carried to its end and leaves no error count behind. The answer of a
//! service is not trusted: it is bounded, and its text is cleaned before it is logged.
//! Nothing here logs in with a password or reads data.

pub mod mysql;
pub mod redis;

use std::str::FromStr;
use std::time::Duration;

use crate::duration;
use crate::printable::printable;

/// Time between two checks unless they say otherwise.
const DEFAULT_EVERY: Duration = Duration::from_secs(5);

/// The account that a check of MySQL logs in as unless it names another.
const DEFAULT_USER: &str = "knockpipe";

/// MySQL accepts names of 32 characters, MariaDB of 128.
const LONGEST_USER: usize = 128;

/// The longest text of a service that is passed on, in characters.
const LONGEST_TEXT: usize = 200;

/// Check of a service's targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Kind of probe.
    pub kind: ProbeKind,
    /// Time from one check to the next.
    pub every: Duration,
}

impl Check {
    /// The check of a port, as often as where nothing else is said.
    pub const PORT: Self = Self { kind: ProbeKind::Tcp, every: DEFAULT_EVERY };
}

/// Kind of probe: the question that a target is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Nothing: that its port answers is enough.
    Tcp,
    /// PING.
    Redis,
    /// To let this account, which has no password, in and out again.
    Mysql {
        /// Its name, without NUL.
        user: String,
    },
}

/// A probe under way: one conversation.
#[derive(Debug)]
pub enum Probe {
    /// With Redis.
    Redis(redis::Ping),
    /// With MySQL or MariaDB.
    Mysql(mysql::Login),
}

/// Next step of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read on: there is more to come.
    Read,
    /// Write this, then read.
    Write(Vec<u8>),
    /// Write this, which may be nothing, end the connection, and take this verdict.
    Done(Vec<u8>, Verdict),
}

/// Health of a service as a probe found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Healthy,
    /// It works, but did not let the check in.
    AuthRejected {
        /// Its words.
        error: String,
        /// Remedy that would let it in.
        remedy: String,
    },
    /// It does not work; its words.
    Unhealthy(String),
}

/// Reason why a text is no [`Check`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// No such question.
    #[error("'{0}' is no check; write tcp, redis, mysql or mysql:USER, and /INTERVAL such as /5s")]
    Kind(String),
    /// The part behind the slash.
    #[error("{0}")]
    Interval(#[from] duration::DurationError),
    /// An account that cannot exist.
    #[error(
        "'{0}' is not a name of an account; write mysql:USER with 1 to {LONGEST_USER} characters"
    )]
    User(String),
}

impl FromStr for Check {
    type Err = CheckError;

    fn from_str(text: &str) -> Result<Self, CheckError> {
        let (kind, every) = match text.split_once('/') {
            Some((kind, every)) => (kind, duration::parse(every)?),
            None => (text, DEFAULT_EVERY),
        };
        let kind = match kind.split_once(':') {
            None if kind == "tcp" => ProbeKind::Tcp,
            None if kind == "redis" => ProbeKind::Redis,
            None if kind == "mysql" => ProbeKind::Mysql { user: DEFAULT_USER.to_owned() },
            Some(("mysql", user)) => ProbeKind::Mysql { user: account(user)? },
            _ => return Err(CheckError::Kind(text.to_owned())),
        };
        Ok(Self { kind, every })
    }
}

fn account(user: &str) -> Result<String, CheckError> {
    let is_one = (1..=LONGEST_USER).contains(&user.len()) && !user.contains(char::is_control);
    is_one.then(|| user.to_owned()).ok_or_else(|| CheckError::User(user.to_owned()))
}

impl ProbeKind {
    /// Begins the conversation; `None` where a connection says enough.
    pub fn probe(&self) -> Option<Probe> {
        match self {
            Self::Tcp => None,
            Self::Redis => Some(Probe::Redis(redis::Ping::default())),
            Self::Mysql { user } => Some(Probe::Mysql(mysql::Login::of(user))),
        }
    }
}

impl Probe {
    /// Bytes to write first; empty where the service speaks first.
    pub fn first_bytes(&self) -> &'static [u8] {
        match self {
            Self::Redis(_) => redis::PING,
            Self::Mysql(_) => b"",
        }
    }

    /// Takes bytes of the service, in pieces of any size, and returns the next step.
    pub fn on_bytes(&mut self, bytes: &[u8]) -> Step {
        match self {
            Self::Redis(ping) => ping.on_bytes(bytes),
            Self::Mysql(login) => login.on_bytes(bytes),
        }
    }
}

/// Makes a service's own words fit for a log line.
fn words(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(LONGEST_TEXT).collect();
    printable(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_has_a_question_and_an_interval() {
        let mysql = |user: &str| ProbeKind::Mysql { user: user.to_owned() };
        let cases = [
            ("tcp", ProbeKind::Tcp, 5),
            ("redis", ProbeKind::Redis, 5),
            ("redis/1s", ProbeKind::Redis, 1),
            ("mysql/2m", mysql("knockpipe"), 120),
            ("mysql:haproxy_check", mysql("haproxy_check"), 5),
            ("mysql:a:b/10s", mysql("a:b"), 10),
        ];
        for (text, kind, seconds) in cases {
            let every = Duration::from_secs(seconds);
            assert_eq!(text.parse(), Ok(Check { kind, every }), "{text}");
        }
    }

    #[test]
    fn what_is_no_check_is_refused_with_a_remedy() {
        let long = format!("mysql:{}", "x".repeat(129));
        for text in
            ["", "http", "Redis", "redis:user", "tcp:", "mysql:", "mysql:a\0", "redis/", &long]
        {
            let message = text.parse::<Check>().unwrap_err().to_string();
            assert!(message.contains("; write "), "{message}");
        }
        assert!("redis/5".parse::<Check>().unwrap_err().to_string().contains("5s"));
        assert!("redis/0s".parse::<Check>().is_err());
    }

    #[test]
    fn words_stay_on_one_line_and_have_an_end() {
        assert_eq!(words(b"a\r\nb\x1b[1m\xff"), "a\\r\\nb\\u{1b}[1m\u{fffd}");
        assert_eq!(words(&[b'x'; 5000]).len(), LONGEST_TEXT);
    }
}
