//! State of a pool: the idle tunnels to take, to replace and to close, and the back-off after one
//! that could not be made. Has no sockets and no clock, so that tests need not wait.

use std::collections::VecDeque;
use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;

/// Age at which a tunnel is replaced; the far end keeps it for a minute, which leaves more time for
/// the replacement than a handshake may take.
const REFRESH_AGE: Duration = Duration::from_secs(40);

/// Longest random delay of a replacement, so that tunnels that were made together are replaced at
/// different times.
const JITTER: Duration = Duration::from_secs(8);

/// Age at which a tunnel is closed even without a replacement.
const MAX_AGE: Duration = Duration::from_secs(55);

/// The pause after a failure, which doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Time for which a refilled pool has to stay full before it counts as full again.
const SETTLED: Duration = Duration::from_secs(2);

/// Age below which a tunnel that the far end closes counts as hardly made.
const HARDLY_MADE: Duration = Duration::from_millis(250);

/// Time for which such ends are no failure, however often they happen: each of several reloads
/// meets tunnels that were just made.
const HASTE: Duration = Duration::from_secs(30);

/// Longest pause during that time, so that the pool is full soon after the last reload.
const LONGEST_HASTY_PAUSE: Duration = Duration::from_secs(2);

/// Time without such an end, after a pause, from which on tunnels count as lasting.
const LULL: Duration = Duration::from_secs(10);

/// Time after a failure from which on the next one counts as the first again.
const CALM: Duration = Duration::from_secs(60);

/// Level of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLevel {
    /// Warm tunnels that are ready.
    pub ready: usize,
    /// Wanted number of warm tunnels.
    pub size: usize,
}

/// Tunnels that are ready, oldest first.
pub(super) struct IdleTunnels<T> {
    ready: VecDeque<Ready<T>>,
}

struct Ready<T> {
    tunnel: T,
    renew: Instant,
    let_go: Instant,
}

/// A tunnel that was removed because it had a result.
pub(super) struct Removed<T, R> {
    pub(super) tunnel: T,
    pub(super) answer: R,
    /// Time that it was idle in the pool.
    pub(super) age: Duration,
}

/// Back-off for refilling the pool.
pub(super) struct RefillBackoff {
    pause: Duration,
    next: Instant,
    last_failure: Option<Instant>,
    /// The far end closes tunnels that were hardly made.
    hasty: Option<Hasty>,
    /// No tunnel was made since a failure.
    doubtful: bool,
    /// The failure was an unreachable far end.
    away: bool,
    /// The log has a line that the pool is below its size.
    is_logged: bool,
    /// Time since which the pool is full.
    full_since: Option<Instant>,
}

/// Back-off while no tunnel lasts.
struct Hasty {
    since: Instant,
    /// Pause before the next attempt.
    pause: Duration,
}

// === impl IdleTunnels ===

impl<T> Default for IdleTunnels<T> {
    fn default() -> Self {
        Self { ready: VecDeque::new() }
    }
}

impl<T> IdleTunnels<T> {
    /// Adds a new tunnel, and returns those that it replaces.
    pub(super) fn put(&mut self, tunnel: T, now: Instant, size: usize) -> Vec<T> {
        let renew = now + REFRESH_AGE + JITTER.mul_f64(rand::rng().random_range(0.0..1.0));
        self.ready.push_back(Ready { tunnel, renew, let_go: now + MAX_AGE });
        self.trim(size)
    }

    /// Removes the oldest tunnels beyond the size.
    pub(super) fn trim(&mut self, size: usize) -> Vec<T> {
        let too_many = self.ready.len().saturating_sub(size);
        self.ready.drain(..too_many).map(|ready| ready.tunnel).collect()
    }

    /// Takes the newest tunnel: the one that most likely still works.
    pub(super) fn take(&mut self) -> Option<T> {
        self.ready.pop_back().map(|ready| ready.tunnel)
    }

    /// Removes tunnels that are too old to be opened.
    pub(super) fn outdated(&mut self, now: Instant) -> Vec<T> {
        let outdated = self.ready.iter().take_while(|ready| ready.let_go <= now).count();
        self.ready.drain(..outdated).map(|ready| ready.tunnel).collect()
    }

