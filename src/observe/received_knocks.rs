//! Results of knocks by datagram, and a counter of each.
//!
//! A stranger can send datagrams as fast as the network carries them, from any address that it
//! likes to write into them. So what is not authentic is counted and never logged. An authentic
//! knock that is refused is worth a line, since its sender waits for an open door; these lines are
//! summaries like those of refused connections.

use std::fmt;

use prometheus_client::metrics::counter::Counter;

use super::refused_knocks::{RefusalReason, SEE_ERROR};

/// Result of a datagram that arrived for knocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KnockResult {
    /// Its address is in the allow-set.
    Granted,
    /// It is no knock, or under another key.
    Stranger,
    /// It was not read: its source sent too many.
    Unread,
    /// It is authentic and malformed.
    Malformed,
    /// Its clock is wrong, or it is from before the start.
    Clock,
    /// It was seen before.
    Replayed,
    /// Its key may not knock here.
    Key,
    /// It asks for another gate.
    Gate,
    /// It names no address.
    Source,
    /// It names too wide a network.
    Network,
    /// Too many knocks wait for the store, or came under its key.
    Busy,
    /// The store did not take the grant.
    Store,
    /// No datagram: the store did not renew a grant that is in use.
    Renewal,
}

/// Counters of knocks.
#[derive(Debug)]
pub struct ReceivedKnockMeters([Counter; KnockResult::ALL.len()]);

impl KnockResult {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Granted,
        Self::Stranger,
        Self::Unread,
        Self::Malformed,
        Self::Clock,
        Self::Replayed,
        Self::Key,
        Self::Gate,
        Self::Source,
        Self::Network,
        Self::Busy,
        Self::Store,
        Self::Renewal,
    ];

    /// Returns the word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Stranger => "stranger",
            Self::Unread => "unread",
            Self::Malformed => "malformed",
            Self::Clock => "clock",
            Self::Replayed => "replayed",
            Self::Key => "key",
            Self::Gate => "gate",
            Self::Source => "source",
            Self::Network => "network",
            Self::Busy => "busy",
            Self::Store => "store",
            Self::Renewal => "renewal-failed",
        }
    }
}

impl RefusalReason for KnockResult {
    fn remedy(self) -> &'static str {
        match self {
            Self::Granted | Self::Stranger | Self::Unread => "nothing",
            Self::Malformed => "its sender is another version of this program, or none",
            Self::Clock => "set the clocks of both hosts right: 120 s are allowed",
            Self::Replayed => {
                "a recording, or a sender that repeats the same bytes; nothing was granted"
            }
            Self::Key => "list its key with --knock-key if it may knock here",
            Self::Gate => "list the gate with --knock-gate, or correct that of the sender",
            Self::Source => "the sender has to name its address, as --knock-source refuse says",
            Self::Network => {
                "allow wider networks with --knock-networks, such as 24/64, or name an address \
                 that a client can have"
            }
            Self::Busy => {
                "too many knocks at once; see whether the gate's store is slow, or the holders of \
                 one key send many"
            }
            Self::Store | Self::Renewal => SEE_ERROR,
        }
    }
}

impl fmt::Display for KnockResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Default for ReceivedKnockMeters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl ReceivedKnockMeters {
    /// Counts one.
    pub fn count(&self, result: KnockResult) {
        self.0[result as usize].inc();
    }

    /// Returns the number of datagrams with this result.
    pub fn get(&self, result: KnockResult) -> u64 {
        self.0[result as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_result_has_a_counter_and_a_word_of_its_own() {
        let counts = ReceivedKnockMeters::default();
        for result in KnockResult::ALL {
            counts.count(result);
            let same = KnockResult::ALL.iter().filter(|other| other.as_str() == result.as_str());
            assert_eq!((counts.get(result), same.count()), (1, 1), "{result}");
        }
        counts.count(KnockResult::Store);
        assert_eq!(counts.get(KnockResult::Store), 2);
    }
}
