//! Health of a service's targets, and the order in which to try them.
//! Pure: results and times in, decisions out.
//!
//! ```text
//!   unknown --works--> up --a dial fails, or so many checks--> down
//!                       ^                                        |
//!                       +------ a check works, or a dial --------+
//! ```
//!
//! The order is that of the configuration: targets that are not down come first, and
//! those that are down are still tried after them, because a check may be wrong. Without
//! checks a target that failed is looked at after a pause that grows with every
//! look, so that connections need not find out for themselves. The number of connections
//! that failed meanwhile says nothing more, and an attempt that began before a target came
//! up says nothing about it any more.

use std::time::{Duration, Instant};

/// Pause before a target that failed is probed; it doubles up to [`HealthRules::longest_pause`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Checks in a row that have to fail before a target is down. One that works is
/// enough for it to be up again.
const FALL: u32 = 2;

/// Time after the return of a target from which on a failure counts as the first again.
const CALM: Duration = Duration::from_secs(60);

/// Rules for the health of targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthRules {
    /// Time between two checks; `None` looks at targets only while they are down.
    pub every: Option<Duration>,
    /// The longest pause without checks.
    pub longest_pause: Duration,
}

/// State of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing was tried yet; as good as up.
    Unknown,
    /// It works.
    Up,
    /// It does not work.
    Down,
}

impl State {
    /// Returns its name for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// Health of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthState {
    /// Its state.
    pub state: State,
    /// Beginning of that state.
    pub since: Instant,
    /// Detail of its last failure; kept when it is up again.
    pub last_error: Option<String>,
    /// Checks that failed in a row while it was not down.
    failed_checks: u32,
    /// Number of falls without a calm period between them, and of looks that found it down.
    failures: u32,
}

/// A change of state that is worth a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It is down now.
    Down,
    /// It is up again after this time.
    Up(Duration),
}

/// Health of all targets of a service, by their place in the configuration.
#[derive(Debug)]
pub struct HealthTable {
    rules: HealthRules,
    all: Vec<HealthState>,
}

/// Times of an attempt to connect.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Its beginning.
    pub began: Instant,
    /// Its end.
    pub ended: Instant,
}

impl HealthTable {
    /// Creates a table of `count` targets in an unknown state.
    pub fn new(count: usize, rules: HealthRules, now: Instant) -> Self {
        let new = HealthState {
            state: State::Unknown,
            since: now,
            last_error: None,
            failed_checks: 0,
            failures: 0,
        };
        Self { rules, all: vec![new; count] }
    }

    /// Returns all of them, in the order in which a connection tries them.
    pub fn order(&self) -> Vec<usize> {
        let (mut order, down): (Vec<_>, Vec<_>) =
            (0..self.all.len()).partition(|&i| self.all[i].state != State::Down);
        order.extend(down);
        order
    }

    /// Returns the target that connections get now; `None` when all are down.
    pub fn in_use(&self) -> Option<usize> {
        self.all.iter().position(|health| health.state != State::Down)
    }

    /// Returns the health of each.
    pub fn all(&self) -> &[HealthState] {
        &self.all
    }

    /// Notes that a connection succeeded. Results of checks take precedence.
    pub fn succeeded(&mut self, target: usize, now: Instant) -> Option<Transition> {
        if self.rules.every.is_some() { None } else { self.rise(target, now) }
    }

    /// Notes that a connection failed.
    pub fn failed(&mut self, target: usize, error: &str, attempt: Attempt) -> Option<Transition> {
        let health = &mut self.all[target];
        if health.state == State::Up && attempt.began < health.since {
            return None;
        }
        health.last_error = Some(error.to_owned());
        self.fall(target, attempt.ended)
    }

    /// Notes the result of a check, or of a look at a target that is down.
    pub fn checked(
        &mut self,
        target: usize,
        found: Result<(), &str>,
        now: Instant,
    ) -> Option<Transition> {
        let health = &mut self.all[target];
        let Err(error) = found else {
            health.failed_checks = 0;
            return self.rise(target, now);
        };
        health.last_error = Some(error.to_owned());
        if health.state == State::Down {
            health.failures = health.failures.saturating_add(1);
            return None;
        }
        health.failed_checks += 1;
        if health.failed_checks < FALL { None } else { self.fall(target, now) }
    }