    /// Removes the tunnels from before `since` that match `meant`.
    pub(super) fn older(&mut self, since: Instant, meant: impl Fn(&T) -> bool) -> Vec<T> {
        let is_older = |ready: &Ready<T>| ready.let_go < since + MAX_AGE && meant(&ready.tunnel);
        let (older, rest) = self.ready.drain(..).partition::<Vec<_>, _>(|ready| is_older(ready));
        self.ready = rest.into();
        older.into_iter().map(|ready| ready.tunnel).collect()
    }

    /// Returns the number of tunnels.
    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }

    /// Returns the number of tunnels that need no replacement yet.
    pub(super) fn fresh(&self, now: Instant) -> usize {
        self.ready.iter().filter(|ready| ready.renew > now).count()
    }

    /// Returns the moment when the next tunnel needs a replacement, or has to be closed.
    pub(super) fn next_after(&self, now: Instant) -> Option<Instant> {
        let times = self.ready.iter().flat_map(|ready| [ready.renew, ready.let_go]);
        times.filter(|time| *time > now).min()
    }

    /// Asks every tunnel; removes the first with a result.
    pub(super) fn remove_first<R>(
        &mut self,
        now: Instant,
        mut ask: impl FnMut(&mut T) -> Option<R>,
    ) -> Option<Removed<T, R>> {
        let mut ready = self.ready.iter_mut().enumerate();
        let (place, answer) =
            ready.find_map(|(place, ready)| Some((place, ask(&mut ready.tunnel)?)))?;
        let Ready { tunnel, let_go, .. } = self.ready.remove(place)?;
        Some(Removed { tunnel, answer, age: (now + MAX_AGE).saturating_duration_since(let_go) })
    }
}

// === impl RefillBackoff ===

impl RefillBackoff {
    /// Creates a back-off that allows any number from `now` on.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            pause: FIRST_PAUSE,
            next: now,
            last_failure: None,
            hasty: None,
            doubtful: false,
            away: false,
            is_logged: false,
            full_since: None,
        }
    }

    /// Returns the number that may be made at once: after a failure a single one, until it works.
    pub(super) fn at_once(&self, now: Instant, most: usize) -> usize {
        match self.doubtful {
            _ if now < self.next => 0,
            true => 1,
            false => most,
        }
    }

    /// Returns the moment of the next attempt.
    pub(super) fn next_after(&self, now: Instant) -> Option<Instant> {
        (self.next > now).then_some(self.next)
    }

    /// Notes that a tunnel could not be made or was ended. Failures during a pause have the same
    /// cause. Returns true if this is worth a log line.
    pub(super) fn failed(&mut self, now: Instant, away: bool) -> bool {
        if now >= self.next {
            let calm = self.last_failure.is_none_or(|last| now - last >= CALM);
            self.pause = if calm { FIRST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
            self.next = now + self.pause.mul_f64(rand::rng().random_range(0.5..1.0));
        }
        self.last_failure = Some(now);
        self.doubtful = true;
        self.away = away;
        !std::mem::replace(&mut self.is_logged, true)
    }

    /// Notes that the far end closed a tunnel on purpose, at this age: it stops, reloads, or keeps
    /// tunnels for a shorter time. Returns true if that is no failure: then another is made at
    /// once, or after a pause that grows while none lasts. It is a failure once none has lasted for
    /// [`HASTE`].
    pub(super) fn let_go(&mut self, now: Instant, age: Duration) -> bool {
        if age >= HARDLY_MADE {
            self.hasty = None;
            return true;
        }
        if now < self.next {
            return true;
        }
        let before = self.hasty.take().filter(|_| now < self.next + LULL);
        let Hasty { since, pause } = before.unwrap_or(Hasty { since: now, pause: FIRST_PAUSE });
        let longer = (pause * 2).min(LONGEST_HASTY_PAUSE);
        self.hasty = Some(Hasty { since, pause: longer });
        let is_no_failure = now - since < HASTE;
        if is_no_failure {
            self.next = now + pause.mul_f64(rand::rng().random_range(0.5..1.0));
        }
        is_no_failure
    }

    /// Notes that a tunnel was made.
    pub(super) fn succeeded(&mut self) {
        self.doubtful = false;
    }

    /// Notes whether the pool is full. Returns true if it has recovered and the log has to say so.
    pub(super) fn recovered(&mut self, is_full: bool, now: Instant) -> bool {
        if !is_full {
            self.full_since = None;
            return false;
        }
        let settled = *self.full_since.get_or_insert(now) + SETTLED <= now;
        settled && std::mem::replace(&mut self.is_logged, false)
    }

    /// Returns the moment when the log may report that the pool has recovered.
    pub(super) fn settled(&self, now: Instant) -> Option<Instant> {
        let settled = self.full_since.map(|since| since + SETTLED);
        settled.filter(|time| self.is_logged && *time > now)
    }

    /// Notes that the far end answers.
    pub(super) fn dial_succeeded(&mut self, now: Instant) {
        if self.is_away() {
            self.next = now;
        }
    }

    /// Returns true when the far end could not be reached, and no tunnel was made since.
    pub(super) fn is_away(&self) -> bool {
        self.doubtful && self.away
    }
}

