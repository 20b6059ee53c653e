//! Liveness of a session: decides when this end has to send a heartbeat, whether the far end's is
//! overdue, and whether the session is idle.
//!
//! A session has no timer and reads no clock for this, because there may be many idle ones. Its
//! task notes that something passed, and one looker for all sessions checks them at intervals
//! ([`Liveness::look`]), turns the notes into times, and decides. While this end does not read,
//! because its plain side does not, silence is not judged.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use rand::RngExt;

use crate::proto::heartbeat::Heartbeats;
use crate::reason::CloseReason;

/// Heartbeats that may be missed.
const MISSED: u32 = 3;

/// Silence, in 256ths of the heartbeat interval, after which a heartbeat is sent. It is random
/// within this range, so that heartbeats of sessions that began together are spread, and below the
/// whole, so that none is late when the looker is.
const SILENCE: std::ops::Range<u8> = 154..230;

/// Number of looks in a heartbeat interval, or in an idle timeout.
const LOOKS: u32 = 32;

/// Bounds of the pause between two looks.
const PAUSE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_secs(2);

/// Verdict for the session's task: continue.
const NOTHING: u8 = 0;
const VANISHED: u8 = 1;
const IDLE: u8 = 2;

/// Liveness of a session.
#[derive(Debug, Default)]
pub struct Liveness {
    /// Milliseconds; zero is none.
    heartbeat: u32,
    /// The far end sends heartbeats, too.
    agreed: bool,
    /// Seconds; zero is for ever.
    idle_timeout: u32,
    /// Notes of the task since the last look.
    noted: Noted,
    /// Milliseconds without a sent record, as of the last look.
    unsent: AtomicU32,
    unheard: AtomicU32,
    unused: AtomicU32,
    /// Silence of this end after which a heartbeat is due, in 256ths of the interval.
    patience: AtomicU8,
    /// A heartbeat is due.
    due: AtomicBool,
    /// Reason for which the session has to end.
    verdict: AtomicU8,
}

#[derive(Debug, Default)]
struct Noted {
    sent: AtomicBool,
    heard: AtomicBool,
    used: AtomicBool,
    deaf: AtomicBool,
    mute: AtomicBool,
    /// Since the session began.
    ever_heard: AtomicBool,
}

