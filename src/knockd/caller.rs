//! One who knocks over HTTP, by address and token, and a refusal of what is asked for.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::policy::Refusal;
use super::tokens::Token;
use crate::addr::SourceKey;
use crate::gate::Peer;
use crate::observe::HttpKnockResult;

/// One who asks, by address and token.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) token: &'a Token,
    pub(super) peer: Peer,
    pub(super) client: IpAddr,
}

/// A refusal, with the time after which another attempt makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    pub(super) wait: Option<Duration>,
}

/// Name of a sender in the log.
pub(super) struct Sender<'a> {
    pub(super) token: Option<&'a Token>,
    pub(super) ip: Option<IpAddr>,
}

impl fmt::Display for Sender<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(token) = self.token {
            write!(f, "{} at ", token.who())?;
        }
        match self.ip {
            Some(ip) => ip.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

impl Caller<'_> {
    /// Returns its name in the log.
    pub(super) fn sender(&self) -> Sender<'_> {
        Sender { token: Some(self.token), ip: Some(self.client) }
    }
}

impl Sender<'_> {
    /// Returns the source that its attempts count for.
    pub(super) fn source(&self) -> SourceKey {
        self.ip.map_or(SourceKey::Nameless, SourceKey::from)
    }
}

impl Refused {
    /// Returns the result that it counts as.
    pub(super) fn result(&self) -> HttpKnockResult {
        match self.refusal {
            Refusal::NoClient => HttpKnockResult::NoClient,
            Refusal::Token => HttpKnockResult::Token,
            Refusal::Locked => HttpKnockResult::Locked,
            Refusal::TooMany => HttpKnockResult::TooMany,
            Refusal::TooLarge
            | Refusal::NotJson
            | Refusal::Malformed
            | Refusal::NoObject
            | Refusal::Ttl
            | Refusal::LongAddress
            | Refusal::Address
            | Refusal::Data
            | Refusal::LongTtl => HttpKnockResult::Malformed,
            Refusal::Remote | Refusal::List => HttpKnockResult::Permission,
            Refusal::Gate => HttpKnockResult::Gate,
            Refusal::Wide | Refusal::Nobody => HttpKnockResult::Network,
            Refusal::Full => HttpKnockResult::Full,
            Refusal::PlainSet | Refusal::Store => HttpKnockResult::Store,
        }
    }
}
