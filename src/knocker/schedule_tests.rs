//! Simulated time: a host that sleeps, moves, loses its network, is killed; and a server that
//! grants, or is away.

use super::*;

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Time of a grant.
const LASTING: i64 = 60 * SECOND;

/// Interval at which the sender looks at its clocks.
const TICK: i64 = SECOND;

/// Time that a datagram takes.
const WAY: i64 = 200;

/// Random numbers that every run has again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A host with its sender, and a server.
struct World {
    schedule: Schedule,
    now_ms: i64,
    asleep_ms: i64,
    random: Random,
    /// A send fails on this host.
    is_offline: bool,
    /// The server gets nothing, and the sender notices (`--wait-for`).
    is_away: bool,
    /// The last datagram was lost.
    has_lost: bool,
    /// End of the grant.
    until_ms: i64,
    sends: u64,
    attempts: u64,
    lapses: Vec<i64>,
    last: Option<KnockReason>,
}

impl World {
    fn new() -> Self {
        let start = Moment { since_boot_ms: 0, awake_ms: 0 };
        Self {
            schedule: Schedule::new(Duration::from_millis(LASTING as u64), start),
            now_ms: 0,
            asleep_ms: 0,
            random: Random(7),
            is_offline: false,
            is_away: false,
            has_lost: false,
            until_ms: 0,
            sends: 0,
            attempts: 0,
            lapses: vec![],
            last: None,
        }
    }

    fn now(&self) -> Moment {
        Moment { since_boot_ms: self.now_ms, awake_ms: self.now_ms - self.asleep_ms }
    }

    /// Lets one in a hundred datagrams be lost, never two in a row.
    fn knock(&mut self, reason: KnockReason) {
        self.last = Some(reason);
        self.attempts += 1;
        let jitter = self.random.next();
        let now = self.now();
        if self.is_offline {
            return self.schedule.failed(now, jitter);
        }
        self.sends += 1;
        if self.is_away {
            return self.schedule.failed(now, jitter);
        }
        self.has_lost = !self.has_lost && self.random.next() < 0.01;
        if !self.has_lost {
            self.until_ms = self.now_ms + WAY + LASTING;
        }
        self.schedule.sent(now, jitter);
    }

    fn look(&mut self) {
        if let Some(reason) = self.schedule.due(self.now()) {
            self.knock(reason);
        }
    }

    /// Lives for this long. The sender also looks at its clocks in between, which changes nothing.
    fn live(&mut self, for_ms: i64) {
        let end_ms = self.now_ms + for_ms;
        while self.now_ms < end_ms {
            self.look();
            let wait_ms = self.schedule.wait(self.now()).as_millis() as i64;
            // A timer is never exact.
            let late_ms = (self.random.next() * 20.0) as i64;
            let step_ms = (wait_ms + 1 + late_ms).min(end_ms - self.now_ms);
            if !self.is_offline && !self.is_away && self.now_ms + step_ms > self.until_ms + WAY {
                self.lapses.push(self.now_ms);
                self.until_ms = i64::MAX / 2;
            }
            self.now_ms += step_ms;
        }
    }

    /// Is asleep for this long; time since boot goes on.
    fn sleep(&mut self, for_ms: i64) {
        self.now_ms += for_ms;
        self.asleep_ms += for_ms;
        self.forgiven(TICK + WAY);
    }

    /// Comes back to where grants count, after a loss that was none of the sender's faults.
    fn forgiven(&mut self, for_ms: i64) {
        self.until_ms = self.now_ms + for_ms;
        self.has_lost = true;
    }
}

#[test]
fn no_grant_lapses_in_a_thousand_days_with_lost_datagrams() {
    let mut world = World::new();
    world.live(1_000 * DAY);
    assert_eq!(world.lapses, [0_i64; 0]);
    let (most, least) = (1_000 * DAY / (LASTING * 2 / 5), 1_000 * DAY / (LASTING / 2) - 1);
    assert!((least..=most).contains(&(world.sends as i64)), "{} knocks", world.sends);
}

#[test]
fn a_server_that_is_away_causes_no_storm_and_is_found_again() {
    let mut world = World::new();
    for _ in 0..500 {
        world.live(DAY);
        world.is_away = true;
        let before = world.sends;
        world.live(DAY);
        let sent = world.sends - before;
        assert!((2_000..4_100).contains(&sent), "{sent} knocks in a day, one in 22 s or more");
        world.is_away = false;
        // The longest pause.
        world.forgiven(LASTING / 2 + TICK);
    }
    assert_eq!(world.lapses, [0_i64; 0]);
}