impl Liveness {
    /// Creates the liveness state of a new session.
    pub fn new(heartbeats: Heartbeats, idle_timeout: Option<Duration>) -> Self {
        let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let heartbeat = heartbeats.own.map_or(0, |own| ms(own.time()));
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1);
        let idle_timeout = idle_timeout.map_or(0, seconds);
        let pulse = Self { heartbeat, agreed: heartbeats.agreed, idle_timeout, ..Self::default() };
        pulse.patience.store(silence(), Ordering::Relaxed);
        pulse
    }

    // === the session's task ===

    /// Notes that a record was sent.
    pub fn sent(&self) {
        self.noted.sent.store(true, Ordering::Relaxed);
        self.noted.mute.store(false, Ordering::Relaxed);
        self.due.store(false, Ordering::Relaxed);
    }

    /// Notes that nothing can be sent until a record is written, or at all after Fin. So no
    /// heartbeat is due, for which the task would be woken in vain.
    pub fn cannot_send(&self) {
        self.noted.mute.store(true, Ordering::Relaxed);
        self.due.store(false, Ordering::Relaxed);
    }

    /// Notes that an authentic record arrived, and that nothing is read until its data is written.
    pub fn reads_no_more(&self) {
        self.noted.ever_heard.store(true, Ordering::Relaxed);
        self.noted.deaf.store(true, Ordering::Relaxed);
    }

    /// Returns true if an authentic record ever arrived.
    pub fn is_heard(&self) -> bool {
        self.noted.ever_heard.load(Ordering::Relaxed)
    }

    /// Notes that the received data is written, and this end reads again.
    pub fn reads_again(&self) {
        self.noted.heard.store(true, Ordering::Relaxed);
        self.noted.deaf.store(false, Ordering::Relaxed);
    }

    /// Notes that application data passed.
    pub fn used(&self) {
        self.noted.used.store(true, Ordering::Relaxed);
    }

    /// Returns true if a heartbeat is due. It stays due until something is sent.
    pub fn is_due(&self) -> bool {
        self.due.load(Ordering::Relaxed)
    }

    /// Returns the reason for which the session has to end, if it has to.
    pub fn verdict(&self) -> Option<CloseReason> {
        match self.verdict.load(Ordering::Relaxed) {
            VANISHED => Some(CloseReason::PeerVanished),
            IDLE => Some(CloseReason::IdleTimeout),
            _ => None,
        }
    }

    // === the looker ===

    /// Returns the time until the next look; `None` where none is needed.
    pub fn pause(&self) -> Option<Duration> {
        let heartbeat = Duration::from_millis(self.heartbeat.into());
        let times = [heartbeat, Duration::from_secs(self.idle_timeout.into())];
        let shortest = times.into_iter().filter(|time| !time.is_zero()).min()?;
        Some((shortest / LOOKS).clamp(*PAUSE.start(), *PAUSE.end()))
    }

    /// Looks at the session, `ms` milliseconds after the last time. Returns true if its task has to
    /// be woken.
    pub fn look(&self, ms: u32) -> bool {
        let Noted { sent, heard, used, deaf, mute, .. } = &self.noted;
        let unsent = advance(&self.unsent, sent.swap(false, Ordering::Relaxed), ms, u32::MAX);
        let patience = u64::from(self.heartbeat) * u64::from(self.patience.load(Ordering::Relaxed));
        let may_send = self.heartbeat > 0 && !mute.load(Ordering::Relaxed);
        if may_send && u64::from(unsent) >= patience / 256 {
            self.unsent.store(0, Ordering::Relaxed);
            self.patience.store(silence(), Ordering::Relaxed);
            self.due.store(true, Ordering::Relaxed);
        }
        let hears = heard.swap(false, Ordering::Relaxed) || deaf.load(Ordering::Relaxed);
        let most_silent = self.heartbeat.saturating_mul(MISSED);
        let unheard = advance(&self.unheard, hears, ms, most_silent);
        let most_unused = self.idle_timeout.saturating_mul(1_000);
        let unused = advance(&self.unused, used.swap(false, Ordering::Relaxed), ms, most_unused);
        let is_silent = self.agreed && unheard >= most_silent;
        let is_unused = most_unused > 0 && unused >= most_unused;
        let is_over = |since: u32, most: u32| since >= most.saturating_add(self.second_look());
        if is_silent && is_over(unheard, most_silent) {
            self.verdict.store(VANISHED, Ordering::Relaxed);
        } else if is_unused && is_over(unused, most_unused) {
            self.verdict.store(IDLE, Ordering::Relaxed);
        }
        let has_ended = self.verdict.load(Ordering::Relaxed) != NOTHING;
        has_ended || is_silent || is_unused || self.due.load(Ordering::Relaxed)
    }

    /// Returns the time that the task has, after a look that found it silent or idle for too long,
    /// to read bytes that have arrived already.
    fn second_look(&self) -> u32 {
        self.pause().map_or(0, |pause| u32::try_from(pause.as_millis()).unwrap_or(u32::MAX))
    }
}

/// Returns the silence of this end after which a heartbeat is due, at random each time.
pub fn patience(heartbeat: Duration) -> Duration {
    heartbeat.mul_f64(f64::from(silence()) / 256.0)
}

fn silence() -> u8 {
    rand::rng().random_range(SILENCE)
}

