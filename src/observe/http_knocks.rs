//! Results of knocks over HTTP, and a counter of each.
//!
//! A token is in none of them, nor in a log line: a sender is the name of a token and an address.

use std::fmt;

use prometheus_client::metrics::counter::Counter;

use super::refused_knocks::{RefusalReason, SEE_ERROR};

/// Result of a request to let an address in, or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HttpKnockResult {
    /// Its address is in the allow-set.
    Granted,
    /// Its grant was taken back.
    Left,
    /// The client has no address.
    NoClient,
    /// It has no token, or a wrong one.
    Token,
    /// Its source failed too often.
    Locked,
    /// Its source knocks too often.
    TooMany,
    /// Its body is none.
    Malformed,
    /// Its token may not do that.
    Permission,
    /// Its token does not open the gate.
    Gate,
    /// It names too wide a network.
    Network,
    /// There are as many grants as there may be.
    Full,
    /// The store did not take it.
    Store,
}

/// Counters of knocks over HTTP.
#[derive(Debug)]
pub struct HttpKnockMeters([Counter; HttpKnockResult::ALL.len()]);

impl HttpKnockResult {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Granted,
        Self::Left,
        Self::NoClient,
        Self::Token,
        Self::Locked,
        Self::TooMany,
        Self::Malformed,
        Self::Permission,
        Self::Gate,
        Self::Network,
        Self::Full,
        Self::Store,
    ];

    /// Returns the word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Left => "left",
            Self::NoClient => "no-client",
            Self::Token => "token",
            Self::Locked => "locked",
            Self::TooMany => "too-many",
            Self::Malformed => "malformed",
            Self::Permission => "permission",
            Self::Gate => "gate",
            Self::Network => "network",
            Self::Full => "full",
            Self::Store => "store",
        }
    }
}

impl RefusalReason for HttpKnockResult {
    fn remedy(self) -> &'static str {
        match self {
            Self::Granted | Self::Left => "nothing",
            Self::NoClient => {
                "the proxy in front has to send the client's address in X-Forwarded-For, and be \
                 the only one of --trusted-proxies in the chain that does"
            }
            Self::Token => "list the token in the tokens file if it may knock here",
            Self::Locked => {
                "nothing: its source failed too often, and may try again; see --most-failures"
            }
            Self::TooMany => "let it knock less often, or raise --most-knocks",
            Self::Malformed => "its sender is another kind of client, or mistaken",
            Self::Permission => {
                "give its token any-address or see-grants in the tokens file if it may"
            }
            Self::Gate => "list the gate with --knock-gate and in the line of the token",
            Self::Network => "name a network of at most 65,536 addresses, or an IPv6 /64",
            Self::Full => "raise --most-grants, or take some back with 'knockpipe gate remove'",
            Self::Store => SEE_ERROR,
        }
    }
}

impl fmt::Display for HttpKnockResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Default for HttpKnockMeters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl HttpKnockMeters {
    /// Counts one.
    pub fn count(&self, result: HttpKnockResult) {
        self.0[result as usize].inc();
    }

    /// Returns the number of requests with this result.
    pub fn get(&self, result: HttpKnockResult) -> u64 {
        self.0[result as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_result_has_a_counter_and_a_word_of_its_own() {
        let counts = HttpKnockMeters::default();
        for result in HttpKnockResult::ALL {
            counts.count(result);
            let same =
                HttpKnockResult::ALL.iter().filter(|other| other.as_str() == result.as_str());
            assert_eq!((counts.get(result), same.count()), (1, 1), "{result}");
        }
    }
}
