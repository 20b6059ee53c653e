//! Warm tunnels: the handshake is done, the far end knows that this end is live, and no target is
//! connected yet. A client that gets one waits no round trip for the tunnel; its target is dialled
//! only then.
//!
//! ```text
//!   dial -> shake hands -> Confirm -> in the pool -> taken for a client -> Open
//!                                         |
//!                                         +-> replaced before the far end ends it
//! ```
//!
//! A pool backs off: when the far end is unreachable or wants no more tunnels, it tries less and
//! less often, and clients dial for themselves. `warm` and `warm_or_new` handle a tunnel once a
//! client has taken it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::pool_state::{IdleTunnels, PoolLevel, RefillBackoff, Removed};
use super::warm::Warm;
use crate::observe::metrics::PoolMeters;
use crate::reason::CloseReason;
use crate::tasks::Panicked;
use crate::upstream::ConnectFailure;

/// Tunnels that are made at once: enough to follow a burst of clients, and few compared with the
/// far end's handshake slots.
pub(super) const AT_ONCE: usize = 8;

/// Time to finish the tunnels that are being made when the pool is closed.
const LAST_TUNNELS: Duration = Duration::from_secs(1);

const TOO_MANY: &str =
    "the far end keeps no more unopened tunnels; raise --max-unopened there, or lower --pool here";

const ENDED: &str =
    "the far end ended a warm tunnel; nothing to do if it was restarted, else see its log";

const HARMED: &str = "before any client used it, it received what no far end sends; check who is on the path, and the \
     log and the version of the far end";

/// The warm tunnels of an encrypt end.
pub(super) struct Pool {
    size: AtomicUsize,
    /// The tunnel's name, for the log.
    tunnel: Option<Arc<str>>,
    idle: Mutex<IdleTunnels<Warm>>,
    taken: Notify,
    /// The far end could not be reached, so that a client's success shortens the pause.
    is_away: AtomicBool,
    /// Notified when a client's own dial succeeded meanwhile.
    dial_succeeded: Notify,
    /// Notified when the size changed.
    resized: Notify,
    meters: PoolMeters,
    /// Tasks in which tunnels are closed; no other task waits for them.
    closing: TaskTracker,
}

/// Work of a pool: its tunnels that are being made, and the back-off.
struct Work {
    making: JoinSet<Result<Warm, ConnectFailure>>,
    backoff: RefillBackoff,
}

/// Returns true for a reason with which no working far end ends a tunnel.
fn is_harm(reason: CloseReason) -> bool {
    matches!(reason, CloseReason::BadRecord | CloseReason::ProtocolError)
}

// === impl Pool ===

impl Pool {
    /// Creates an empty pool for `size` tunnels; with size zero it stays empty.
    pub(super) fn new(
        size: usize,
        tunnel: Option<Arc<str>>,
        meters: PoolMeters,
        closing: TaskTracker,
    ) -> Self {
        Self {
            size: AtomicUsize::new(size),
            tunnel,
            idle: Mutex::default(),
            taken: Notify::new(),
            is_away: AtomicBool::new(false),
            dial_succeeded: Notify::new(),
            resized: Notify::new(),
            meters,
            closing,
        }
    }

    /// Changes the size. Surplus tunnels are closed.
    pub(super) fn set_size(&self, size: usize) {
        self.size.store(size, Ordering::Relaxed);
        self.resized.notify_one();
    }

    fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Takes a tunnel to a far end that is `wanted` and has not hung up, as far as this host knows.
    /// Tunnels that are passed over are closed.
    pub(super) fn take(&self, wanted: impl Fn(usize) -> bool) -> Option<Warm> {
        let warm = loop {
            let next = self.idle().take();
            match next {
                // The far end has ended it, or is about to.
                Some(mut warm) if !warm.is_idle() => {
                    let reason = warm.reason_to_end();
                    self.end(warm, reason);
                }
                Some(warm) if !wanted(warm.far_end) => self.let_go([warm]),
                other => break other,
            }
        };
        match warm {
            Some(_) => self.meters.taken.inc(),
            None if self.size() > 0 => self.meters.missed.inc(),
            None => return None,
        };
        self.taken.notify_one();
        warm
    }