/// Adds to the time since something was noted. A late look, as after a halt of this process, counts
/// no more than `most` where the one before found less: bytes that arrived meanwhile may not be
/// read yet, and count if the task reads them until a later look.
fn advance(since: &AtomicU32, noted: bool, ms: u32, most: u32) -> u32 {
    let before = since.load(Ordering::Relaxed);
    let now = match before.saturating_add(ms) {
        _ if noted => 0,
        now if before < most => now.min(most),
        now => now,
    };
    since.store(now, Ordering::Relaxed);
    now
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::heartbeat::Heartbeat;

    /// Creates a pulse with a heartbeat of a second.
    fn pulse(agreed: bool, idle_timeout: Option<Duration>) -> Liveness {
        let own = Heartbeat::every(Duration::from_secs(1));
        Liveness::new(Heartbeats { own, agreed }, idle_timeout)
    }

    /// Returns the milliseconds until `said` is true; `noted` is called before each look.
    fn until(pulse: &Liveness, noted: impl Fn(&Liveness), said: impl Fn(&Liveness) -> bool) -> u32 {
        for time in (50..=60_000).step_by(50) {
            noted(pulse);
            let comes = pulse.look(50);
            if said(pulse) {
                assert!(comes, "the task is waked for it");
                return time;
            }
        }
        u32::MAX
    }

    fn vanished(pulse: &Liveness) -> bool {
        pulse.verdict() == Some(CloseReason::PeerVanished)
    }

    #[test]
    fn a_sign_of_life_is_due_before_a_heartbeat_is_over_and_not_always_at_the_same_time() {
        let pulse = pulse(false, None);
        let mut times = vec![];
        for _ in 0..100 {
            times.push(until(&pulse, |_| {}, Liveness::is_due));
            pulse.sent();
        }
        assert!(times.iter().all(|time| (600..1_000).contains(time)), "{times:?}");
        times.dedup();
        assert!(times.len() > 10, "{times:?}");
        assert_eq!(until(&pulse, Liveness::sent, Liveness::is_due), u32::MAX, "not while it sends");
    }

    #[test]
    fn a_far_end_that_misses_three_has_vanished_and_one_that_announced_none_never_has() {
        assert_eq!(until(&pulse(true, None), |_| {}, vanished), 3_050);
        assert_eq!(until(&pulse(false, None), |_| {}, vanished), u32::MAX);
        assert_eq!(until(&pulse(true, None), Liveness::reads_again, vanished), u32::MAX);
    }

    #[test]
    fn silence_means_nothing_while_nothing_is_read() {
        let stalled = pulse(true, None);
        stalled.reads_no_more();
        assert_eq!(until(&stalled, |_| {}, vanished), u32::MAX);
        stalled.reads_again();
        assert_eq!(until(&stalled, |_| {}, vanished), 3_100, "from then on");
    }

    /// The case of a process that was stopped, or a machine that slept: "An end that was halted
    /// first reads what is there", however soon the next look is.
    #[test]
    fn bytes_from_a_halt_are_read_before_a_far_end_counts_as_vanished() {
        let two = Some(Duration::from_secs(2));
        for (name, halted) in [("silent", pulse(true, None)), ("unused", pulse(false, two))] {
            assert!(halted.look(3_600_000) && halted.verdict().is_none(), "{name}: is to read");
            // A new session makes the looker come earlier.
            for _ in 0..100 {
                assert!(halted.look(0) && halted.verdict().is_none(), "{name}");
            }
            assert!(halted.look(49) && halted.verdict().is_none(), "{name}");
            halted.reads_again();
            halted.used();
            halted.look(50);
            assert_eq!(halted.verdict(), None, "{name}");
            halted.look(3_600_000);
            halted.look(50);
            assert!(halted.verdict().is_some(), "{name}: nothing was there");
        }
    }

    #[test]
    fn no_task_is_waked_for_a_sign_of_life_that_it_cannot_give() {
        let pulse = pulse(false, None);
        assert_ne!(until(&pulse, |_| {}, Liveness::is_due), u32::MAX);
        // A record that the far end does not accept, or Fin.
        pulse.cannot_send();
        assert!((0..1_000).all(|_| !pulse.look(50)) && !pulse.is_due());
        pulse.sent();
        assert_ne!(until(&pulse, |_| {}, Liveness::is_due), u32::MAX, "where it can again");
    }

    #[test]
    fn signs_of_life_are_no_use() {
        let is_idle = |pulse: &Liveness| pulse.verdict() == Some(CloseReason::IdleTimeout);
        let two = Some(Duration::from_secs(2));
        let alive = |pulse: &Liveness| {
            pulse.sent();
            pulse.reads_again();
        };
        assert_eq!(until(&pulse(true, two), alive, is_idle), 2_050);
        assert_eq!(until(&pulse(true, two), Liveness::used, is_idle), u32::MAX);
        assert_eq!(until(&pulse(true, None), alive, is_idle), u32::MAX);
    }

    #[test]
    fn looks_are_as_frequent_as_the_shortest_time_needs() {
        let off = |idle| Liveness::new(Heartbeats::default(), idle).pause();
        assert_eq!(off(None), None);
        assert_eq!(off(Some(Duration::from_secs(16))), Some(Duration::from_millis(500)));
        assert_eq!(off(Some(Duration::from_secs(86_400))), Some(*PAUSE.end()));
        assert_eq!(pulse(true, None).pause(), Some(*PAUSE.start()));
    }
}
