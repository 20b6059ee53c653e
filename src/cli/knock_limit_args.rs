//! The flags about limits of knocks over HTTP, of all services that take them.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::values::whole;
use crate::addr::ServiceName;
use crate::duration;
use crate::knockd::tokens::Tokens;
use crate::knockd::{KnockRules, Rate};

/// Heading of the flags about knocks.
pub(super) const KNOCK: &str = "Knock";

/// Most attempts in a window that are kept for each source.
const MOST_ATTEMPTS: usize = 10_000;

/// Window of the limits unless a flag says otherwise.
const WINDOW: Duration = Duration::from_secs(60);

/// Failures in the window after which a source is locked out, unless a flag says otherwise.
const FAILURES: Rate = Rate { most: 30, window: WINDOW };

/// Knocks that a source is granted in the window, unless a flag says otherwise.
const SUCCESSES: Rate = Rate { most: 20, window: WINDOW };

/// Most entries with an end, unless a flag says otherwise.
const GRANTS: usize = 10_000;

/// `--most-failures` and `--most-knocks`.
#[derive(Clone, Copy, Debug)]
struct AttemptLimit(Rate);

/// `--most-grants`.
#[derive(Clone, Copy, Debug)]
struct GrantLimit(usize);

/// A text that does not fit its flag.
#[derive(Debug, thiserror::Error)]
enum BadLimit {
    /// Not a number of attempts in a time.
    #[error(
        "'{0}' is not N/WINDOW; write a number up to {MOST_ATTEMPTS} and a duration, such as 30/60s, or 0 for no limit"
    )]
    Attempts(String),
    /// Not a number.
    #[error("'{0}' is not a number of grants; write one such as 10000")]
    Grants(String),
}

/// Limits of knocks over HTTP.
#[derive(Clone, Debug, Args)]
pub(super) struct KnockLimitArgs {
    /// Lock out a source (an IPv4 address or an IPv6 /64) that failed N times within WINDOW; 0 is
    /// never [default: 30/60s]
    #[arg(long, value_name = "N/WINDOW", allow_hyphen_values = true, help_heading = KNOCK)]
    most_failures: Option<AttemptLimit>,

    /// Knocks that are granted to a source within WINDOW; 0 is any number [default: 20/60s]
    #[arg(long, value_name = "N/WINDOW", allow_hyphen_values = true, help_heading = KNOCK)]
    most_knocks: Option<AttemptLimit>,

    /// Most entries with an end in the store; a knock for one more is refused [default: 10000]
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = KNOCK)]
    most_grants: Option<GrantLimit>,
}

impl KnockLimitArgs {
    /// Returns the rules of knocks with these tokens at gates of these names.
    pub(super) fn rules(&self, tokens: Tokens, gates: Vec<ServiceName>) -> KnockRules {
        KnockRules {
            tokens: Arc::new(tokens),
            gates,
            failures: self.most_failures.map_or(FAILURES, |limit| limit.0),
            successes: self.most_knocks.map_or(SUCCESSES, |limit| limit.0),
            most_grants: self.most_grants.map_or(GRANTS, |limit| limit.0),
        }
    }

    /// Returns one of the flags that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--most-failures", self.most_failures.is_some()),
            ("--most-knocks", self.most_knocks.is_some()),
            ("--most-grants", self.most_grants.is_some()),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}

impl FromStr for AttemptLimit {
    type Err = BadLimit;

    fn from_str(text: &str) -> Result<Self, BadLimit> {
        let bad = || BadLimit::Attempts(text.to_owned());
        if text == "0" {
            return Ok(Self(Rate::default()));
        }
        let (most, window) = text.split_once('/').ok_or_else(bad)?;
        let most = whole(most).filter(|most| *most <= MOST_ATTEMPTS).ok_or_else(bad)?;
        let window = duration::parse(window).map_err(|_| bad())?;
        Ok(Self(Rate { most, window }))
    }
}

impl FromStr for GrantLimit {
    type Err = BadLimit;

    fn from_str(text: &str) -> Result<Self, BadLimit> {
        let number = whole(text).filter(|number| *number > 0);
        number.map(Self).ok_or_else(|| BadLimit::Grants(text.to_owned()))
    }
}
