//! Counters of the answers of services of HTTP: by the class of their status, and of questions of
//! proxies by what they were told. No label is a path, a host or a client.

use prometheus_client::metrics::counter::Counter;

/// Classes of statuses, the first being requests that got no answer.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counters of requests.
#[derive(Debug, Default)]
pub struct HttpRequestMeters([Counter; CLASSES.len()]);

/// Answer to a question of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// The client is let in.
    Allowed,
    /// It is not.
    Denied,
    /// Anybody is, to this path.
    Excluded,
}

/// Counters of questions of proxies.
#[derive(Debug, Default)]
pub struct VerifyMeters([Counter; Verified::ALL.len()]);

impl HttpRequestMeters {
    /// Counts a request by the status of its answer; `None` is none.
    pub fn answered(&self, status: Option<u16>) {
        let class = status.map_or(0, |status| usize::from(status / 100));
        if let Some(counter) = self.0.get(class) {
            counter.inc();
        }
    }

    /// Returns the classes with their numbers.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CLASSES.into_iter().zip(self.0.iter().map(Counter::get))
    }
}

impl Verified {
    /// All of them.
    const ALL: [Self; 3] = [Self::Allowed, Self::Denied, Self::Excluded];

    /// Returns the word for metrics.
    fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Excluded => "excluded",
        }
    }
}

impl VerifyMeters {
    /// Counts an answer.
    pub fn count(&self, answer: Verified) {
        self.0[answer as usize].inc();
    }

    /// Returns the answers with their numbers.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Verified::ALL.into_iter().map(Verified::as_str).zip(self.0.iter().map(Counter::get))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_in_the_class_of_its_status() {
        let meters = HttpRequestMeters::default();
        for status in [None, Some(101), Some(200), Some(204), Some(302), Some(404), Some(599)] {
            meters.answered(status);
        }
        // No server of ours sends such a status, whatever one behind it does.
        meters.answered(Some(999));
        let counted: Vec<_> = meters.all().map(|(_, count)| count).collect();
        assert_eq!(counted, [1, 1, 2, 1, 1, 1]);
        let verified = VerifyMeters::default();
        verified.count(Verified::Excluded);
        assert_eq!(verified.all().last(), Some(("excluded", 1)));
    }
}