    /// Closes the tunnels to this far end that were made before `since`, when one was sent Open and
    /// got no answer: otherwise each would cost a client the time to find that out.
    pub(super) fn distrust(&self, far_end: usize, since: Instant) {
        let before = self.idle().older(since, |warm| warm.far_end == far_end);
        debug!(tunnels = before.len(), "closing warm tunnels older than a dead one");
        self.meters.failed.inc_by(1 + before.len() as u64);
        self.let_go(before);
        self.taken.notify_one();
    }

    /// Notes that the far end answered a client that dialled for itself: it is reachable. Wakes the
    /// pool only if that is news: it runs on another thread, and waking that for every client is a
    /// good part of what a connection costs.
    pub(super) fn dial_succeeded(&self) {
        if self.is_away.load(Ordering::Relaxed) {
            self.dial_succeeded.notify_one();
        }
    }

    /// Keeps the pool full with the tunnels that `make` makes until `stop`, and closes all of them
    /// then, also those that are still being made, once they are complete: a far end counts a
    /// handshake that breaks off as a stranger's.
    pub(super) async fn keep<F>(&self, make: impl Fn() -> F, stop: impl Future<Output = ()>)
    where
        F: Future<Output = Result<Warm, ConnectFailure>> + Send + 'static,
    {
        let mut work = Work::new();
        let mut stop = pin!(stop);
        loop {
            let next = self.fill(&mut work, Instant::now(), &make);
            self.is_away.store(work.backoff.is_away(), Ordering::Relaxed);
            tokio::select! {
                () = &mut stop => break,
                Some(made) = work.making.join_next() => match made {
                    Ok(Ok(warm)) => self.put(warm, &mut work),
                    Ok(Err(ConnectFailure { reason, detail })) => self.failed(&mut work, reason, &detail),
                    // The pool must run as long as the tunnel does.
                    Err(_) => {
                        let detail = Panicked.to_string();
                        self.failed(&mut work, CloseReason::LocalError, &detail);
                    }
                },
                ended = poll_fn(|cx| self.poll_ended(cx)) => self.ended(ended, &mut work),
                () = self.taken.notified() => {}
                () = self.resized.notified() => {}
                () = self.dial_succeeded.notified() => work.backoff.dial_succeeded(Instant::now()),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
        self.close();
        let last = async {
            while let Some(made) = work.making.join_next().await {
                self.let_go(made.ok().and_then(Result::ok));
            }
        };
        let _ = timeout(LAST_TUNNELS, last).await;
    }

    /// Closes tunnels that are too old, and begins to make missing ones. Returns the time of the
    /// next such step.
    fn fill<F>(&self, work: &mut Work, now: Instant, make: impl Fn() -> F) -> Option<Instant>
    where
        F: Future<Output = Result<Warm, ConnectFailure>> + Send + 'static,
    {
        let size = self.size();
        let outdated = self.idle().outdated(now);
        self.let_go(outdated);
        let too_many = self.idle().trim(size);
        self.let_go(too_many);
        let fresh = self.idle().fresh(now);
        if work.backoff.recovered(fresh >= size, now) {
            let tunnel = self.tunnel.as_deref();
            info!(tunnel, tunnels = size, "pool back at target size");
        }
        let missing = size.saturating_sub(fresh + work.making.len());
        let may_make = work.backoff.at_once(now, AT_ONCE).saturating_sub(work.making.len());
        for _ in 0..missing.min(may_make) {
            work.making.spawn(make());
        }
        let retry =
            if missing > 0 { work.backoff.next_after(now) } else { work.backoff.settled(now) };
        [self.idle().next_after(now), retry].into_iter().flatten().min()
    }

    /// Notes that a tunnel could not be made, or was ended.
    fn failed(&self, work: &mut Work, reason: CloseReason, detail: &str) {
        self.meters.failed.inc();
        work.failed(reason, detail, self);
    }

    /// Returns the number of tunnels that are ready, and the size.
    pub(super) fn warm(&self) -> PoolLevel {
        PoolLevel { ready: self.idle().len(), size: self.size() }
    }

    /// Closes all tunnels.
    fn close(&self) {
        while let Some(warm) = { self.idle().take() } {
            self.let_go([warm]);
        }
    }

    fn let_go(&self, tunnels: impl IntoIterator<Item = Warm>) {
        for warm in tunnels {
            self.closing.spawn(warm.let_go());
        }
    }

    fn put(&self, warm: Warm, work: &mut Work) {
        let replaced = self.idle().put(warm, Instant::now(), self.size());
        self.let_go(replaced);
        work.backoff.succeeded();
        debug!("warm tunnel ready");
    }

    /// Handles the end of an idle tunnel. It is no failure if the far end ended it on purpose, and
    /// said so.
    fn ended(&self, removed: Removed<Warm, CloseReason>, work: &mut Work) {
        let Removed { tunnel: warm, answer: reason, age } = removed;
        self.end(warm, reason);
        let on_purpose = matches!(reason, CloseReason::PeerShutdown | CloseReason::Unopened);
        if on_purpose && work.backoff.let_go(Instant::now(), age) {
            debug!(%reason, "far end closed a warm tunnel");
            return;
        }
        self.failed(work, reason, if is_harm(reason) { HARMED } else { ENDED });
    }

    /// Ends a tunnel that the far end has ended, or that received bytes that are not allowed.
    fn end(&self, warm: Warm, reason: CloseReason) {
        self.warn_of_harm(reason);
        self.closing.spawn(warm.reset(reason));
    }

    /// Logs, each time, that a tunnel without a client received bytes that are not allowed: the far
    /// end is reachable but broken, or a third host is on the path.
    pub(super) fn warn_of_harm(&self, reason: CloseReason) {
        if is_harm(reason) {
            let tunnel = self.tunnel.as_deref();
            warn!(tunnel, %reason, detail = HARMED, "warm tunnel broken");
        }
    }

    /// Removes a tunnel that the far end has ended, and returns the reason.
    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Removed<Warm, CloseReason>> {
        let ended = self.idle().remove_first(Instant::now(), |warm| match warm.poll_ended(cx) {
            Poll::Ready(reason) => Some(reason),
            Poll::Pending => None,
        });
        ended.map_or(Poll::Pending, Poll::Ready)
    }

    fn idle(&self) -> MutexGuard<'_, IdleTunnels<Warm>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Work ===

impl Work {
    fn new() -> Self {
        Self { making: JoinSet::new(), backoff: RefillBackoff::new(Instant::now()) }
    }

    fn failed(&mut self, reason: CloseReason, detail: &str, pool: &Pool) {
        debug!(%reason, detail, "no warm tunnel");
        let is_away = reason != CloseReason::LimitReached;
        if self.backoff.failed(Instant::now(), is_away) {
            let detail = if is_away { detail } else { TOO_MANY };
            let tunnel = pool.tunnel.as_deref();
            warn!(tunnel, %reason, detail, "pool below target size; clients dial directly meanwhile");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// The pool must run as long as its tunnel does.
    #[tokio::test(start_paused = true)]
    async fn a_panic_in_the_making_is_a_failure_and_not_the_end_of_the_pool() {
        let meters = PoolMeters::default();
        let pool = Pool::new(3, None, meters.clone(), TaskTracker::new());
        let stop = sleep(Duration::from_secs(600));
        pool.keep(|| async { panic!("a mistake, made on purpose") }, stop).await;
        assert!((10..200).contains(&meters.failed.get()), "{}", meters.failed.get());
    }
}
