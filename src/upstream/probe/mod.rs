//! Asking a service in its own words whether it works.
//!
//! ```text
//!   begin -> bytes to say -> hear(bytes) -> Say | Listen | Over(verdict)
//! ```
//!
//! Pure: bytes in, bytes and a verdict out; the socket and the clock are in
//! `tunnel::health`. A question is one that the service does not hold against
//! whoever asks: it is asked to its end and leaves no error count behind. What a
//! service answers is not trusted: it is bounded, and its text is cleaned before
//! anybody logs it. Nothing here logs in with a password or reads data.

pub mod mysql;
pub mod redis;
pub mod speech;

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

/// How a target is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What it is asked.
    pub question: Question,
    /// Time from one check to the next.
    pub every: Duration,
}

/// What a target is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
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

/// A conversation that has begun.
#[derive(Debug)]
pub enum Talk {
    /// With Redis.
    Redis(redis::Ping),
    /// With MySQL or MariaDB.
    Mysql(mysql::Visit),
}

/// How a conversation goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to come.
    Listen,
    /// Say this, then listen.
    Say(Vec<u8>),
    /// Say this, which may be nothing, end the connection, and that is the verdict.
    Over(Vec<u8>, Verdict),
}

/// What a service is found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Ready,
    /// It works, but did not let the check in.
    Unwelcome {
        /// Its words.
        error: String,
        /// What would let it in.
        remedy: String,
    },
    /// It does not work; its words.
    Unready(String),
}

/// Why a text is no [`Check`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// No such question.
    #[error("'{0}' is no check; write tcp, redis, mysql or mysql:USER, and /INTERVAL such as /5s")]
    Question(String),
    /// The part behind the slash.
    #[error("{0}")]
    Interval(#[from] duration::DurationError),
    /// An account that cannot exist.
    #[error("'{0}' is no name of an account; write mysql:USER with 1 to {LONGEST_USER} characters")]
    User(String),
}

impl FromStr for Check {
    type Err = CheckError;

    fn from_str(text: &str) -> Result<Self, CheckError> {
        let (question, every) = match text.split_once('/') {
            Some((question, every)) => (question, duration::parse(every)?),
            None => (text, DEFAULT_EVERY),
        };
        let question = match question.split_once(':') {
            None if question == "tcp" => Question::Tcp,
            None if question == "redis" => Question::Redis,
            None if question == "mysql" => Question::Mysql { user: DEFAULT_USER.to_owned() },
            Some(("mysql", user)) => Question::Mysql { user: account(user)? },
            _ => return Err(CheckError::Question(text.to_owned())),
        };
        Ok(Self { question, every })
    }
}

fn account(user: &str) -> Result<String, CheckError> {
    let is_one = (1..=LONGEST_USER).contains(&user.len()) && !user.contains(char::is_control);
    is_one.then(|| user.to_owned()).ok_or_else(|| CheckError::User(user.to_owned()))
}

impl Question {
    /// The conversation to have; `None` where a connection says enough.
    pub fn talk(&self) -> Option<Talk> {
        match self {
            Self::Tcp => None,
            Self::Redis => Some(Talk::Redis(redis::Ping::default())),
            Self::Mysql { user } => Some(Talk::Mysql(mysql::Visit::of(user))),
        }
    }
}

impl Talk {
    /// What to say first; empty where the service speaks first.
    pub fn begin(&self) -> &'static [u8] {
        match self {
            Self::Redis(_) => redis::PING,
            Self::Mysql(_) => b"",
        }
    }

    /// What follows from these bytes, in pieces of any size.
    pub fn hear(&mut self, bytes: &[u8]) -> Step {
        match self {
            Self::Redis(ping) => ping.hear(bytes),
            Self::Mysql(visit) => visit.hear(bytes),
        }
    }
}

/// A service's own words, fit for a log line.
fn words(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(LONGEST_TEXT).collect();
    printable(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_has_a_question_and_an_interval() {
        let mysql = |user: &str| Question::Mysql { user: user.to_owned() };
        let cases = [
            ("tcp", Question::Tcp, 5),
            ("redis", Question::Redis, 5),
            ("redis/1s", Question::Redis, 1),
            ("mysql/2m", mysql("knockpipe"), 120),
            ("mysql:haproxy_check", mysql("haproxy_check"), 5),
            ("mysql:a:b/10s", mysql("a:b"), 10),
        ];
        for (text, question, seconds) in cases {
            let every = Duration::from_secs(seconds);
            assert_eq!(text.parse(), Ok(Check { question, every }), "{text}");
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
