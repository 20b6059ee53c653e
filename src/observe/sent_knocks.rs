//! Counters of the knocks that an end sends, by their reason.

use std::fmt;

use prometheus_client::metrics::counter::Counter;

/// Reason for which a knock is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnockReason {
    /// It is the first.
    Start,
    /// A connection is dialled, and the last knock is not recent.
    Dial,
    /// The far end did not let a connection in, or has not answered yet.
    Retry,
    /// The grant would end.
    Renewal,
    /// An address or a route of this host changed.
    AddressChange,
    /// This host was asleep.
    Resume,
    /// An operator asks for it: SIGHUP, or a reload.
    Request,
}

/// Counters of one tunnel's knocks.
#[derive(Debug, Default)]
pub struct SentKnockMeters {
    sent: [Counter; KnockReason::ALL.len()],
    /// Knocks that did not leave this host.
    pub failed: Counter,
}

impl KnockReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Start,
        Self::Dial,
        Self::Retry,
        Self::Renewal,
        Self::AddressChange,
        Self::Resume,
        Self::Request,
    ];

    /// Returns the word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Dial => "dial",
            Self::Retry => "retry",
            Self::Renewal => "renewal",
            Self::AddressChange => "address-change",
            Self::Resume => "resume",
            Self::Request => "request",
        }
    }
}

impl fmt::Display for KnockReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl SentKnockMeters {
    /// Counts one that was sent.
    pub fn count(&self, reason: KnockReason) {
        self.sent[reason as usize].inc();
    }

    /// Returns the number of those that were sent for `reason`.
    pub fn get(&self, reason: KnockReason) -> u64 {
        self.sent[reason as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_and_a_word_of_its_own() {
        let meters = SentKnockMeters::default();
        let mut words: Vec<_> = KnockReason::ALL.iter().map(ToString::to_string).collect();
        for reason in KnockReason::ALL {
            meters.count(reason);
        }
        assert!(KnockReason::ALL.iter().all(|reason| meters.get(*reason) == 1));
        words.sort();
        words.dedup();
        assert_eq!(words.len(), KnockReason::ALL.len());
    }
}
