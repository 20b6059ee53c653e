//! Back-off for a failing accept. Pure: errors and times in, decisions out.
//!
//! Nothing is fatal: a listener that ended for a lack of descriptors would turn
//! a busy minute into an outage, and one that tried again at once would spend it
//! at 100 % CPU.

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;

const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Time without a failure after which trouble is over. When descriptors are short, an accept
/// succeeds whenever one is closed; such a moment is not logged.
const CALM: Duration = Duration::from_secs(1);

/// Decides how to go on when accept failed.
#[derive(Debug, Default)]
pub struct AcceptBackoff {
    /// The wait before the next attempt, and the time of the last failure; `None` without trouble.
    trouble: Option<(Duration, Instant)>,
}

/// Reaction to a failed accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptStep {
    /// One connection died before it was accepted: accept the next at once.
    Retry,
    /// This process or machine lacks something: wait, then try again.
    Wait {
        /// For how long.
        delay: Duration,
        /// Trouble starts with this failure, so it deserves a warning.
        news: bool,
    },
}

impl AcceptBackoff {
    /// Decides what to do about a failed accept.
    pub fn failed(&mut self, error: &io::Error, now: Instant) -> AcceptStep {
        if concerns_one_connection(error) {
            return AcceptStep::Retry;
        }
        let (delay, news) = match self.trouble {
            Some((last, _)) => ((last * 2).min(LONGEST_WAIT), false),
            None => (FIRST_WAIT, true),
        };
        self.trouble = Some((delay, now));
        AcceptStep::Wait { delay, news }
    }

    /// Notes a connection that was accepted; true when this ends trouble that
    /// was warned about.
    pub fn succeeded(&mut self, now: Instant) -> bool {
        let Some((delay, failed_at)) = &mut self.trouble else { return false };
        *delay = FIRST_WAIT;
        let over = now.duration_since(*failed_at) >= CALM;
        if over {
            self.trouble = None;
        }
        over
    }
}

/// Errors that accept(2) reports on behalf of the connection it would have returned, which is then
/// gone from the queue, so that trying again at once cannot spin. Every other error waits.
fn concerns_one_connection(error: &io::Error) -> bool {
    use Errno as E;
    error.raw_os_error().map(E::from_raw).is_some_and(|errno| {
        matches!(
            errno,
            E::ECONNABORTED
                | E::ECONNRESET
                | E::EINTR
                | E::EPROTO
                | E::ETIMEDOUT
                | E::ENOPROTOOPT
                | E::ENETDOWN
                | E::ENETUNREACH
                | E::EHOSTDOWN
                | E::EHOSTUNREACH
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno as i32)
    }

    #[test]
    fn a_lack_of_descriptors_waits_longer_and_longer() {
        use AcceptStep::Wait;
        let now = Instant::now();
        let mut backoff = AcceptBackoff::default();
        let delays: Vec<_> = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM]
            .iter()
            .cycle()
            .take(9)
            .map(|&errno| match backoff.failed(&raw(errno), now) {
                Wait { delay, news } => (delay.as_millis(), news),
                AcceptStep::Retry => panic!("{errno} must wait"),
            })
            .collect();
        assert_eq!(delays[0], (5, true), "one warning");
        let rest = [10, 20, 40, 80, 160, 320, 500, 500].map(|delay| (delay, false));
        assert_eq!(delays[1..], rest);
    }

    #[test]
    fn a_connection_that_died_early_delays_no_other() {
        let mut backoff = AcceptBackoff::default();
        let now = Instant::now();
        for errno in [Errno::ECONNABORTED, Errno::EINTR, Errno::EPROTO, Errno::EHOSTUNREACH] {
            assert_eq!(backoff.failed(&raw(errno), now), AcceptStep::Retry, "{errno}");
        }
        assert!(!backoff.succeeded(now), "there was no trouble");
        // The unknown must not spin.
        let step = backoff.failed(&raw(Errno::EBADF), now);
        assert!(matches!(step, AcceptStep::Wait { news: true, .. }));
    }

    #[test]
    fn trouble_is_over_once_and_only_after_a_calm_second() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut backoff = AcceptBackoff::default();
        let first = AcceptStep::Wait { delay: FIRST_WAIT, news: true };
        let again = AcceptStep::Wait { delay: FIRST_WAIT * 2, news: false };
        assert_eq!(backoff.failed(&raw(Errno::EMFILE), at(0)), first);
        assert!(!backoff.succeeded(at(500)), "too early to tell");
        assert_eq!(backoff.failed(&raw(Errno::EMFILE), at(600)), again);
        assert!(backoff.succeeded(at(1600)));
        assert!(!backoff.succeeded(at(9000)), "said already");
        assert_eq!(backoff.failed(&raw(Errno::EMFILE), at(9001)), first, "said again");
    }
}