#[test]
fn a_host_without_a_network_tries_seldom_and_at_once_when_it_is_back() {
    let mut world = World::new();
    world.live(HOUR);
    world.is_offline = true;
    let before = world.attempts;
    world.live(30 * DAY);
    assert!(world.attempts - before < 30 * 4_100, "{}", world.attempts - before);
    world.is_offline = false;
    let now = world.now();
    world.schedule.event(KnockReason::AddressChange, now);
    world.forgiven(GAP_MS + TICK);
    world.live(DAY);
    assert_eq!(world.lapses, [0_i64; 0], "it was renewed within a second");
}

#[test]
fn the_first_failures_are_repeated_soon() {
    let mut world = World::new();
    world.is_away = true;
    world.live(10 * SECOND);
    assert_eq!(world.sends, 4, "at about 0, 1, 3 and 7 s");
}

/// Sleep, of a night or of seconds, ends with a knock within a second.
#[test]
fn a_host_that_wakes_up_knocks_at_once() {
    let mut world = World::new();
    for night in 0..1_000 {
        world.live(16 * HOUR);
        world.sleep(8 * HOUR + night);
        world.last = None;
        world.live(TICK + GAP_MS);
        // The grant had ended as well.
        assert_eq!(world.last, Some(KnockReason::Resume), "night {night}");
    }
    world.live(HOUR);
    world.sleep(2 * SECOND);
    world.last = None;
    world.live(TICK + GAP_MS);
    assert_eq!(world.last, Some(KnockReason::Resume), "a short one");
    assert_eq!(world.lapses, [0_i64; 0]);
}

/// SIGSTOP halts the process: both clocks go on, and nothing looks at them.
#[test]
fn a_process_that_was_halted_knocks_as_soon_as_it_continues() {
    let mut world = World::new();
    for pause in [LASTING / 2, LASTING, HOUR, 3 * DAY] {
        world.live(HOUR);
        world.now_ms += pause;
        world.last = None;
        world.look();
        assert_eq!(world.last, Some(KnockReason::Renewal), "after {pause} ms");
    }
}

#[test]
fn a_process_that_is_killed_and_started_again_knocks_at_once() {
    let mut world = World::new();
    for _ in 0..1_000 {
        world.live(DAY);
        world.schedule = Schedule::new(Duration::from_millis(LASTING as u64), world.now());
        world.look();
        assert_eq!(world.last, Some(KnockReason::Start));
    }
    assert_eq!(world.lapses, [0_i64; 0]);
}

#[test]
fn an_event_is_answered_at_once_and_a_flood_of_them_causes_no_storm() {
    let mut world = World::new();
    world.live(HOUR);
    let now = world.now();
    world.schedule.event(KnockReason::Request, now);
    assert!(world.schedule.wait(now) <= Duration::from_millis(GAP_MS as u64));
    world.now_ms += GAP_MS;
    world.look();
    assert_eq!(world.last, Some(KnockReason::Request));
    let before = world.sends;
    for _ in 0..HOUR / 50 {
        let now = world.now();
        world.schedule.event(KnockReason::AddressChange, now);
        world.look();
        world.now_ms += 50;
    }
    let sent = (world.sends - before) as i64;
    let most = EVENTS_AT_ONCE + HOUR / EVENT_MS + HOUR / (LASTING * 2 / 5);
    assert!((HOUR / EVENT_MS..=most).contains(&sent), "{sent} in an hour");
}

#[test]
fn an_event_that_comes_with_a_knock_that_is_due_does_not_delay_it() {
    let mut world = World::new();
    world.live(HOUR);
    world.now_ms += LASTING;
    let now = world.now();
    world.schedule.event(KnockReason::AddressChange, now);
    assert!(world.schedule.due(now).is_some());
}

#[test]
fn a_schedule_that_has_begun_renews_first() {
    let start = Moment { since_boot_ms: 5, awake_ms: 5 };
    let mut schedule = Schedule::begun(Duration::from_secs(60), start);
    assert_eq!(schedule.due(start), None);
    let later = Moment { since_boot_ms: 24_005, awake_ms: 24_005 };
    assert_eq!(schedule.due(later), Some(KnockReason::Renewal));
}

/// Neither a tiny nor a huge time is a loop or an overflow.
#[test]
fn every_time_of_a_grant_is_possible() {
    let now = Moment { since_boot_ms: 0, awake_ms: 0 };
    for lasting in [Duration::ZERO, Duration::from_millis(1), Duration::MAX] {
        let mut schedule = Schedule::new(lasting, now);
        for jitter in [0.0, 1.0] {
            schedule.sent(now, jitter);
            assert!(schedule.wait(now) >= Duration::from_millis(GAP_MS as u64), "{lasting:?}");
            for _ in 0..100 {
                schedule.failed(now, jitter);
                assert!(schedule.wait(now) >= Duration::from_millis(700), "{lasting:?}");
                assert!(schedule.wait(now) <= Duration::from_secs(300), "{lasting:?}");
            }
        }
    }
}