#[cfg(test)]
mod tests {
    use super::super::decrypt::UNOPENED;
    use super::*;

    const A_MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn a_tunnel_is_replaced_before_it_goes_and_goes_before_the_far_end_ends_it() {
        let begin = Instant::now();
        let mut idle = IdleTunnels::default();
        assert!(idle.put("one", begin, 1).is_empty());
        let renew = idle.next_after(begin).unwrap();
        assert!((begin + REFRESH_AGE..begin + REFRESH_AGE + JITTER).contains(&renew));
        assert_eq!((idle.fresh(renew - A_MOMENT), idle.fresh(renew)), (1, 0));
        let let_go = idle.next_after(renew).unwrap();
        assert!(let_go - renew >= Duration::from_secs(5) && let_go + A_MOMENT < begin + UNOPENED);
        assert!(idle.outdated(let_go - A_MOMENT).is_empty());
        assert_eq!(idle.put("two", renew, 1), ["one"]);
        assert!(idle.outdated(let_go).is_empty());
        assert_eq!(idle.outdated(renew + MAX_AGE), ["two"]);
        assert_eq!(idle.next_after(begin), None);
    }

    #[test]
    fn the_newest_is_taken_and_the_oldest_is_replaced() {
        let now = Instant::now();
        let mut idle = IdleTunnels::default();
        for tunnel in 1..=3 {
            idle.put(tunnel, now, 3);
        }
        assert_eq!(idle.put(4, now, 3), [1]);
        let later = now + A_MOMENT;
        let removed = idle.remove_first(later, |tunnel| (*tunnel == 3).then_some("ended"));
        let Removed { tunnel, answer, age } = removed.unwrap();
        assert_eq!((tunnel, answer, age), (3, "ended", A_MOMENT));
        assert_eq!([idle.take(), idle.take(), idle.take()], [Some(4), Some(2), None]);
    }

    #[test]
    fn those_of_before_a_moment_are_taken_off() {
        let begin = Instant::now();
        let mut idle = IdleTunnels::default();
        for (tunnel, at) in [("old", 0), ("other", 1), ("older", 2), ("new", 4)] {
            idle.put(tunnel, begin + at * A_MOMENT, 9);
        }
        assert_eq!(idle.older(begin + 3 * A_MOMENT, |name| *name != "other"), ["old", "older"]);
        assert_eq!([idle.take(), idle.take(), idle.take()], [Some("new"), Some("other"), None]);
    }

    #[test]
    fn failures_are_tried_again_less_and_less_often_one_at_a_time() {
        let mut now = Instant::now();
        let mut backoff = RefillBackoff::new(now);
        assert_eq!((backoff.at_once(now, 8), backoff.next_after(now)), (8, None));
        assert!(backoff.failed(now, true));
        let mut pauses = vec![];
        for _ in 0..10 {
            let next = backoff.next_after(now).unwrap();
            // Attempts that had begun before fail for the same cause.
            assert!(!backoff.failed(now, true));
            assert_eq!((backoff.next_after(now), backoff.at_once(now, 8)), (Some(next), 0));
            pauses.push(next - now);
            now = next;
            assert_eq!((backoff.at_once(now, 8), backoff.next_after(now)), (1, None));
            assert!(!backoff.failed(now, true));
        }
        assert!(pauses[0] < FIRST_PAUSE && pauses[4] > 2 * FIRST_PAUSE, "{pauses:?}");
        assert!(pauses[9] >= LONGEST_PAUSE / 2 && pauses[9] < LONGEST_PAUSE, "{pauses:?}");
        backoff.succeeded();
        now += CALM;
        assert_eq!(backoff.at_once(now, 8), 8);
        assert!(!backoff.failed(now, true) && backoff.next_after(now).unwrap() - now < FIRST_PAUSE);
    }