    /// Returns the time until the next check or look; `None` while there is no need for one.
    pub fn pause(&self, target: usize) -> Option<Duration> {
        let HealthState { state, failures, .. } = self.all[target];
        match (self.rules.every, state) {
            (Some(every), _) => Some(every),
            (None, State::Down) => {
                let doubled = FIRST_PAUSE * 2_u32.pow(failures.saturating_sub(1).min(16));
                Some(doubled.min(self.rules.longest_pause))
            }
            (None, _) => None,
        }
    }

    fn rise(&mut self, target: usize, now: Instant) -> Option<Transition> {
        let health = &mut self.all[target];
        let was = health.state;
        if was == State::Up {
            return None;
        }
        let after = now.saturating_duration_since(health.since);
        health.state = State::Up;
        health.since = now;
        (was == State::Down).then_some(Transition::Up(after))
    }

    fn fall(&mut self, target: usize, now: Instant) -> Option<Transition> {
        let health = &mut self.all[target];
        if health.state == State::Down {
            return None;
        }
        let is_calm = now.saturating_duration_since(health.since) >= CALM;
        health.failures = if is_calm { 1 } else { health.failures.saturating_add(1) };
        health.state = State::Down;
        health.since = now;
        health.failed_checks = 0;
        Some(Transition::Down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNCHECKED: HealthRules =
        HealthRules { every: None, longest_pause: Duration::from_secs(5) };
    const CHECKED: HealthRules = HealthRules { every: Some(Duration::from_secs(5)), ..UNCHECKED };

    impl HealthTable {
        /// A connection failed as soon as it began.
        fn failed_at(&mut self, target: usize, error: &str, now: Instant) -> Option<Transition> {
            self.failed(target, error, Attempt { began: now, ended: now })
        }
    }

    fn during(began: Instant, ended: Instant) -> Attempt {
        Attempt { began, ended }
    }

    fn table(count: usize, rules: HealthRules) -> (HealthTable, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        (HealthTable::new(count, rules, start), move |s| start + Duration::from_secs(s))
    }

    #[test]
    fn the_order_is_that_of_the_configuration_with_the_down_ones_last() {
        let (mut three, at) = table(3, UNCHECKED);
        assert_eq!(three.order(), [0, 1, 2]);
        assert_eq!(three.failed_at(0, "refused", at(1)), Some(Transition::Down));
        assert_eq!((three.order(), three.in_use()), (vec![1, 2, 0], Some(1)));
        three.failed_at(2, "refused", at(2));
        assert_eq!(three.order(), [1, 0, 2]);
        three.failed_at(1, "refused", at(3));
        assert_eq!((three.order(), three.in_use()), (vec![0, 1, 2], None), "tried all the same");
        assert_eq!(three.succeeded(1, at(9)), Some(Transition::Up(Duration::from_secs(6))));
        assert_eq!(three.order(), [1, 0, 2]);
    }

    #[test]
    fn news_come_once() {
        let (mut one, at) = table(1, UNCHECKED);
        assert_eq!(one.succeeded(0, at(0)), None, "it was not down");
        assert_eq!(one.failed_at(0, "a", at(1)), Some(Transition::Down));
        assert_eq!(one.failed_at(0, "b", at(2)), None);
        assert_eq!(one.checked(0, Err("c"), at(3)), None);
        assert_eq!(one.all()[0].last_error.as_deref(), Some("c"));
        assert_eq!(one.all()[0].since, at(1));
        assert!(matches!(one.checked(0, Ok(()), at(4)), Some(Transition::Up(_))));
        assert_eq!(one.succeeded(0, at(5)), None);
    }

    #[test]
    fn the_pause_grows_while_it_fails_and_is_short_again_after_a_calm_time() {
        let (mut one, at) = table(1, UNCHECKED);
        let pause = |one: &HealthTable| one.pause(0).map(|pause| pause.as_secs());
        assert_eq!(pause(&one), None, "there is no need");
        one.failed_at(0, "", at(0));
        assert_eq!(pause(&one), Some(1));
        let pauses: Vec<_> = (1..6)
            .map(|s| {
                one.checked(0, Err(""), at(s));
                pause(&one).unwrap()
            })
            .collect();
        assert_eq!(pauses, [2, 4, 5, 5, 5]);
        // It answers every look, and fails every connection.
        one.checked(0, Ok(()), at(10));
        assert_eq!(pause(&one), None);
        one.failed_at(0, "", at(11));
        assert_eq!(pause(&one), Some(5), "not at once again");
        one.checked(0, Ok(()), at(20));
        one.failed_at(0, "", at(20) + CALM);
        assert_eq!(pause(&one), Some(1));
    }

    /// A target that dies under load fails many connections at once, and is probed soon.
    #[test]
    fn the_pause_does_not_grow_with_the_connections_that_fail() {
        let (mut one, at) = table(1, UNCHECKED);
        for _ in 0..50 {
            one.failed_at(0, "reset", at(0));
        }
        assert_eq!(one.pause(0), Some(Duration::from_secs(1)));
        one.checked(0, Err(""), at(1));
        assert_eq!(one.pause(0), Some(Duration::from_secs(2)));
    }

    #[test]
    fn what_began_before_a_target_came_up_does_not_undo_that() {
        for rules in [UNCHECKED, CHECKED] {
            let (mut one, at) = table(1, rules);
            one.failed_at(0, "refused", at(1));
            assert!(one.checked(0, Ok(()), at(5)).is_some());
            assert_eq!(one.failed(0, "no answer in time", during(at(4), at(9))), None);
            assert_eq!((one.all()[0].state, one.in_use()), (State::Up, Some(0)));
            assert_eq!(one.all()[0].last_error.as_deref(), Some("refused"));
            assert_eq!(one.failed(0, "refused", during(at(5), at(9))), Some(Transition::Down));
        }
    }

    #[test]
    fn checks_fall_after_two_and_rise_after_one() {
        let (mut one, at) = table(1, CHECKED);
        let steps = [
            (Ok(()), None, State::Up),
            (Err("a"), None, State::Up),
            (Ok(()), None, State::Up),
            (Err("b"), None, State::Up),
            (Err("c"), Some(Transition::Down), State::Down),
            (Err("d"), None, State::Down),
            (Ok(()), Some(Transition::Up(Duration::from_secs(2))), State::Up),
        ];
        for (second, (found, news, state)) in steps.into_iter().enumerate() {
            assert_eq!(one.checked(0, found, at(second as u64)), news, "{second}");
            assert_eq!(one.all()[0].state, state, "{second}");
            assert_eq!(one.pause(0), CHECKED.every);
        }
    }

    #[test]
    fn one_that_never_worked_falls_after_two_checks_too() {
        let (mut one, at) = table(1, CHECKED);
        assert_eq!(one.checked(0, Err("a"), at(0)), None);
        assert_eq!(one.in_use(), Some(0), "unknown is as good as up");
        assert_eq!(one.checked(0, Err("a"), at(1)), Some(Transition::Down));
    }

    #[test]
    fn a_connection_that_works_does_not_overrule_a_check_but_one_that_fails_does() {
        let (mut one, at) = table(1, CHECKED);
        one.checked(0, Ok(()), at(0));
        assert_eq!(one.failed_at(0, "refused", at(1)), Some(Transition::Down), "at once");
        assert_eq!(one.succeeded(0, at(2)), None, "Redis accepts while it loads");
        assert_eq!(one.all()[0].state, State::Down);
        assert!(one.checked(0, Ok(()), at(5)).is_some());
    }

    /// After any sequence of events: the order has each target once, those that are down behind all
    /// others, and the transitions of one target alternate between down and up.
    #[test]
    fn random_histories_keep_their_promises() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..200 {
            let rules = if round % 2 == 0 { CHECKED } else { UNCHECKED };
            let (mut all, at) = table(1 + round % 5, rules);
            let mut down = vec![false; all.all().len()];
            for second in 0..300 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let target = (state >> 40) as usize % down.len();
                let news = match state >> 62 {
                    0 => all.succeeded(target, at(second)),
                    1 => all.failed_at(target, "x", at(second)),
                    2 => all.checked(target, Ok(()), at(second)),
                    _ => all.checked(target, Err("x"), at(second)),
                };
                if let Some(news) = news {
                    assert_eq!(news == Transition::Down, !down[target], "{round} {second}");
                    down[target] = !down[target];
                }
                let order = all.order();
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..down.len()).collect::<Vec<_>>());
                let states: Vec<_> = order.iter().map(|&i| down[i]).collect();
                assert!(states.is_sorted(), "{states:?}");
                assert!(down.iter().zip(all.all()).all(|(d, s)| *d == (s.state == State::Down)));
            }
        }
    }
}
