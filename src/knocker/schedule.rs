//! Times at which to knock, for one who stays: a decision without a clock, a socket or randomness.
//!
//! A grant is renewed at about two fifths to a half of its time, so that one lost datagram never
//! ends it. A knock that did not work is repeated after a pause that doubles. An event (another
//! address, the end of sleep, a request) makes a knock due at once; but each of them costs an
//! allowance, so that an interface that comes and goes causes no storm.

use std::time::Duration;

use crate::observe::KnockReason;

/// Part of a grant's time after which it is renewed, at the earliest.
const EARLY: f64 = 0.40;

/// Part of a grant's time by which the renewal varies. Two intervals and the way of a datagram are
/// less than a grant.
const JITTER: f64 = 0.09;

/// Pause after the first failure.
const FIRST_PAUSE_MS: i64 = 1_000;

/// Longest pause after a failure: a network that comes back without an event is noticed by then.
const LONGEST_PAUSE_MS: i64 = 300_000;

/// Shortest time between two knocks.
const GAP_MS: i64 = 250;

/// Time in which one knock for an event is allowed again.
const EVENT_MS: i64 = 10_000;

/// Knocks for events that may follow each other at once.
const EVENTS_AT_ONCE: i64 = 5;

/// Difference of the two clocks that rounding does not explain.
const ASLEEP_MS: i64 = 500;

/// A moment by two clocks that cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since boot, sleep included.
    pub since_boot_ms: i64,
    /// Milliseconds in which the machine was awake.
    pub awake_ms: i64,
}

/// Decides when to knock.
#[derive(Debug)]
pub struct Schedule {
    lasting_ms: i64,
    next_ms: i64,
    reason: KnockReason,
    last_ms: Option<i64>,
    failures: u32,
    /// Sleep of the machine so far.
    asleep_ms: i64,
    /// Time at which all events are paid for.
    paid_ms: i64,
}

impl Moment {
    fn asleep_ms(self) -> i64 {
        self.since_boot_ms - self.awake_ms
    }
}

impl Schedule {
    /// Creates a schedule for grants that last this long, with a first knock that is due now.
    pub fn new(lasting: Duration, now: Moment) -> Self {
        let lasting_ms = i64::try_from(lasting.as_millis()).unwrap_or(i64::MAX / 4);
        Self {
            lasting_ms,
            next_ms: now.since_boot_ms,
            reason: KnockReason::Start,
            last_ms: None,
            failures: 0,
            asleep_ms: now.asleep_ms(),
            paid_ms: now.since_boot_ms,
        }
    }

    /// Creates the same with a first knock that is a renewal.
    pub fn begun(lasting: Duration, now: Moment) -> Self {
        let mut schedule = Self::new(lasting, now);
        schedule.renew_after(now, 0.0);
        schedule
    }

    /// Returns the reason if a knock is due now. To be asked at least every second that the machine
    /// is awake: it also notices the end of sleep.
    pub fn due(&mut self, now: Moment) -> Option<KnockReason> {
        let asleep_ms = now.asleep_ms();
        if asleep_ms - self.asleep_ms > ASLEEP_MS {
            self.event(KnockReason::Resume, now);
        }
        self.asleep_ms = asleep_ms;
        (now.since_boot_ms >= self.next_ms).then_some(self.reason)
    }

    /// Returns the time until the next knock.
    pub fn wait(&self, now: Moment) -> Duration {
        let ms = self.next_ms.saturating_sub(now.since_boot_ms);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }

    /// Makes a knock due at once, or as soon as one is allowed.
    pub fn event(&mut self, reason: KnockReason, now: Moment) {
        let paid_ms = self.paid_ms.saturating_sub((EVENTS_AT_ONCE - 1) * EVENT_MS);
        let earliest_ms = now.since_boot_ms.max(paid_ms).max(self.gap_ends_ms());
        // What changed may have been the cause of failures.
        self.failures = 0;
        if self.next_ms <= now.since_boot_ms {
            self.reason = reason;
        } else if earliest_ms < self.next_ms {
            self.next_ms = earliest_ms;
            self.reason = reason;
            self.paid_ms = self.paid_ms.max(now.since_boot_ms) + EVENT_MS;
        }
    }

    /// Notes the duration of the grants from now on, where the far end tells it.
    pub fn lasts(&mut self, lasting: Duration) {
        self.lasting_ms = i64::try_from(lasting.as_millis()).unwrap_or(i64::MAX / 4);
    }

    /// Notes that a knock was sent, as far as is known with success. `jitter` is from 0 to 1.
    pub fn sent(&mut self, now: Moment, jitter: f64) {
        self.failures = 0;
        self.last_ms = Some(now.since_boot_ms);
        self.renew_after(now, jitter);
    }

    /// Notes that a knock did not work. `jitter` is from 0 to 1.
    pub fn failed(&mut self, now: Moment, jitter: f64) {
        self.last_ms = Some(now.since_boot_ms);
        let longest_ms = (self.lasting_ms / 2).clamp(FIRST_PAUSE_MS, LONGEST_PAUSE_MS);
        let doubled_ms = FIRST_PAUSE_MS << self.failures.min(20);
        self.failures = self.failures.saturating_add(1);
        let pause_ms = doubled_ms.min(longest_ms) as f64 * (1.0 - jitter / 4.0);
        self.next(now, pause_ms as i64, KnockReason::Retry);
    }

    fn renew_after(&mut self, now: Moment, jitter: f64) {
        let after_ms = self.lasting_ms as f64 * JITTER.mul_add(jitter, EARLY);
        self.next(now, after_ms as i64, KnockReason::Renewal);
    }

    fn next(&mut self, now: Moment, after_ms: i64, reason: KnockReason) {
        self.next_ms = now.since_boot_ms.saturating_add(after_ms.max(GAP_MS));
        self.reason = reason;
    }

    fn gap_ends_ms(&self) -> i64 {
        self.last_ms.map_or(i64::MIN, |last_ms| last_ms + GAP_MS)
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