    #[test]
    fn tunnels_that_the_far_end_lets_go_are_no_failures_as_long_as_some_last() {
        let mut now = Instant::now();
        let mut backoff = RefillBackoff::new(now);
        for _ in 0..100 {
            assert!(backoff.let_go(now, HARDLY_MADE));
            assert_eq!((backoff.at_once(now, 8), backoff.next_after(now)), (8, None), "at once");
        }
        // Many hardly made tunnels, far apart, or with a lasting one between them.
        for round in 0..100 {
            assert!(backoff.let_go(now, A_MOMENT) && backoff.let_go(now, A_MOMENT), "{round}");
            now = backoff.next_after(now).expect("not at once");
            match round % 2 {
                0 => now += LULL,
                _ => assert!(backoff.let_go(now, HARDLY_MADE), "one that lasted"),
            }
        }
    }

    /// Reloads of the far end in such quick succession that no tunnel lasts from one to the next.
    #[test]
    fn quick_reloads_of_the_far_end_are_no_failures_until_they_last_for_half_a_minute() {
        for apart in [100, 120, 150, 200, 249].map(Duration::from_millis) {
            let begin = Instant::now();
            let mut now = begin;
            let mut backoff = RefillBackoff::new(begin);
            let mut made = vec![];
            let failed_at = loop {
                // Tunnels are made as soon as they may be, and the next reload ends them.
                if let 1.. = backoff.at_once(now, 8) {
                    backoff.succeeded();
                    made.push(now);
                    now += apart;
                    if !backoff.let_go(now, apart) {
                        break now;
                    }
                } else {
                    now += apart;
                }
            };
            assert!(
                (HASTE..HASTE * 2).contains(&(failed_at - begin)),
                "{apart:?}: {:?}",
                failed_at - begin
            );
            assert!((10..60).contains(&made.len()), "{apart:?}: {made:?}");
            assert!(
                backoff.failed(failed_at, true) && backoff.next_after(failed_at).is_some(),
                "not at once"
            );
            let gap = |two: &[Instant]| two[1] - two[0];
            let first = gap(&made[..2]);
            let last = gap(&made[made.len() - 2..]);
            assert!(last > 3 * first.min(FIRST_PAUSE) && last < LONGEST_HASTY_PAUSE * 2);
        }
    }

    /// After a failure that is logged only once, attempts become rarer as after any other.
    #[test]
    fn a_far_end_that_lets_all_go_at_once_is_asked_less_and_less_often() {
        let begin = Instant::now();
        let mut now = begin;
        let mut backoff = RefillBackoff::new(begin);
        let mut logged = 0;
        for _ in 0..60 {
            if !backoff.let_go(now, A_MOMENT) {
                logged += usize::from(backoff.failed(now, true));
            }
            now = backoff.next_after(now).expect("not at once");
        }
        assert!(logged == 1 && now - begin > 10 * HASTE, "{logged} in {:?}", now - begin);
    }

    #[test]
    fn a_pool_is_full_again_once_it_has_stayed_full() {
        let mut now = Instant::now();
        let mut backoff = RefillBackoff::new(now);
        assert!(backoff.failed(now, false));
        // A far end that wants one tunnel less: each new one is ended at once.
        for _ in 0..10 {
            now += LONGEST_PAUSE;
            assert!(!backoff.recovered(true, now));
            assert_eq!(backoff.settled(now), Some(now + SETTLED));
            assert!(!backoff.recovered(false, now + A_MOMENT) && !backoff.failed(now, false));
            assert_eq!(backoff.settled(now), None);
        }
        assert!(!backoff.recovered(true, now));
        now += SETTLED;
        assert!(backoff.recovered(true, now) && !backoff.recovered(true, now));
        assert_eq!(backoff.settled(now), None);
    }

    #[test]
    fn a_client_that_gets_through_ends_the_pause_unless_the_far_end_wants_no_more() {
        for away in [true, false] {
            let now = Instant::now();
            let mut backoff = RefillBackoff::new(now);
            backoff.failed(now, away);
            backoff.dial_succeeded(now);
            assert_eq!(backoff.at_once(now, 8), usize::from(away));
        }
    }
}
